// What is beside the pictures: metrics, histogram, profile, the point cloud, the overview of a
// set, and the export.
const PLOT = 170; // pixels high

class Summary extends Panels {
  table() {
    const s = this.shot,
      names = Object.keys(s.scores ?? {}),
      box = this.$("table");
    if (!names.length) return box.replaceChildren();
    const rows = this.setup.metrics.map((m) => {
      const values = names.map((n) => s.scores[n][m.name]),
        seen = values.filter((x) => x !== null && x !== undefined);
      const best =
        names.length > 1 && seen.length > 1
          ? m.higher
            ? Math.max(...seen)
            : Math.min(...seen)
          : null;
      return h(
        "tr",
        {},
        h(
          "th",
          { scope: "row", title: m.formula },
          `${m.name}${m.unit ? ` (${m.unit})` : ""} ${m.higher ? "↑" : "↓"}`,
        ),
        ...values.map((x) =>
          h(
            "td",
            { class: x === best && best !== null ? "sd-best" : "" },
            x === null || x === undefined ? "–" : x.toFixed(3),
          ),
        ),
      );
    });
    box.replaceChildren(
      h(
        "table",
        {},
        h("caption", {}, s.protocol),
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            h("th", { scope: "col" }, "metric"),
            ...names.map((n) => h("th", { scope: "col" }, n)),
          ),
        ),
        h("tbody", {}, ...rows),
      ),
    );
  }

  // ---- plots
  ink(key) {
    return INK[key === "truth" ? 0 : 1 + this.models().indexOf(key.slice(5))];
  }

  histogramSeries() {
    const s = this.shot,
      [low, high] = this.limits(),
      x = Array.from({ length: 64 }, (_, i) => low + ((i + 0.5) / 64) * (high - low));
    return this.depths().map((k) => ({
      name: this.name(k),
      x,
      y: histogram(s.maps[k], null, [low, high]),
      ink: this.ink(k),
    }));
  }

  profileSeries() {
    const [[u0, v0], [u1, v1]] = this.line,
      s = this.shot,
      n = Math.max(2, Math.ceil(Math.hypot(u1 - u0, v1 - v0)) + 1);
    const x = Array.from({ length: n }, (_, i) => (i / (n - 1)) * Math.hypot(u1 - u0, v1 - v0));
    const pixel = x.map(
      (_, i) =>
        Math.round(v0 + ((v1 - v0) * i) / (n - 1)) * s.width +
        Math.round(u0 + ((u1 - u0) * i) / (n - 1)),
    );
    return this.depths().map((k) => ({
      name: this.name(k),
      x,
      y: pixel.map((i) => s.maps[k][i]),
      ink: this.ink(k),
    }));
  }

  plot(canvas, series, words) {
    const w = canvas.clientWidth;
    if (w) plot(sized(canvas, w, PLOT), { x: 0, y: 0, w, h: PLOT }, series, words);
  }

  plots() {
    const s = this.shot,
      hist = this.$("histogram"),
      profile = this.$("profile");
    hist.hidden = !s.width;
    profile.hidden = !s.width || !this.line;
    if (!hist.hidden) {
      const key = `${this.limits()} ${this.models()}`;
      if (this.counts?.shot !== s || this.counts.key !== key)
        this.counts = { shot: s, key, series: this.histogramSeries() };
      const at = this.probe && s.maps.truth[this.probe[1] * s.width + this.probe[0]];
      this.plot(hist, this.counts.series, {
        xlabel: "depth (m)",
        ylabel: "% of pixels",
        zero: true,
        mark: Number.isFinite(at) ? at : null,
      });
    }
    if (!profile.hidden)
      this.plot(profile, this.profileSeries(), {
        xlabel: "pixels along the line",
        ylabel: "depth (m)",
      });
  }

  // ---- 3-D
  fillCloud() {
    const s = this.shot;
    if (!this.cloud?.works || !s.width) return;
    const keys = this.depths(),
      f = (2 * s.camera[1]) / s.height,
      ink = this.$("ink").value;
    const clouds = keys.map((key) => {
      const error = ink === "error" && key !== "truth",
        source = ink === "picture" ? "rgb" : error ? `err:${key.slice(5)}` : key;
      const { at, from, step } = lift(
        s.maps[key],
        s.width,
        s.height,
        s.camera,
        error ? s.keep[source] : null,
      );
      const colours = this.picture(source)
          .getContext("2d")
          .getImageData(0, 0, s.width, s.height).data,
        out = new Uint8Array(3 * from.length);
      from.forEach((p, i) => {
        for (let c = 0; c < 3; c++) out[3 * i + c] = colours[4 * p + c];
      });
      return { at, ink: out, step };
    });
    const middle = keys
      .map((k) => s.maps[k].filter((x) => x > 0).sort())
      .map((z) => z[z.length >> 1] ?? 1);
    this.cloud.set(clouds, Math.max(0.1, middle.reduce((a, b) => a + b, 0) / middle.length), f);
    const canvas = this.cloud.canvas,
      figure = canvas.parentNode,
      assumed = "camera unknown: a vertical field of view of 60° is assumed";
    figure
      .querySelector("figcaption")
      .replaceChildren(...keys.map((k) => h("span", {}, this.name(k))));
    canvas.setAttribute(
      "aria-label",
      `point clouds: ${keys.map((k) => this.name(k)).join(", ")}; drag, or shift with the arrow ` +
        `keys, turns them; plus and minus bring them nearer${s.camera_known ? "" : `; ${assumed}`}`,
    );
    figure.querySelector(".sd-value").textContent = s.camera_known ? "" : assumed;
    this.root.dataset.points = clouds.map((c) => c.at.length / 3).join(" ");
  }

  orbiting(canvas) {
    let held = null;
    canvas.addEventListener("pointerdown", (e) => {
      canvas.setPointerCapture(e.pointerId);
      held = [e.clientX, e.clientY];
      this.root.focus({ preventScroll: true });
    });
    canvas.addEventListener("pointermove", (e) => {
      if (!held) return;
      this.cloud.move((e.clientX - held[0]) * 0.008, (e.clientY - held[1]) * 0.008);
      held = [e.clientX, e.clientY];
    });
    const drop = () => {
      held = null;
    };
    canvas.addEventListener("pointerup", drop);
    canvas.addEventListener("pointercancel", drop);
    canvas.addEventListener("dblclick", () => this.cloud.reset());
    canvas.addEventListener(
      "wheel",
      (e) => {
        if (!e.ctrlKey && !this.root.contains(document.activeElement)) return;
        e.preventDefault();
        this.cloud.move(0, 0, Math.exp(e.deltaY / 400));
      },
      { passive: false },
    );
  }

  // ---- the whole set at a glance
  overview(stage) {
    if (this.built === `scenes${this.version}`) return;
    this.built = `scenes${this.version}`;
    this.thumbs = [];
    this.drop();
    this.$("profile").hidden = true;
    this.$("histogram").hidden = false;
    stage.className = "sd-stage sd-scenes";
    stage.replaceChildren(
      h("div", { class: "sd-thumbs", "data-name": "thumbs" }),
      this.button("more", "more scenes", "show more scenes", () =>
        this.send({ kind: "thumbs", from: this.thumbs.length }),
      ),
    );
    this.send({ kind: "thumbs", from: 0 });
  }

  thumb(m) {
    const grid = this.$("thumbs");
    if (!grid || m.from !== this.thumbs.length) return;
    this.thumbs.push(...m.scenes);
    for (const t of m.scenes) {
      const said =
        t.problem ?? `${(100 * t.valid).toFixed(1)} % valid, median ${number(t.median, 2)} m`;
      const words = `${t.scene}, ${t.captures} capture${t.captures === 1 ? "" : "s"}, ${said}`;
      const open = () => {
        this.set({ layout: "side" });
        this.go(t.position);
      };
      grid.append(
        h(
          "button",
          { type: "button", class: "sd-thumb", title: `${words}: open`, onclick: open },
          t.png
            ? h("img", {
                src: `data:image/png;base64,${t.png}`,
                alt: `picture and depth of ${words}`,
              })
            : null,
          h("strong", {}, t.scene),
          h("span", {}, said),
        ),
      );
    }
    this.$("more").hidden = this.thumbs.length >= m.total;
    this.aboutSet(m);
  }

  aboutSet(m) {
    const seen = this.thumbs.filter((t) => t.counts),
      broken = this.thumbs.length - seen.length;
    const range = (of, digits) => {
      const x = seen
        .map(of)
        .filter(Number.isFinite)
        .sort((a, b) => a - b);
      return x.length
        ? [x[0], x[x.length >> 1], x[x.length - 1]].map((y) => y.toFixed(digits))
        : ["–", "–", "–"];
    };
    const row = (name, cells) =>
      h("tr", {}, h("th", { scope: "row" }, name), ...cells.map((c) => h("td", {}, c)));
    this.$("about").replaceChildren(
      h(
        "table",
        {},
        h(
          "caption",
          {},
          `${this.n} captures of ${m.total} scenes; ${this.thumbs.length} scenes are shown, ` +
            "by their first capture" +
            (broken ? `; ${broken} cannot be read` : ""),
        ),
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            ...["over scenes", "least", "middle", "most"].map((x) => h("th", { scope: "col" }, x)),
          ),
        ),
        h(
          "tbody",
          {},
          row(
            "valid pixels (%)",
            range((t) => 100 * t.valid, 1),
          ),
          row(
            "median depth (m)",
            range((t) => t.median, 2),
          ),
        ),
      ),
    );
    if (!seen.length) return;
    const y = seen[0].counts.map(
      (_, i) => seen.reduce((sum, t) => sum + t.counts[i], 0) / seen.length,
    );
    const x = y.map((_, i) => ((i + 0.5) / y.length) * m.deepest);
    this.plot(this.$("histogram"), [{ name: "truth, mean over these scenes", x, y }], {
      xlabel: "depth (m)",
      ylabel: "% of pixels",
      zero: true,
    });
  }

  // ---- export
  save(format) {
    const s = this.shot,
      { layout } = this.view;
    if (!s?.width) return this.say({ text: "nothing to save: no capture is shown" });
    if (layout === "scenes")
      return this.say({
        text: "nothing to save: the overview has no export, use synthdepth check --page",
      });
    const out = this.sheet(layout === "side" ? this.sources() : [layout]);
    out.toBlob((blob) => {
      if (blob) this.sendLarge({ kind: "save", format, title: s.title, layout }, blob);
      else this.say({ text: "not saved: the browser cannot draw a picture this large" });
    });
  }

  order(keys, columns) {
    // as the page shows three columns: a model in each row
    return columns === 3 && keys.length === 6 ? [0, 2, 3, 1, 4, 5].map((i) => keys[i]) : keys;
  }

  sheet(sources) {
    // the view as one large picture, black on white
    const s = this.shot,
      n = sources.length,
      columns = this.columns(n, 1200),
      keys = this.order(sources, columns);
    const ratio = 2,
      gap = 12,
      margin = 12,
      head = 24,
      width = n === 1 ? 960 : Math.max(320, Math.min(480, s.width));
    const canvas = this.cloud?.canvas,
      tall = Math.round(
        width * (keys[0] === "cloud" ? canvas.height / canvas.width : s.height / s.width),
      );
    const total = columns * (width + gap) - gap,
      bottom = 30 + Math.ceil(n / columns) * (head + tall + gap),
      plotted = 190;
    const out = h("canvas", {
        width: (total + 2 * margin) * ratio,
        height: (bottom + 54 + plotted + 26) * ratio,
      }),
      ctx = out.getContext("2d");
    ctx.scale(ratio, ratio);
    ctx.fillStyle = "#fff";
    ctx.fillRect(0, 0, out.width, out.height);
    ctx.translate(margin, 0);
    const write = (text, x, y, font, most) => {
      Object.assign(ctx, {
        fillStyle: "#111",
        textAlign: "left",
        font: `${font} system-ui, sans-serif`,
      });
      ctx.fillText(text, x, y, most);
    };
    write(s.title, 0, 18, "bold 15px", total);
    keys.forEach((key, k) => {
      const x = (k % columns) * (width + gap),
        y = 30 + Math.floor(k / columns) * (head + tall + gap);
      const title =
        key === "cloud"
          ? this.depths()
              .map((d) => this.name(d))
              .join(" | ")
          : key === "swipe"
            ? ""
            : this.name(key);
      write(title, x, y + 16, "14px", width);
      ctx.save();
      ctx.translate(x, y + head);
      ctx.beginPath();
      ctx.rect(0, 0, width, tall);
      ctx.clip();
      if (key === "cloud") ctx.drawImage(canvas, 0, 0, width, tall);
      else this.paintPanel(ctx, key, width, tall);
      ctx.restore();
    });
    const half = total / 2 - gap / 2,
      box = (k) => ({ x: k * (half + gap), y: bottom + 54, w: half, h: plotted });
    [false, ...(this.setup.models.length && !s.blind ? [true] : [])].forEach((error, k) => {
      const strip = h("canvas", { width: half * ratio, height: 46 * ratio }),
        c = strip.getContext("2d");
      c.scale(ratio, ratio);
      this.bar(c, half, error, "#111");
      ctx.drawImage(strip, k * (half + gap), bottom, half, 46);
    });
    plot(ctx, box(0), this.histogramSeries(), {
      xlabel: "depth (m)",
      ylabel: "% of pixels",
      zero: true,
    });
    if (this.line)
      plot(ctx, box(1), this.profileSeries(), {
        xlabel: "pixels along the line",
        ylabel: "depth (m)",
      });
    const probe = this.probe && [
      `column ${this.probe[0]}, row ${this.probe[1]}`,
      ...this.depths().map((k) => `${this.name(k)} ${this.at(k)}`),
    ];
    write(
      [s.protocol, ...(probe ?? [])].filter(Boolean).join("   "),
      0,
      bottom + 54 + plotted + 18,
      "12px",
      total,
    );
    return out;
  }
}
