// The depth inspector. Everything that follows the mouse happens here; the kernel only answers with depth maps.
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

const KEYS = "left and right arrow: previous, next; home and end: first, last; shift with arrows: move the probe; " +
  "+ and -: zoom, 0: whole picture; s: side by side, w: swipe, c: 3-D cloud, o: overview; i: invert; m: next colour map; " +
  "e: save as PNG; l: profile through the probe";
const metre = (x, sign) => !Number.isFinite(x) ? "none" : (sign && x >= 0 ? "+" : "") + x.toFixed(3) + " m";

class Inspector {
  constructor(model, el) {
    Object.assign(this, { model, el, setup: null, shot: null, version: -1, n: 0, position: 0, kept: new Map(), asked: new Set() });
    Object.assign(this, { zoom: { k: 1, x: .5, y: .5 }, probe: null, line: null, tool: "pan", split: .5, scored: null });
    Object.assign(this, { painted: {}, luts: {}, direction: 1, scoring: false, started: null, thumbs: [], cloudInk: "rgb" });
    this.root = h("div", { class: "sd-root", tabindex: "0", role: "region", "aria-label": "depth inspector",
                           "data-lm-suppress-shortcuts": "true", "data-jp-suppress-context-menu": "" });
    this.root.append(h("p", { class: "sd-wait" }, "Waiting for the kernel. If nothing follows, run the cell again."));
    el.append(this.root);
    this.root.inspector = this;
    this.root.addEventListener("keydown", (e) => this.key(e));
    this.onMessage = (m, buffers) => this.receive(m, buffers);
    this.onView = () => this.setup && this.follow();
    model.on("msg:custom", this.onMessage);
    model.on("change:view", this.onView);
    this.sizes = new ResizeObserver(() => this.paint());
    this.send({ kind: "ready" });
  }

  destroy() {
    this.model.off("msg:custom", this.onMessage);
    this.model.off("change:view", this.onView);
    this.sizes.disconnect();
  }

  get view() { return this.model.get("view"); }
  send(content) { this.model.send(content); }
  $(name) { return this.root.querySelector(`[data-name="${name}"]`); }

  receive(m, buffers) {
    const act = { setup: "begin", capture: "arrive", state: "state", scored: "progress", said: "say", thumbs: "thumb" }[m.kind];
    if (act) this[act](m, buffers ?? []);
  }

  // ---- the page
  begin(m) {
    this.setup = m;
    this.version = m.version;
    this.n = m.n;
    for (const [name, table] of Object.entries(m.maps)) this.luts[name] = lookup(table);
    this.kept.clear();
    this.root.replaceChildren(...this.page());
    this.sizes.disconnect();
    this.sizes.observe(this.$("stage"));
    this.el.append(h("style", {}, `.${m.still} { display: none }`));
    this.follow();
    this.state(m);
  }

  option(value, text, chosen) { return h("option", { value, selected: value === chosen }, text); }

  select(name, text, options, change, chosen, title) {
    const box = h("select", { "data-name": name, title, onchange: (e) => change(e.target.value) },
                  ...options.map(([v, t]) => this.option(v, t, chosen)));
    return h("label", {}, h("span", {}, text), box);
  }

  button(name, text, title, act) {
    return h("button", { type: "button", "data-name": name, title, "aria-label": title, onclick: act }, text);
  }

  check(name, text, change) {
    return h("label", { class: "sd-check" },
             h("input", { type: "checkbox", "data-name": name, onchange: (e) => change(e.target.checked) }), text);
  }

  number(name, text, change, step = ".1") {
    return h("label", {}, h("span", {}, text),
             h("input", { type: "number", "data-name": name, step, onchange: (e) => change(+e.target.value),
                          onkeydown: (e) => e.key === "Enter" && change(+e.target.value) }));
  }

  page() {
    const s = this.setup, pick = (name) => (v) => this.choose({ [name]: v === "" ? null : v });
    const lists = (xs, all) => [["", all], ...xs.map((x) => [x, x])];
    const step = h("div", { class: "sd-row", role: "group", "aria-label": "captures" },
      this.button("previous", "◀", "previous capture (left arrow)", () => this.go(this.position - 1)),
      h("input", { type: "range", min: 1, max: Math.max(1, s.n), value: 1, "data-name": "slider", "aria-label": "capture",
                   oninput: (e) => this.go(+e.target.value) }),
      this.button("next", "▶", "next capture (right arrow)", () => this.go(this.position + 1)),
      h("output", { "data-name": "where", class: "sd-where" }));
    const scene = h("label", {}, h("span", {}, "scene"),
      h("input", { list: `${s.still}-scenes`, "data-name": "scene", placeholder: "all", size: 16,
                   oninput: (e) => (e.target.value === "" || s.scenes.includes(e.target.value)) && this.pickScene(e.target.value),
                   onchange: (e) => this.pickScene(e.target.value),
                   onkeydown: (e) => e.key === "Enter" && this.pickScene(e.target.value) }),
      h("datalist", { id: `${s.still}-scenes` }, ...s.scenes.map((x) => h("option", { value: x }))));
    const filters = h("div", { class: "sd-row", role: "group", "aria-label": "which captures, in which order" }, scene,
      s.splits.length > 1 ? this.select("split", "split", lists(s.splits, "all"), pick("split")) : null,
      s.corruptions.length ? this.select("corruption", "corruption", lists(s.corruptions, "none"), pick("corruption")) : null,
      s.corruptions.length ? this.select("severity", "severity", [1, 2, 3, 4, 5].map((x) => [x, x]),
                                         (v) => this.choose({ severity: +v })) : null,
      s.names.length ? this.select("sort", "order", [["", "as stored"], ...s.metrics.map((m) => [m.name, `${m.name}, worst first`])],
                                   pick("sort")) : null,
      s.names.length > 1 ? this.select("by", "of model", s.names.map((x) => [x, x]), pick("by")) : null,
      s.models.length ? this.select("protocol", "protocol", s.protocols.map((x) => [x, x]), pick("protocol")) : null,
      s.models.length ? this.button("score", "score all", "predict and score every capture of this choice",
                                    () => this.scoreAll()) : null,
      h("progress", { "data-name": "progress", max: 1, value: 0, hidden: true, "aria-label": "captures scored" }));
    const set = (name) => (v) => this.set({ [name]: v });
    const look = h("div", { class: "sd-row", role: "group", "aria-label": "how it is shown" },
      this.select("layout", "view", [["side", "side by side"], ["swipe", "swipe"], ["cloud", "3-D cloud"], ["scenes", "overview"]],
                  set("layout")),
      s.models.length > 1 ? this.select("first", "models", s.models.map((x) => [x, x]), set("first")) : null,
      s.models.length > 1 ? this.select("second", "and", [["", "none"], ...s.models.map((x) => [x, x])], set("second")) : null,
      this.select("cmap", "colours", s.depth_maps.map((x) => [x, x]), set("cmap")),
      s.error_maps.length && s.models.length ? this.select("error_cmap", "errors", s.error_maps.map((x) => [x, x]), set("error_cmap")) : null,
      this.select("scale", "scale", Object.keys(SCALES).map((x) => [x, x]), set("scale")),
      this.check("invert", "invert", set("invert")),
      this.check("fit", "fit to each capture", set("fit")),
      this.number("low", "from", (v) => this.set({ fit: false, limits: [v, this.limits()[1]] })),
      this.number("high", "to (m)", (v) => this.set({ fit: false, limits: [this.limits()[0], v] })),
      s.error_maps.length && s.models.length ? this.number("reach", "error ± (m)", (v) => this.set({ fit: false, reach: v, limits: this.limits() })) : null);
    const tools = h("div", { class: "sd-row", role: "group", "aria-label": "tools" },
      this.button("in", "+", "zoom in", () => this.zoomBy(1.5)), this.button("out", "−", "zoom out", () => this.zoomBy(1/1.5)),
      this.button("whole", "whole", "show the whole picture (0)", () => this.zoomBy(0)),
      this.select("tool", "mouse", [["pan", "moves the picture"], ["line", "draws a profile line"]], (v) => { this.tool = v; this.paint(); }),
      h("span", { "data-name": "swipe-controls", class: "sd-row", hidden: true },
        this.select("left", "left", [], set("left")), this.select("right", "right", [], set("right")),
        h("input", { type: "range", min: 0, max: 1, step: .005, value: .5, "data-name": "divider", "aria-label": "divider",
                     oninput: (e) => { this.split = +e.target.value; this.paint(); } })),
      h("span", { "data-name": "cloud-controls", class: "sd-row", hidden: true },
        this.select("ink", "points by", [["rgb", "picture"], ["depth", "depth"], ...(s.error_maps.length ? [["error", "error"]] : [])],
                    (v) => { this.cloudInk = v; this.fillCloud(); }),
        this.button("reset", "reset", "turn the cloud back", () => this.cloud?.reset())),
      this.button("png", "save PNG", "save this view as PNG (e)", () => this.save("png")),
      this.button("pdf", "save PDF", "save this view as PDF", () => this.save("pdf")),
      h("details", { class: "sd-keys" }, h("summary", {}, "keys"), h("p", {}, KEYS)));
    return [step, filters, look, tools,
      h("div", { "data-name": "message", class: "sd-message", role: "status", "aria-live": "polite" }),
      h("div", { class: "sd-body" },
        h("div", { "data-name": "stage", class: "sd-stage" }),
        h("div", { class: "sd-aside" }, h("div", { "data-name": "table" }),
          h("canvas", { "data-name": "histogram", class: "sd-plot", role: "img", "aria-label": "histogram of depth" }),
          h("canvas", { "data-name": "profile", class: "sd-plot", role: "img", "aria-label": "depth profile", hidden: true }))),
      h("p", { "data-name": "readout", class: "sd-readout", "aria-live": "polite" }, "point at a pixel"),
      h("p", { "data-name": "caption", class: "sd-caption" })];
  }

  // ---- choices
  set(values) { // what is seen here alone
    this.model.set("view", { ...this.view, ...values });
    this.model.save_changes();
  }

  choose(values) { // what the kernel must answer
    this.started = performance.now();
    this.send({ kind: "choose", values });
  }

  pickScene(text) {
    const scene = text.trim() || null;
    if (scene === this.scene) return;
    this.scene = scene;
    this.choose({ scene });
  }

  follow() { // the view was changed, here or in code
    const v = this.view;
    for (const name of ["layout", "first", "second", "cmap", "error_cmap", "scale"])
      if (this.$(name)) this.$(name).value = v[name] ?? "";
    for (const name of ["invert", "fit"]) this.$(name).checked = v[name];
    this.painted = {};
    this.build();
  }

  state(m) {
    if (m.version !== this.version) { this.kept.clear(); this.asked.clear(); }
    this.version = m.version;
    this.n = m.n;
    this.position = m.position;
    this.scene = m.choices.scene ?? null;
    this.$("slider").max = Math.max(1, m.n);
    for (const name of ["scene", "split", "corruption", "severity", "sort", "by", "protocol"])
      if (this.$(name)) this.$(name).value = m.choices[name] ?? "";
    if (this.$("severity")) this.$("severity").disabled = !m.choices.corruption;
  }

  go(position) {
    position = Math.min(Math.max(1, position), Math.max(1, this.n));
    if (position === this.position && this.shot) return;
    this.direction = position >= this.position ? 1 : -1;
    this.position = position;
    this.started = performance.now();
    this.$("slider").value = position;
    const kept = this.kept.get(position);
    this.send({ kind: kept ? "at" : "show", position });
    if (kept) this.show(kept);
  }

  arrive(m, buffers) {
    if (m.version !== this.version) return;
    const shot = { ...m, maps: {}, keep: {} };
    if (m.width) {
      const n = m.width*m.height;
      shot.rgb = bytes(buffers[0]);
      shot.maps.truth = unpack(buffers[1], n, m.truth);
      shot.preds.forEach((p, k) => {
        shot.maps[`pred:${p.name}`] = unpack(buffers[2 + 2*k], n, p);
        shot.keep[`err:${p.name}`] = unpackBits(buffers[3 + 2*k], n);
        const t = shot.maps.truth, q = shot.maps[`pred:${p.name}`];
        shot.maps[`err:${p.name}`] = q.map((x, i) => x - t[i]);
      });
    }
    this.asked.delete(m.position);
    if (!m.problems.length || m.upload) this.kept.set(m.position, shot);
    while (this.kept.size > 24) this.kept.delete(this.kept.keys().next().value);
    if (m.position === this.position || m.now) { this.position = m.position; this.show(shot); }
  }

  show(shot) {
    this.shot = shot;
    this.painted = {};
    this.$("slider").value = this.position;
    this.$("where").textContent = this.n ? `${this.position} / ${this.n}   ${shot.title ?? ""}` : "0 / 0";
    this.say({ text: [...shot.problems, shot.note].filter(Boolean).join("\n") });
    this.$("caption").textContent = shot.description;
    this.table();
    this.build();
    const started = this.started;
    this.started = null;
    requestAnimationFrame(() => {
      const channel = new MessageChannel();
      channel.port1.onmessage = () => {
        if (started !== null) this.root.dataset.ms = (performance.now() - started).toFixed(1);
        this.root.dataset.shown = shot.position;
        this.root.dataset.index = shot.index ?? "";
        this.ahead();
      };
      channel.port2.postMessage(0);
    });
  }

  ahead() { // ask for the neighbours before they are wanted; the kernel declines where that is slow
    for (const d of [1, 2, -1]) {
      const p = this.position + d*this.direction;
      if (p < 1 || p > this.n || this.kept.has(p) || this.asked.has(p)) continue;
      this.asked.add(p);
      this.send({ kind: "ahead", position: p, version: this.version });
    }
  }

  say(m) {
    const box = this.$("message");
    if (box.textContent === m.text) return;
    box.classList.toggle("sd-fine", m.text.startsWith("saved "));
    box.replaceChildren(...m.text.split("\n").filter(Boolean).map((t) => h("p", {}, t)));
  }

  scoreAll() {
    this.scoring = !this.scoring;
    this.$("score").textContent = this.scoring ? "stop" : "score all";
    this.$("progress").hidden = !this.scoring;
    if (this.scoring) this.send({ kind: "score" });
  }

  progress(m) {
    const bar = this.$("progress");
    bar.max = Math.max(1, m.total);
    bar.value = m.done;
    if (m.done < m.total && this.scoring) return this.send({ kind: "score" });
    this.scoring = false;
    this.$("score").textContent = "score all";
    bar.hidden = true;
    this.send({ kind: "scored" });
  }

  // ---- panels
  models() {
    if (!this.shot?.width) return [];
    const { first, second } = this.view, there = this.shot.preds.map((p) => p.name);
    return [...new Set([first ?? there[0], second])].filter((n) => n && this.setup.models.includes(n));
  }

  limits() { return this.view.fit || !this.view.limits ? this.shot?.limits ?? [0, 1] : this.view.limits; }
  reach() { return this.view.fit || !this.view.reach ? this.shot?.reach ?? 1 : this.view.reach; }

  name(key) {
    return key === "rgb" ? "picture" : key === "truth" ? "truth" : key.startsWith("err:") ? `${key.slice(4)} − truth` : key.slice(5);
  }

  sources() {
    const names = this.models();
    const truth = this.shot.blind ? [] : ["truth"];
    const errors = (n) => this.shot.blind ? [] : [`err:${n}`];
    if (names.length < 2) return ["rgb", ...truth, ...names.flatMap((n) => [`pred:${n}`, ...errors(n)])];
    return ["rgb", `pred:${names[0]}`, ...errors(names[0]), ...truth, `pred:${names[1]}`, ...errors(names[1])];
  }

  build() { // the panels of this layout
    if (!this.setup || !this.shot) return;
    const stage = this.$("stage"), { layout } = this.view, s = this.shot;
    this.$("swipe-controls").hidden = layout !== "swipe";
    this.$("cloud-controls").hidden = layout !== "cloud";
    for (const name of ["table", "readout", "caption"]) this.$(name).hidden = layout === "scenes";
    if (this.$("low")) { this.$("low").value = this.limits()[0].toFixed(2); this.$("high").value = this.limits()[1].toFixed(2); }
    if (this.$("reach")) this.$("reach").value = this.reach().toFixed(2);
    if (layout === "scenes") return this.overview(stage);
    if (!s.width) { this.built = null; stage.replaceChildren(); return this.plots(); }
    const keys = layout === "swipe" ? ["swipe"] : layout === "cloud" ? ["cloud"] : this.sources();
    if (layout === "swipe") this.swipes();
    const built = [layout, ...keys].join("|");
    if (this.built !== built) {
      this.built = built;
      this.cloud = null;
      stage.className = `sd-stage sd-${layout}`;
      stage.style.setProperty("--columns", keys.length === 6 ? 3 : keys.length === 4 && stage.clientWidth < 1100 ? 2 : Math.min(4, keys.length));
      stage.replaceChildren(...keys.map((k) => this.panel(k)), this.bars());
    }
    if (layout === "cloud") this.fillCloud();
    this.paint();
  }

  panel(key) {
    const title = key === "swipe" ? "" : key === "cloud" ? "" : this.name(key);
    const canvas = h("canvas", { "data-key": key, role: "img", "aria-label": title });
    const figure = h("figure", { class: "sd-panel" }, h("figcaption", {}, title), canvas,
                     h("div", { class: "sd-value", "aria-hidden": "true" }));
    if (key === "cloud") {
      canvas.classList.add("sd-cloud-canvas");
      this.cloud = new Cloud(canvas);
      if (!this.cloud.works) this.say({ text: "This browser shows no WebGL, so there is no 3-D cloud." });
      this.orbiting(canvas);
    } else this.pointing(canvas);
    return figure;
  }

  bars() {
    return h("div", { class: "sd-bars" },
      h("canvas", { "data-name": "depth-bar", class: "sd-bar", role: "img" }),
      this.setup.error_maps.length && this.setup.models.length ? h("canvas", { "data-name": "error-bar", class: "sd-bar", role: "img" }) : null);
  }

  swipes() {
    const keys = this.sources(), there = (k, other) => keys.includes(k) ? k : other;
    const left = there(this.view.left, "rgb"), right = there(this.view.right, keys.find((k) => k.startsWith("pred:")) ?? "truth");
    for (const [name, chosen] of [["left", left], ["right", right]])
      this.$(name).replaceChildren(...keys.map((k) => this.option(k, this.name(k), chosen)));
    this.pair = [left, right];
  }

  picture(key) { // native size, in colour
    const v = this.view, s = this.shot;
    if (this.painted[key]) return this.painted[key];
    let words;
    if (key === "rgb") words = rgbWords(s.rgb, s.width*s.height);
    else {
      const error = key.startsWith("err:"), metres = s.maps[key] ?? new Float32Array(s.width*s.height).fill(NaN);
      const limits = error ? [-this.reach(), this.reach()] : this.limits();
      words = error ? colourise(metres, s.keep[key], limits, this.luts[v.error_cmap])
        : colourise(metres, null, limits, this.luts[v.cmap],
                    { scale: v.scale, invert: v.invert, striped: v.cmap === "gray", width: s.width });
    }
    return this.painted[key] = toCanvas(words, s.width, s.height);
  }

  drawPicture(ctx, key, w, hh, clip = null) {
    const s = this.shot, z = this.zoom, sw = s.width/z.k, sh = s.height/z.k;
    ctx.save();
    if (clip) { ctx.beginPath(); ctx.rect(clip[0], 0, clip[1], hh); ctx.clip(); }
    ctx.imageSmoothingEnabled = key === "rgb" && w > 0 && sw/w > 1;
    ctx.drawImage(this.picture(key), z.x*s.width - sw/2, z.y*s.height - sh/2, sw, sh, 0, 0, w, hh);
    ctx.restore();
  }

  toPage(u, v, w, hh) { // the middle of a pixel, on the panel
    const s = this.shot, z = this.zoom;
    return [((u + .5)/s.width - z.x)*z.k*w + w/2, ((v + .5)/s.height - z.y)*z.k*hh + hh/2];
  }

  paintPanel(ctx, key, w, hh) {
    if (key === "swipe") {
      const x = this.split*w;
      this.drawPicture(ctx, this.pair[0], w, hh, [0, x]);
      this.drawPicture(ctx, this.pair[1], w, hh, [x, w - x]);
      ctx.fillStyle = "#fff";
      ctx.fillRect(x - 2, 0, 4, hh);
      ctx.fillStyle = "#000";
      ctx.fillRect(x - .75, 0, 1.5, hh);
      ctx.font = "bold 13px system-ui, sans-serif";
      for (const [k, at, side] of [[0, x - 8, "right"], [1, x + 8, "left"]]) {
        const text = this.name(this.pair[k]), wide = ctx.measureText(text).width;
        ctx.fillStyle = "rgba(0,0,0,.65)";
        ctx.fillRect(side === "right" ? at - wide - 4 : at - 4, 6, wide + 8, 20);
        ctx.fillStyle = "#fff";
        ctx.textAlign = side;
        ctx.fillText(text, at, 21);
      }
    } else this.drawPicture(ctx, key, w, hh);
    if (this.line) {
      const [a, b] = this.line.map(([u, v]) => this.toPage(u, v, w, hh));
      for (const [ink, thick] of [["#000", 4], ["#fff", 1.6]]) {
        ctx.strokeStyle = ink;
        ctx.lineWidth = thick;
        ctx.beginPath();
        ctx.moveTo(...a);
        ctx.lineTo(...b);
        ctx.stroke();
      }
    }
    if (this.probe) {
      const [x, y] = this.toPage(...this.probe, w, hh);
      for (const [ink, thick] of [["#000", 3], ["#fff", 1.2]]) {
        ctx.strokeStyle = ink;
        ctx.lineWidth = thick;
        ctx.beginPath();
        for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
          ctx.moveTo(x + 4*dx, y + 4*dy);
          ctx.lineTo(x + 12*dx, y + 12*dy);
        }
        ctx.stroke();
      }
    }
  }

  paint(plots = true) {
    if (!this.shot?.width || !this.setup || this.view.layout === "scenes") return;
    const s = this.shot;
    for (const canvas of this.root.querySelectorAll("canvas[data-key]")) {
      const key = canvas.dataset.key;
      if (key === "cloud") { this.cloud.draw(); continue; }
      canvas.style.aspectRatio = `${s.width} / ${s.height}`;
      if (key === "swipe") canvas.style.maxWidth = `calc(72vh*${(s.width/s.height).toFixed(4)})`;
      const w = canvas.clientWidth, hh = canvas.clientHeight;
      if (!w) continue;
      this.paintPanel(sized(canvas, w, hh), key, w, hh);
      canvas.setAttribute("aria-label", key === "swipe" ? `${this.name(this.pair[0])} left of the divider, ` +
        `${this.name(this.pair[1])} right of it` : `${this.name(key)}, ${s.description}`);
    }
    this.values();
    if (!plots) return;
    for (const [name, error] of [["depth-bar", false], ["error-bar", true]]) {
      const bar = this.$(name);
      if (bar?.clientWidth) this.bar(sized(bar, bar.clientWidth, 46), bar.clientWidth, error);
    }
    this.plots();
  }

  bar(ctx, w, error) {
    const v = this.view, [low, high] = error ? [-this.reach(), this.reach()] : this.limits();
    const lut = this.luts[error ? v.error_cmap : v.cmap], scale = error ? "linear" : v.scale;
    const { a, k, f } = ramp([low, high], scale), pad = 24, wide = w - 2*pad;
    ctx.clearRect(0, 0, w, 46);
    for (let x = 0; x < wide; x++) {
      const d = low + (high - low)*x/wide;
      let t = Math.max(0, Math.min(255, ((f ? f(Math.max(d, 1e-3)) : d) - a)*k*255)) | 0;
      if (!error && v.invert) t = 255 - t;
      const c = lut[t];
      ctx.fillStyle = `rgb(${c & 255},${(c >> 8) & 255},${(c >> 16) & 255})`;
      ctx.fillRect(pad + x, 2, 1.5, 12);
    }
    ctx.fillStyle = getComputedStyle(this.root).color;
    ctx.font = "12px system-ui, sans-serif";
    ctx.textAlign = "center";
    for (const t of ticks(low, high)) ctx.fillText((error && t > 0 ? "+" : "") + t, pad + (t - low)/(high - low)*wide, 27);
    const label = error ? "predicted − true (m); negative: too near" :
      `depth (m)${scale === "linear" ? "" : `, colours by ${scale}`}; ${v.cmap === "gray" ? "striped" : "grey"}: no depth`;
    ctx.fillText(label, w/2, 42, wide);
    this.$(error ? "error-bar" : "depth-bar")?.setAttribute("aria-label", `${label}, from ${low.toFixed(2)} to ${high.toFixed(2)}`);
  }

  // ---- what is under the probe
  at(key) {
    const [u, v] = this.probe, i = v*this.shot.width + u;
    if (key === "rgb") return `rgb ${this.shot.rgb.slice(3*i, 3*i + 3).join(" ")}`;
    return metre(this.shot.maps[key]?.[i] ?? NaN, key.startsWith("err:"));
  }

  values() {
    const s = this.shot;
    for (const figure of this.root.querySelectorAll(".sd-panel")) {
      const key = figure.querySelector("canvas").dataset.key;
      if (key === "cloud") continue;
      const text = !this.probe ? "" : key === "swipe" ?
        this.pair.map((k) => `${this.name(k)} ${this.at(k)}`).join(" | ") : this.at(key);
      figure.querySelector(".sd-value").textContent = text;
    }
    if (!this.probe) return;
    const [u, v] = this.probe, i = v*s.width + u, truth = s.maps.truth[i];
    const said = s.preds.map(({ name }) => {
      const p = s.maps[`pred:${name}`][i];
      if (s.blind) return `${name} ${metre(p)}`;
      return `${name} ${metre(p)}, error ${metre(p - truth, true)}, ratio ${Number.isFinite(p/truth) ? (p/truth).toFixed(3) : "none"}`;
    });
    this.$("readout").textContent = [`column ${u}, row ${v}`, ...(s.blind ? [] : [`truth ${metre(truth)}`]), ...said].join("  |  ");
  }

  pixel(e, canvas) {
    const r = canvas.getBoundingClientRect(), s = this.shot, z = this.zoom;
    const u = (z.x + ((e.clientX - r.left)/r.width - .5)/z.k)*s.width, v = (z.y + ((e.clientY - r.top)/r.height - .5)/z.k)*s.height;
    return [u, v];
  }

  inside([u, v]) {
    const s = this.shot;
    return [Math.min(s.width - 1, Math.max(0, Math.floor(u))), Math.min(s.height - 1, Math.max(0, Math.floor(v)))];
  }

  pointing(canvas) {
    let held = null;
    canvas.addEventListener("pointerdown", (e) => {
      canvas.setPointerCapture(e.pointerId);
      const r = canvas.getBoundingClientRect(), near = Math.abs((e.clientX - r.left)/r.width - this.split)*r.width < 14;
      held = canvas.dataset.key === "swipe" && near ? { divider: true } : this.tool === "line" ? { from: this.inside(this.pixel(e, canvas)) }
        : { x: e.clientX, y: e.clientY, zoom: { ...this.zoom } };
      this.root.focus({ preventScroll: true });
      e.preventDefault();
    });
    canvas.addEventListener("pointermove", (e) => {
      if (!this.shot?.width) return;
      const r = canvas.getBoundingClientRect();
      if (held?.divider) {
        this.split = Math.max(0, Math.min(1, (e.clientX - r.left)/r.width));
        this.$("divider").value = this.split;
      } else if (held?.from) this.line = [held.from, this.inside(this.pixel(e, canvas))];
      else if (held) {
        this.zoom = { k: held.zoom.k, x: held.zoom.x - (e.clientX - held.x)/r.width/held.zoom.k,
                      y: held.zoom.y - (e.clientY - held.y)/r.height/held.zoom.k };
        this.clampZoom();
      }
      this.probe = this.inside(this.pixel(e, canvas));
      this.paint(!!held?.from);
    });
    const drop = () => { held = null; };
    canvas.addEventListener("pointerup", drop);
    canvas.addEventListener("pointercancel", drop);
    canvas.addEventListener("dblclick", () => this.zoomBy(0));
    canvas.addEventListener("wheel", (e) => {
      if (!e.ctrlKey && !this.root.contains(document.activeElement)) return; // else the page scrolls
      e.preventDefault();
      this.zoomBy(Math.exp(-e.deltaY/300), this.pixel(e, canvas));
    }, { passive: false });
  }

  clampZoom() {
    const z = this.zoom, edge = .5/z.k;
    z.x = Math.min(1 - edge, Math.max(edge, z.x));
    z.y = Math.min(1 - edge, Math.max(edge, z.y));
  }

  zoomBy(factor, about = null) {
    if (this.view.layout === "cloud") return factor ? this.cloud?.move(0, 0, 1/factor) : this.cloud?.reset();
    const z = this.zoom, s = this.shot;
    if (!s?.width) return;
    if (!factor) this.zoom = { k: 1, x: .5, y: .5 };
    else {
      const k = Math.min(64, Math.max(1, z.k*factor)), [u, v] = about ?? this.probe ?? [z.x*s.width, z.y*s.height];
      const [x, y] = [u/s.width, v/s.height];
      this.zoom = { k, x: x + (z.x - x)*z.k/k, y: y + (z.y - y)*z.k/k };
      this.clampZoom();
    }
    this.root.dataset.zoom = this.zoom.k.toFixed(3);
    this.paint(false);
  }

  // ---- numbers
  table() {
    const s = this.shot, names = Object.keys(s.scores ?? {}), box = this.$("table");
    if (!names.length) return box.replaceChildren();
    const rows = this.setup.metrics.map((m) => {
      const values = names.map((n) => s.scores[n][m.name]), seen = values.filter((x) => x !== null && x !== undefined);
      const best = names.length > 1 && seen.length > 1 ? (m.higher ? Math.max(...seen) : Math.min(...seen)) : null;
      return h("tr", {}, h("th", { scope: "row", title: m.formula }, `${m.name}${m.unit ? ` (${m.unit})` : ""} ${m.higher ? "↑" : "↓"}`),
        ...values.map((x) => h("td", { class: x === best && best !== null ? "sd-best" : "" }, x === null || x === undefined ? "–" : x.toFixed(3))));
    });
    box.replaceChildren(h("table", {}, h("caption", {}, s.protocol),
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "metric"), ...names.map((n) => h("th", { scope: "col" }, n)))),
      h("tbody", {}, ...rows)));
  }

  histogramSeries() {
    const s = this.shot, limits = this.limits(), x = Array.from({ length: 64 }, (_, i) => limits[0] + (i + .5)/64*(limits[1] - limits[0]));
    const keys = [...(s.blind ? [] : ["truth"]), ...this.models().map((n) => `pred:${n}`)].filter((k) => s.maps[k]);
    return keys.map((k) => ({ name: this.name(k), x, y: histogram(s.maps[k], null, limits), ink: INK[k === "truth" ? 0 : 1 + this.models().indexOf(k.slice(5))] }));
  }

  profileSeries() {
    const [[u0, v0], [u1, v1]] = this.line, s = this.shot, n = Math.max(2, Math.ceil(Math.hypot(u1 - u0, v1 - v0)) + 1);
    const x = Array.from({ length: n }, (_, i) => i/(n - 1)*Math.hypot(u1 - u0, v1 - v0));
    const pixel = x.map((_, i) => Math.round(v0 + (v1 - v0)*i/(n - 1))*s.width + Math.round(u0 + (u1 - u0)*i/(n - 1)));
    const keys = [...(s.blind ? [] : ["truth"]), ...this.models().map((m) => `pred:${m}`)].filter((k) => s.maps[k]);
    return keys.map((k) => ({ name: this.name(k), x, y: pixel.map((i) => s.maps[k][i]), ink: INK[k === "truth" ? 0 : 1 + this.models().indexOf(k.slice(5))] }));
  }

  plots() {
    const s = this.shot, hist = this.$("histogram"), profile = this.$("profile");
    hist.hidden = !s.width;
    profile.hidden = !s.width || !this.line;
    if (!hist.hidden && hist.clientWidth) {
      this.counts = this.counts?.shot === s && this.counts.key === String(this.limits()) + this.models() ? this.counts
        : { shot: s, key: String(this.limits()) + this.models(), series: this.histogramSeries() };
      const at = this.probe && s.maps.truth[this.probe[1]*s.width + this.probe[0]];
      plot(sized(hist, hist.clientWidth, 170), { x: 0, y: 0, w: hist.clientWidth, h: 170 }, this.counts.series,
           { xlabel: "depth (m)", ylabel: "% of pixels", zero: true, mark: Number.isFinite(at) ? at : null });
    }
    if (!profile.hidden && profile.clientWidth)
      plot(sized(profile, profile.clientWidth, 170), { x: 0, y: 0, w: profile.clientWidth, h: 170 }, this.profileSeries(),
           { xlabel: "pixels along the line", ylabel: "depth (m)" });
  }

  // ---- 3-D
  cloudKeys() { return [...(this.shot.blind ? [] : ["truth"]), ...this.models().map((n) => `pred:${n}`)].filter((k) => this.shot.maps[k]); }

  fillCloud() {
    const s = this.shot;
    if (!this.cloud?.works || !s.width) return;
    const keys = this.cloudKeys(), f = 2*s.camera[1]/s.height;
    const clouds = keys.map((key) => {
      const ink = this.cloudInk === "error" && key === "truth" ? "depth" : this.cloudInk;
      const { at, from, step } = lift(s.maps[key], s.width, s.height, s.camera, ink === "error" ? s.keep[`err:${key.slice(5)}`] : null), out = new Uint8Array(3*from.length);
      const source = ink === "rgb" ? "rgb" : ink === "depth" ? key : `err:${key.slice(5)}`;
      const words = this.picture(s.maps[source] || source === "rgb" ? source : key).getContext("2d").getImageData(0, 0, s.width, s.height).data;
      from.forEach((p, i) => { out[3*i] = words[4*p]; out[3*i + 1] = words[4*p + 1]; out[3*i + 2] = words[4*p + 2]; });
      return { at, ink: out, step };
    });
    const middle = keys.map((k) => s.maps[k].filter((x) => x > 0).sort()).map((z) => z[z.length >> 1] ?? 1);
    this.cloud.set(clouds, Math.max(.1, middle.reduce((a, b) => a + b, 0)/middle.length), f);
    const figure = this.root.querySelector("canvas[data-key=cloud]").parentNode;
    figure.querySelector("figcaption").replaceChildren(...keys.map((k) => h("span", {}, this.name(k))));
    this.root.dataset.points = clouds.map((c) => c.at.length/3).join(" ");
    this.root.querySelector("canvas[data-key=cloud]").setAttribute("aria-label", `point clouds: ${keys.map((k) => this.name(k)).join(", ")}; ` +
      `drag or arrow keys with shift turn them${s.camera_known ? "" : "; camera unknown, 60 degrees assumed"}`);
    figure.querySelector(".sd-value").textContent = s.camera_known ? "" : "camera unknown: a vertical field of view of 60° is assumed";
  }

  orbiting(canvas) {
    let held = null;
    canvas.addEventListener("pointerdown", (e) => { canvas.setPointerCapture(e.pointerId); held = [e.clientX, e.clientY]; this.root.focus({ preventScroll: true }); });
    canvas.addEventListener("pointermove", (e) => {
      if (!held) return;
      this.cloud.move((e.clientX - held[0])*.008, (e.clientY - held[1])*.008);
      held = [e.clientX, e.clientY];
    });
    canvas.addEventListener("pointerup", () => { held = null; });
    canvas.addEventListener("dblclick", () => this.cloud.reset());
    canvas.addEventListener("wheel", (e) => {
      if (!e.ctrlKey && !this.root.contains(document.activeElement)) return;
      e.preventDefault();
      this.cloud.move(0, 0, Math.exp(e.deltaY/400));
    }, { passive: false });
  }

  // ---- the whole set at a glance
  overview(stage) {
    if (this.built === `scenes${this.version}`) return;
    this.built = `scenes${this.version}`;
    this.thumbs = [];
    stage.className = "sd-stage sd-scenes";
    stage.replaceChildren(h("div", { class: "sd-thumbs", "data-name": "thumbs" }),
      this.button("more", "more scenes", "show more scenes", () => this.send({ kind: "thumbs", from: this.thumbs.length })),
      h("p", { "data-name": "share", class: "sd-caption" }));
    this.send({ kind: "thumbs", from: 0 });
  }

  thumb(m) {
    const grid = this.$("thumbs");
    if (!grid || m.from !== this.thumbs.length) return;
    this.thumbs.push(...m.scenes);
    for (const t of m.scenes) {
      const words = t.problem ?? `${t.scene}, ${t.captures} captures, ${(100*t.valid).toFixed(1)} % valid, median ${metre(t.median)}`;
      const open = () => { this.set({ layout: "side" }); this.go(t.position); };
      grid.append(h("button", { type: "button", class: "sd-thumb", title: words, onclick: open },
        t.png ? h("img", { src: `data:image/png;base64,${t.png}`, alt: words }) : h("span", {}, t.problem),
        h("span", {}, `${t.scene}  ${t.problem ? "" : `${(100*t.valid).toFixed(1)} % valid`}`)));
    }
    this.$("more").hidden = this.thumbs.length >= m.total;
    const seen = this.thumbs.filter((t) => t.counts), hist = this.$("histogram");
    this.$("share").textContent = `${this.thumbs.length} of ${m.total} scenes shown, one capture each; histogram over these`;
    if (!seen.length || !hist.clientWidth) return;
    const y = seen[0].counts.map((_, i) => seen.reduce((sum, t) => sum + t.counts[i], 0)/seen.length);
    const x = y.map((_, i) => (i + .5)/y.length*m.deepest);
    plot(sized(hist, hist.clientWidth, 170), { x: 0, y: 0, w: hist.clientWidth, h: 170 }, [{ name: "truth, mean over scenes", x, y }],
         { xlabel: "depth (m)", ylabel: "% of pixels", zero: true });
  }

  // ---- export
  save(format) {
    const s = this.shot;
    if (!s?.width) return this.say({ text: "nothing to save: no capture is shown" });
    const keys = this.view.layout === "side" ? this.sources() : this.view.layout === "swipe" ? ["swipe"] : this.view.layout === "cloud" ? ["cloud"] : [];
    if (!keys.length) return this.say({ text: "nothing to save: the overview has no export, use synthdepth check --page" });
    const columns = keys.length === 6 ? 3 : Math.min(4, keys.length), ratio = 2;
    const width = keys.length === 1 ? 960 : Math.max(320, Math.min(480, s.width)), gap = 12, head = 24;
    const shape = keys[0] === "cloud" ? this.cloud.canvas.height/this.cloud.canvas.width : s.height/s.width, tall = Math.round(width*shape);
    const rows = Math.ceil(keys.length/columns), total = columns*(width + gap) - gap, plotted = 190;
    const out = document.createElement("canvas"), bottom = 30 + rows*(head + tall + gap);
    out.width = (total + 24)*ratio;
    out.height = (bottom + 54 + plotted + 26)*ratio;
    const ctx = out.getContext("2d"), margin = 12;
    ctx.scale(ratio, ratio);
    ctx.fillStyle = "#fff";
    ctx.fillRect(0, 0, out.width, out.height);
    ctx.translate(margin, 0);
    ctx.fillStyle = "#111";
    ctx.font = "bold 15px system-ui, sans-serif";
    ctx.fillText(s.title, 0, 18, total);
    ctx.font = "14px system-ui, sans-serif";
    const probe = this.probe;
    keys.forEach((key, k) => {
      const x = (k % columns)*(width + gap), y = 30 + Math.floor(k/columns)*(head + tall + gap);
      ctx.fillStyle = "#111";
      ctx.textAlign = "left";
      if (key !== "swipe") ctx.fillText(key === "cloud" ? this.cloudKeys().map((n) => this.name(n)).join(" | ") : this.name(key), x, y + 16, width);
      ctx.save();
      ctx.translate(x, y + head);
      ctx.beginPath();
      ctx.rect(0, 0, width, tall);
      ctx.clip();
      if (key === "cloud") ctx.drawImage(this.cloud.canvas, 0, 0, width, tall);
      else this.paintPanel(ctx, key, width, tall);
      ctx.restore();
    });
    this.probe = probe;
    const half = total/2 - gap/2;
    [false, ...(this.setup.models.length && !s.blind ? [true] : [])].forEach((error, k) => {
      const strip = document.createElement("canvas");
      strip.width = half*ratio;
      strip.height = 46*ratio;
      const c = strip.getContext("2d");
      c.scale(ratio, ratio);
      const ink = this.root.style.color;
      this.root.style.color = "#111";
      this.bar(c, half, error);
      this.root.style.color = ink;
      ctx.drawImage(strip, k*(half + gap), bottom, half, 46);
    });
    const box = (k) => ({ x: k*(half + gap), y: bottom + 54, w: half, h: plotted });
    plot(ctx, box(0), this.histogramSeries(), { xlabel: "depth (m)", ylabel: "% of pixels", zero: true });
    if (this.line) plot(ctx, box(1), this.profileSeries(), { xlabel: "pixels along the line", ylabel: "depth (m)" });
    ctx.fillStyle = "#111";
    ctx.textAlign = "left";
    ctx.font = "12px system-ui, sans-serif";
    ctx.fillText([s.protocol, this.$("readout").textContent].filter((t) => t && t !== "point at a pixel").join("   "), 0, bottom + 54 + plotted + 18, total);
    out.toBlob(async (blob) => {
      this.model.send({ kind: "save", format, title: s.title, layout: this.view.layout }, undefined, [await blob.arrayBuffer()]);
    });
  }

  // ---- keys
  key(e) {
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(e.target.tagName) && e.target.type !== "checkbox";
    if (typing || e.ctrlKey || e.metaKey || e.altKey || !this.setup) return;
    const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }, v = this.view;
    const maps = this.setup.depth_maps;
    if (e.shiftKey && arrows[e.key]) {
      const [du, dv] = arrows[e.key];
      if (v.layout === "cloud") this.cloud?.move(du*.1, dv*.1);
      else if (this.shot?.width) {
        const [u, w] = this.probe ?? [this.shot.width >> 1, this.shot.height >> 1];
        this.probe = this.inside([u + du, w + dv]);
        this.paint();
      }
    } else {
      const act = {
        ArrowLeft: () => this.go(this.position - 1), ArrowRight: () => this.go(this.position + 1),
        PageUp: () => this.go(this.position - 10), PageDown: () => this.go(this.position + 10),
        Home: () => this.go(1), End: () => this.go(this.n),
        "+": () => this.zoomBy(1.5), "=": () => this.zoomBy(1.5), "-": () => this.zoomBy(1/1.5), 0: () => this.zoomBy(0),
        s: () => this.set({ layout: "side" }), w: () => this.set({ layout: "swipe" }), c: () => this.set({ layout: "cloud" }),
        o: () => this.set({ layout: "scenes" }), i: () => this.set({ invert: !v.invert }),
        m: () => this.set({ cmap: maps[(maps.indexOf(v.cmap) + 1) % maps.length] }), e: () => this.save("png"),
        l: () => {
          const row = this.probe?.[1] ?? this.shot.height >> 1;
          this.line = this.line ? null : [[0, row], [this.shot.width - 1, row]];
          this.paint();
        },
      }[e.key];
      if (!act) return;
      act();
    }
    e.preventDefault();
    e.stopPropagation();
  }
}

function render({ model, el }) {
  const inspector = new Inspector(model, el);
  return () => inspector.destroy();
}

export default { render };
