// The pictures of the inspector: what is drawn, where the mouse is, and the metres under it. No
// kernel is asked here.
function h(tag, attributes = {}, ...children) {
  const el = document.createElement(tag);
  for (const [k, v] of Object.entries(attributes)) {
    if (k.startsWith("on")) el.addEventListener(k.slice(2), v);
    else if (v === true) el.setAttribute(k, "");
    else if (v !== false && v !== null && v !== undefined) el.setAttribute(k, v);
  }
  el.append(...children.filter((c) => c !== null && c !== undefined));
  return el;
}

const number = (x, digits, sign) =>
  !Number.isFinite(x) ? "none" : (sign && x >= 0 ? "+" : "") + x.toFixed(digits);
const metre = (x, sign) => (Number.isFinite(x) ? `${number(x, 3, sign)} m` : "none");

class Panels {
  $(name) {
    return this.root.querySelector(`[data-name="${name}"]`);
  }

  models() {
    if (!this.shot?.width) return [];
    const { first, second } = this.view,
      there = this.shot.preds.map((p) => p.name);
    return [...new Set([first ?? there[0], second])].filter(
      (n) => n && this.setup.models.includes(n),
    );
  }

  limits() {
    return this.view.fit || !this.view.limits ? (this.shot?.limits ?? [0, 1]) : this.view.limits;
  }
  reach() {
    return this.view.fit || !this.view.reach ? (this.shot?.reach ?? 1) : this.view.reach;
  }

  name(key) {
    return key === "rgb"
      ? "picture"
      : key === "truth"
        ? "truth"
        : key.startsWith("err:")
          ? `${key.slice(4)} − truth`
          : key.slice(5);
  }

  sources() {
    const truth = this.shot.blind ? [] : ["truth"];
    return [
      "rgb",
      ...truth,
      ...this.models().flatMap((n) => [`pred:${n}`, ...(this.shot.blind ? [] : [`err:${n}`])]),
    ];
  }

  depths() {
    // what has a depth of its own: for the plots and the cloud
    return [...(this.shot.blind ? [] : ["truth"]), ...this.models().map((n) => `pred:${n}`)].filter(
      (k) => this.shot.maps[k],
    );
  }

  columns(n, width) {
    return Math.min(n, width < 620 ? 2 : n === 6 ? 3 : n === 4 && width < 1100 ? 2 : 4);
  }

  build(plots = true) {
    // the panels of this layout
    if (!this.setup || !this.shot) return;
    const stage = this.$("stage"),
      { layout } = this.view,
      s = this.shot;
    this.$("swipe-controls").hidden = layout !== "swipe";
    this.$("cloud-controls").hidden = layout !== "cloud";
    this.$("mouse").hidden = layout === "scenes";
    this.$("tool").hidden = layout === "cloud";
    for (const name of ["table", "readout", "caption"]) this.$(name).hidden = layout === "scenes";
    this.$("about").hidden = layout !== "scenes";
    this.$("low").value = this.limits()[0].toFixed(2);
    this.$("high").value = this.limits()[1].toFixed(2);
    if (this.$("reach")) this.$("reach").value = this.reach().toFixed(2);
    this.summaries();
    if (layout === "scenes") return this.overview(stage);
    if (!s.width) {
      this.built = null;
      this.drop();
      stage.replaceChildren();
      return this.plots();
    }
    const keys = layout === "swipe" ? ["swipe"] : layout === "cloud" ? ["cloud"] : this.sources();
    if (layout === "swipe") this.swipes();
    const built = [layout, ...keys].join("|");
    if (this.built !== built) {
      this.built = built;
      this.drop();
      stage.className = `sd-stage sd-${layout}`;
      stage.replaceChildren(...keys.map((k) => this.panel(k)), this.bars());
    }
    if (layout === "cloud") this.fillCloud();
    this.paint(true, plots);
  }

  drop() {
    // browsers allow only a few WebGL contexts
    this.cloud?.drop();
    this.cloud = null;
  }

  panel(key) {
    const title = key === "swipe" || key === "cloud" ? "" : this.name(key);
    const canvas = h("canvas", { "data-key": key, role: "img", "aria-label": title });
    const figure = h(
      "figure",
      { class: "sd-panel" },
      h("figcaption", { title }, title),
      canvas,
      h("div", { class: "sd-value", "aria-hidden": "true" }),
    );
    if (key === "cloud") {
      canvas.classList.add("sd-cloud-canvas");
      this.cloud = new Cloud(canvas);
      if (!this.cloud.works)
        this.say({ text: "This browser shows no WebGL, so there is no 3-D cloud." });
      this.orbiting(canvas);
    } else this.pointing(canvas);
    return figure;
  }

  bars() {
    return h(
      "div",
      { class: "sd-bars" },
      h("canvas", { "data-name": "depth-bar", class: "sd-bar", role: "img" }),
      this.setup.error_maps.length && this.setup.models.length
        ? h("canvas", { "data-name": "error-bar", class: "sd-bar", role: "img" })
        : null,
    );
  }

  swipes() {
    const keys = this.sources(),
      there = (k, other) => (keys.includes(k) ? k : other);
    const left = there(this.view.left, "rgb"),
      right = there(this.view.right, keys.find((k) => k.startsWith("pred:")) ?? "truth");
    for (const [name, chosen] of [
      ["left", left],
      ["right", right],
    ])
      this.$(name).replaceChildren(...keys.map((k) => this.option(k, this.name(k), chosen)));
    this.pair = [left, right];
  }

  // ---- painting
  picture(key) {
    // native size, in colour
    const v = this.view,
      s = this.shot;
    if (this.painted[key]) return this.painted[key];
    let words;
    if (key === "rgb") words = rgbWords(s.rgb, s.width * s.height);
    else {
      const error = key.startsWith("err:"),
        metres = s.maps[key] ?? new Float32Array(s.width * s.height).fill(NaN);
      const limits = error ? [-this.reach(), this.reach()] : this.limits();
      words = error
        ? colourise(metres, s.keep[key], limits, this.luts[v.error_cmap])
        : colourise(metres, null, limits, this.luts[v.cmap], { scale: v.scale, invert: v.invert });
    }
    return (this.painted[key] = toCanvas(words, s.width, s.height));
  }

  drawPicture(ctx, key, w, hh, clip = null) {
    const s = this.shot,
      z = this.zoom,
      sw = s.width / z.k,
      sh = s.height / z.k;
    ctx.save();
    if (clip) {
      ctx.beginPath();
      ctx.rect(clip[0], 0, clip[1], hh);
      ctx.clip();
    }
    // Stripes are seen where there is no depth; they have one width at every zoom.
    if (key !== "rgb") fillStripes(ctx, 0, 0, w, hh);
    ctx.imageSmoothingEnabled = key === "rgb" && w > 0 && sw / w > 1;
    ctx.drawImage(
      this.picture(key),
      z.x * s.width - sw / 2,
      z.y * s.height - sh / 2,
      sw,
      sh,
      0,
      0,
      w,
      hh,
    );
    ctx.restore();
  }

  toPage(u, v, w, hh) {
    // the middle of a pixel, on the panel
    const s = this.shot,
      z = this.zoom;
    return [
      ((u + 0.5) / s.width - z.x) * z.k * w + w / 2,
      ((v + 0.5) / s.height - z.y) * z.k * hh + hh / 2,
    ];
  }

  paintPanel(ctx, key, w, hh) {
    if (key === "swipe") this.paintSwipe(ctx, w, hh);
    else this.drawPicture(ctx, key, w, hh);
    const twice = (thick, draw) =>
      [
        ["#000", thick + 2],
        ["#fff", thick],
      ].forEach(([ink, width]) => {
        ctx.strokeStyle = ink; // white on black is seen on every colour
        ctx.lineWidth = width;
        ctx.beginPath();
        draw();
        ctx.stroke();
      });
    if (this.line) {
      const [a, b] = this.line.map(([u, v]) => this.toPage(u, v, w, hh));
      twice(1.6, () => {
        ctx.moveTo(...a);
        ctx.lineTo(...b);
      });
    }
    if (this.probe) {
      const [x, y] = this.toPage(...this.probe, w, hh);
      twice(1.2, () =>
        [
          [1, 0],
          [-1, 0],
          [0, 1],
          [0, -1],
        ].forEach(([dx, dy]) => {
          ctx.moveTo(x + 4 * dx, y + 4 * dy);
          ctx.lineTo(x + 12 * dx, y + 12 * dy);
        }),
      );
    }
  }

  paintSwipe(ctx, w, hh) {
    const x = this.split * w;
    this.drawPicture(ctx, this.pair[0], w, hh, [0, x]);
    this.drawPicture(ctx, this.pair[1], w, hh, [x, w - x]);
    ctx.fillStyle = "#fff";
    ctx.fillRect(x - 2, 0, 4, hh);
    ctx.fillStyle = "#000";
    ctx.fillRect(x - 0.75, 0, 1.5, hh);
    ctx.font = "bold 13px system-ui, sans-serif";
    for (const [k, at, side] of [
      [0, x - 8, "right"],
      [1, x + 8, "left"],
    ]) {
      const text = this.name(this.pair[k]),
        wide = ctx.measureText(text).width;
      ctx.fillStyle = "rgba(0,0,0,.65)";
      ctx.fillRect(side === "right" ? at - wide - 4 : at - 4, 6, wide + 8, 20);
      ctx.fillStyle = "#fff";
      ctx.textAlign = side;
      ctx.fillText(text, at, 21);
    }
  }

  paint(bars = true, plots = bars) {
    if (!this.shot?.width || !this.setup || this.view.layout === "scenes") return;
    const s = this.shot,
      stage = this.$("stage"),
      panels = [...stage.querySelectorAll("canvas[data-key]")];
    const columns = this.columns(panels.length, stage.clientWidth);
    stage.style.setProperty("--columns", columns);
    stage.classList.toggle("sd-three", columns === 3 && panels.length === 6);
    for (const canvas of panels) {
      const key = canvas.dataset.key;
      if (key === "cloud") {
        this.cloud.draw();
        continue;
      }
      canvas.style.aspectRatio = `${s.width} / ${s.height}`;
      if (key === "swipe") canvas.style.maxWidth = `calc(66vh*${(s.width / s.height).toFixed(4)})`;
    }
    for (const canvas of panels) {
      // measured only after every panel has its shape
      const key = canvas.dataset.key,
        w = canvas.clientWidth,
        hh = canvas.clientHeight;
      if (!w || key === "cloud") continue;
      this.paintPanel(sized(canvas, w, hh), key, w, hh);
      canvas.setAttribute(
        "aria-label",
        key === "swipe"
          ? `${this.name(this.pair[0])} left of the divider, ` +
              `${this.name(this.pair[1])} right of it`
          : `${this.name(key)}, ${s.description}`,
      );
    }
    this.values();
    if (!bars) return;
    for (const [name, error] of [
      ["depth-bar", false],
      ["error-bar", true],
    ]) {
      const bar = this.$(name);
      if (bar?.clientWidth) this.bar(sized(bar, bar.clientWidth, 46), bar.clientWidth, error);
    }
    if (plots) this.plots();
  }

  bar(ctx, w, error, ink = getComputedStyle(this.root).color) {
    const v = this.view,
      [low, high] = error ? [-this.reach(), this.reach()] : this.limits();
    const lut = this.luts[error ? v.error_cmap : v.cmap],
      scale = error ? "linear" : v.scale;
    const { a, k, f } = ramp([low, high], scale),
      pad = 24,
      none = error ? "not scored" : "no depth";
    ctx.font = "12px system-ui, sans-serif";
    const legend = 22 + 5 + ctx.measureText(none).width,
      wide = w - 2 * pad - legend - 12;
    ctx.clearRect(0, 0, w, 46);
    for (let x = 0; x < wide; x++) {
      const d = low + ((high - low) * x) / wide;
      let t = Math.max(0, Math.min(255, ((f ? f(Math.max(d, 1e-3)) : d) - a) * k * 255)) | 0;
      if (!error && v.invert) t = 255 - t;
      const c = lut[t];
      ctx.fillStyle = `rgb(${c & 255},${(c >> 8) & 255},${(c >> 16) & 255})`;
      ctx.fillRect(pad + x, 2, 1.5, 12);
    }
    fillStripes(ctx, w - legend, 2, 22, 12, 3);
    ctx.fillStyle = ink;
    ctx.textAlign = "left";
    ctx.fillText(none, w - legend + 27, 12);
    ctx.textAlign = "center";
    for (const t of ticks(low, high))
      ctx.fillText((error && t > 0 ? "+" : "") + t, pad + ((t - low) / (high - low)) * wide, 27);
    const label = error
      ? "predicted − true (m); negative: too near"
      : `depth (m)${scale === "linear" ? "" : `, colours by ${scale}`}`;
    ctx.fillText(label, pad + wide / 2, 42, w - legend);
    this.$(error ? "error-bar" : "depth-bar")?.setAttribute(
      "aria-label",
      `${label}, from ${low.toFixed(2)} to ${high.toFixed(2)}; striped: ${none}`,
    );
  }

  // ---- what is under the probe
  at(key) {
    const s = this.shot,
      [u, v] = this.probe,
      i = v * s.width + u,
      d = s.maps[key]?.[i] ?? NaN,
      truth = s.maps.truth[i];
    if (key === "rgb") return `column ${u}, row ${v}`;
    if (key.startsWith("err:")) return `${metre(d, true)}, ${number((100 * d) / truth, 1, true)} %`;
    return key === "truth" || s.blind ? metre(d) : `${metre(d)}, ratio ${number(d / truth, 3)}`;
  }

  values() {
    for (const figure of this.root.querySelectorAll(".sd-panel")) {
      const key = figure.querySelector("canvas").dataset.key;
      if (key === "cloud") continue;
      figure.querySelector(".sd-value").textContent = !this.probe
        ? ""
        : key === "swipe"
          ? this.pair.map((k) => `${this.name(k)}: ${this.at(k)}`).join("  |  ")
          : this.at(key);
    }
    if (this.probe) this.$("readout").replaceChildren(...this.readout());
  }

  readout() {
    const s = this.shot,
      [u, v] = this.probe,
      i = v * s.width + u,
      truth = s.maps.truth[i];
    const cells = (of) => of.map((x) => h("td", {}, x));
    const rows = s.preds.map(({ name }) => {
      const p = s.maps[`pred:${name}`][i],
        more = s.blind ? [] : [number(p - truth, 3, true), number(p / truth, 3)];
      return h("tr", {}, h("th", { scope: "row" }, name), ...cells([number(p, 3), ...more]));
    });
    if (!s.blind)
      rows.unshift(
        h("tr", {}, h("th", { scope: "row" }, "truth"), ...cells([number(truth, 3), "", ""])),
      );
    const heads = ["metres", ...(s.blind ? [] : ["error", "ratio"])].map((x) =>
      h("th", { scope: "col" }, x),
    );
    return [
      h(
        "table",
        {},
        h("caption", {}, `column ${u}, row ${v}`),
        h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "depth"), ...heads)),
        h("tbody", {}, ...rows),
      ),
    ];
  }

  pixel(e, canvas) {
    const r = canvas.getBoundingClientRect(),
      s = this.shot,
      z = this.zoom;
    const u = (z.x + ((e.clientX - r.left) / r.width - 0.5) / z.k) * s.width,
      v = (z.y + ((e.clientY - r.top) / r.height - 0.5) / z.k) * s.height;
    return [u, v];
  }

  inside([u, v]) {
    const s = this.shot;
    return [
      Math.min(s.width - 1, Math.max(0, Math.floor(u))),
      Math.min(s.height - 1, Math.max(0, Math.floor(v))),
    ];
  }

  pointing(canvas) {
    let held = null;
    canvas.addEventListener("pointerdown", (e) => {
      if (!this.shot?.width) return;
      canvas.setPointerCapture(e.pointerId);
      const r = canvas.getBoundingClientRect(),
        near = Math.abs((e.clientX - r.left) / r.width - this.split) * r.width < 14;
      held =
        canvas.dataset.key === "swipe" && near
          ? { divider: true }
          : this.tool === "line"
            ? { from: this.inside(this.pixel(e, canvas)) }
            : { x: e.clientX, y: e.clientY, zoom: { ...this.zoom } };
      this.root.focus({ preventScroll: true });
      e.preventDefault();
    });
    canvas.addEventListener("pointermove", (e) => {
      if (!this.shot?.width) return;
      const r = canvas.getBoundingClientRect();
      if (held?.divider) {
        this.split = Math.max(0, Math.min(1, (e.clientX - r.left) / r.width));
        this.$("divider").value = this.split;
      } else if (held?.from) this.line = [held.from, this.inside(this.pixel(e, canvas))];
      else if (held) {
        this.zoom = {
          k: held.zoom.k,
          x: held.zoom.x - (e.clientX - held.x) / r.width / held.zoom.k,
          y: held.zoom.y - (e.clientY - held.y) / r.height / held.zoom.k,
        };
        this.clampZoom();
      }
      this.probe = this.inside(this.pixel(e, canvas));
      this.paint(!!held?.from);
    });
    const drop = () => {
      held = null;
    };
    canvas.addEventListener("pointerup", drop);
    canvas.addEventListener("pointercancel", drop);
    canvas.addEventListener("dblclick", () => this.zoomBy(0));
    canvas.addEventListener(
      "wheel",
      (e) => {
        // Else the page scrolls.
        if (!e.ctrlKey && !this.root.contains(document.activeElement)) return;
        e.preventDefault();
        this.zoomBy(Math.exp(-e.deltaY / 300), this.pixel(e, canvas));
      },
      { passive: false },
    );
  }

  clampZoom() {
    const z = this.zoom,
      edge = 0.5 / z.k;
    z.x = Math.min(1 - edge, Math.max(edge, z.x));
    z.y = Math.min(1 - edge, Math.max(edge, z.y));
  }

  zoomBy(factor, about = null) {
    if (this.view.layout === "cloud")
      return factor ? this.cloud?.move(0, 0, 1 / factor) : this.cloud?.reset();
    const z = this.zoom,
      s = this.shot;
    if (!s?.width) return;
    if (!factor) this.zoom = { k: 1, x: 0.5, y: 0.5 };
    else {
      const k = Math.min(64, Math.max(1, z.k * factor)),
        [u, v] = about ?? this.probe ?? [z.x * s.width, z.y * s.height];
      const [x, y] = [u / s.width, v / s.height];
      this.zoom = { k, x: x + ((z.x - x) * z.k) / k, y: y + ((z.y - y) * z.k) / k };
      this.clampZoom();
    }
    this.root.dataset.zoom = this.zoom.k.toFixed(3);
    this.$("whole").textContent = `${Math.round(100 * this.zoom.k)} %`;
    this.paint(false);
  }
}
