// The depth inspector: its controls, its keys, and what it says to the kernel, which only answers with depth maps.
const VIEWS = [["side", "side by side", "s"], ["swipe", "swipe", "w"], ["cloud", "3-D", "c"], ["scenes", "overview", "o"]];
const TOOLS = [["pan", "move", "drag the picture"], ["line", "profile", "drag a line, the depth along it is drawn"]];
const KEYS = [["← →", "previous, next capture"], ["Home End", "first, last capture"], ["Page ↑ ↓", "ten captures on or back"],
  ["Shift + arrows", "move the probe, or turn the cloud"], ["+ −", "zoom at the probe"], ["0", "whole picture, cloud turned back"],
  ["S W C O", "side by side, swipe, 3-D cloud, overview"], ["M", "next colour map"], ["I", "invert the colours"],
  ["L", "profile through the row of the probe, and away"], ["E", "save as PNG"], ["wheel", "zoom, once the page was clicked, or with Ctrl"],
  ["double click", "whole picture"], ["Esc", "close what is open"]];

class Inspector extends Summary {
  constructor(model, el) {
    super();
    Object.assign(this, { model, el, setup: null, shot: null, version: -1, n: 0, position: 0, kept: new Map(), asked: new Set() });
    Object.assign(this, { zoom: { k: 1, x: .5, y: .5 }, probe: null, line: null, tool: "pan", split: .5, waiting: null });
    Object.assign(this, { painted: {}, luts: {}, direction: 1, scoring: false, started: null, thumbs: [], choices: {} });
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
    this.drop();
  }

  get view() { return this.model.get("view"); }
  send(content) { this.model.send(content); }

  receive(m, buffers) {
    const act = { setup: "begin", capture: "arrive", state: "state", scored: "progress", said: "said", thumbs: "thumb" }[m.kind];
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

  field(text, control) { return h("label", { class: "sd-field" }, h("span", {}, text), control); }

  select(name, text, options, change, chosen) {
    return this.field(text, h("select", { "data-name": name, onchange: (e) => change(e.target.value) },
                              ...options.map(([v, t]) => this.option(v, t, chosen))));
  }

  button(name, text, title, act) {
    return h("button", { type: "button", "data-name": name, title, "aria-label": title, onclick: act }, text);
  }

  check(name, text, change) {
    return h("label", { class: "sd-check" },
             h("input", { type: "checkbox", "data-name": name, onchange: (e) => change(e.target.checked) }), text);
  }

  metres(name, text, change) {
    const done = (e) => Number.isFinite(e.target.valueAsNumber) && change(e.target.valueAsNumber);
    return this.field(text, h("input", { type: "number", "data-name": name, step: .1, onchange: done, onkeydown: (e) => e.key === "Enter" && done(e) }));
  }

  group(label, ...children) { return h("div", { class: "sd-group", role: "group", "aria-label": label }, ...children); }

  toggles(label, kind, options, act) { // buttons of which one is pressed
    return this.group(label, h("span", { class: "sd-toggles", "data-name": kind }, ...options.map(([value, text, title]) =>
      h("button", { type: "button", "data-value": value, "data-kind": kind, title: title.length === 1 ? `${text} (${title})` : title,
                    "aria-pressed": "false", onclick: () => act(value) }, text))));
  }

  press(kind, value) {
    for (const b of this.root.querySelectorAll(`[data-kind="${kind}"]`)) b.setAttribute("aria-pressed", String(b.dataset.value === value));
  }

  page() {
    const stage = h("div", { "data-name": "stage", class: "sd-stage" });
    const plotted = (name, label) => h("canvas", { "data-name": name, class: "sd-plot", role: "img", "aria-label": label, hidden: true });
    const aside = h("div", { class: "sd-aside" },
      h("div", { "data-name": "readout", class: "sd-numbers", role: "status" }, h("p", {}, "Point at a pixel: depth in metres, error and ratio.")),
      h("div", { "data-name": "table", class: "sd-numbers" }), h("div", { "data-name": "about", class: "sd-numbers", hidden: true }),
      plotted("histogram", "histogram of depth"), plotted("profile", "depth along the line"));
    return [h("div", { class: "sd-row" }, this.captures(), h("span", { class: "sd-row sd-openers" }, ...this.openers())),
      ...this.drawers(), this.tools(),
      h("div", { "data-name": "message", class: "sd-message", role: "status", "aria-live": "polite" }),
      h("div", { class: "sd-body" }, h("div", { class: "sd-main" }, stage, h("p", { "data-name": "caption", class: "sd-caption" })), aside)];
  }

  captures() {
    return h("div", { class: "sd-row sd-captures", role: "group", "aria-label": "captures", "data-name": "captures" },
      this.button("previous", "◀", "previous capture (left arrow)", () => this.go(this.position - 1)),
      h("input", { type: "range", min: 1, max: Math.max(1, this.setup.n), value: 1, "data-name": "slider", "aria-label": "capture",
                   oninput: (e) => this.go(+e.target.value) }),
      this.button("next", "▶", "next capture (right arrow)", () => this.go(this.position + 1)),
      h("output", { "data-name": "where", class: "sd-where" }));
  }

  tools() {
    const set = (name) => (v) => this.set({ [name]: v });
    const mouse = h("span", { "data-name": "mouse", class: "sd-row" },
      this.toggles("what the mouse does", "tool", TOOLS, (v) => { this.tool = v; this.press("tool", v); }),
      this.group("zoom", this.button("out", "−", "zoom out (-)", () => this.zoomBy(1/1.5)),
        this.button("whole", "100 %", "show the whole picture (0)", () => this.zoomBy(0)),
        this.button("in", "+", "zoom in (+)", () => this.zoomBy(1.5))));
    const swipe = h("span", { "data-name": "swipe-controls", class: "sd-row", hidden: true },
      this.select("left", "left", [], set("left")), this.select("right", "right", [], set("right")),
      h("input", { type: "range", min: 0, max: 1, step: .005, value: .5, "data-name": "divider", "aria-label": "divider",
                   oninput: (e) => { this.split = +e.target.value; this.paint(false); } }));
    const cloud = h("span", { "data-name": "cloud-controls", class: "sd-row", hidden: true },
      this.select("ink", "points by", [["rgb", "picture"], ["depth", "depth"], ...(this.setup.error_maps.length ? [["error", "error"]] : [])],
                  () => this.fillCloud()));
    return h("div", { class: "sd-row sd-tools" }, this.toggles("view", "layout", VIEWS, set("layout")), mouse, swipe, cloud);
  }

  openers() {
    const s = this.setup, list = [["which", "captures"], ...(s.models.length ? [["models", "models"]] : []), ["colours", "colours"], ["save", "save"], ["keys", "keys"]];
    return list.map(([name, text]) => h("button", { type: "button", class: "sd-opener", "data-opens": name, "aria-expanded": "false",
      "aria-controls": `${s.still}-${name}`, onclick: () => this.open(name) }, h("span", {}, text), h("span", { class: "sd-now", "data-now": name })));
  }

  open(name) { // one drawer at a time; the same name again closes it
    for (const b of this.root.querySelectorAll("[data-opens]")) {
      const open = b.dataset.opens === name && b.getAttribute("aria-expanded") === "false";
      b.setAttribute("aria-expanded", String(open));
      this.root.querySelector(`[data-drawer="${b.dataset.opens}"]`).hidden = !open;
    }
    this.paint();
  }

  drawers() {
    const s = this.setup, pick = (name) => (v) => this.choose({ [name]: v === "" ? null : v }), set = (name) => (v) => this.set({ [name]: v });
    const same = (xs) => xs.map((x) => [x, x]), drawer = (name, label, ...children) =>
      h("div", { class: "sd-drawer", id: `${s.still}-${name}`, "data-drawer": name, role: "group", "aria-label": label, hidden: true }, ...children);
    const errors = s.error_maps.length && s.models.length;
    const scene = this.field("scene", h("input", { list: `${s.still}-scenes`, "data-name": "scene", placeholder: "all",
      oninput: (e) => (e.target.value === "" || s.scenes.includes(e.target.value)) && this.pickScene(e.target.value),
      onchange: (e) => this.pickScene(e.target.value), onkeydown: (e) => e.key === "Enter" && this.pickScene(e.target.value) }));
    return [
      drawer("which", "which captures, in which order", scene, h("datalist", { id: `${s.still}-scenes` }, ...s.scenes.map((x) => h("option", { value: x }))),
        s.splits.length > 1 ? this.select("split", "split", [["", "all"], ...same(s.splits)], pick("split")) : null,
        s.corruptions.length ? this.select("corruption", "corruption", [["", "none"], ...same(s.corruptions)], pick("corruption")) : null,
        s.corruptions.length ? this.select("severity", "severity", same([1, 2, 3, 4, 5]), (v) => this.choose({ severity: +v })) : null,
        s.names.length ? this.select("sort", "order", [["", "as stored"], ...s.metrics.map((m) => [m.name, `worst ${m.name} first`])], pick("sort")) : null,
        s.names.length > 1 ? this.select("by", "of model", same(s.names), pick("by")) : null,
        s.models.length ? h("span", { class: "sd-row" },
          h("button", { type: "button", "data-name": "score", title: "predict and score every capture of this choice", onclick: () => this.scoreAll() }, "score all"),
          h("progress", { "data-name": "progress", max: 1, value: 0, hidden: true, "aria-label": "captures scored" }), h("span", { "data-name": "scored" })) : null),
      s.models.length ? drawer("models", "which models, scored how",
        s.models.length > 1 ? this.select("first", "first model", same(s.models), set("first")) : null,
        s.models.length > 1 ? this.select("second", "second model", [["", "none"], ...same(s.models)], set("second")) : null,
        s.protocols.length ? this.select("protocol", "protocol", same(s.protocols), pick("protocol")) : null) : null,
      drawer("colours", "colours", this.select("cmap", "depth", same(s.depth_maps), set("cmap")),
        this.select("scale", "scale", same(Object.keys(SCALES)), set("scale")),
        this.metres("low", "from (m)", (v) => this.set({ fit: false, limits: [v, this.limits()[1]], reach: this.reach() })),
        this.metres("high", "to (m)", (v) => this.set({ fit: false, limits: [this.limits()[0], v], reach: this.reach() })),
        errors ? this.select("error_cmap", "error", same(s.error_maps), set("error_cmap")) : null,
        errors ? this.metres("reach", "error up to ± (m)", (v) => this.set({ fit: false, reach: v, limits: this.limits() })) : null,
        this.check("invert", "invert depth", set("invert")), this.check("fit", "fit to each capture", set("fit"))),
      drawer("save", "save this view", this.button("png", "PNG", "save this view as PNG (e)", () => this.save("png")),
        this.button("pdf", "PDF", "save this view as PDF", () => this.save("pdf")), h("span", {}, `into ${s.figures}`)),
      drawer("keys", "keys", h("dl", { class: "sd-keys" }, ...KEYS.flatMap(([k, what]) => [h("dt", {}, k), h("dd", {}, what)]))),
    ].filter(Boolean);
  }

  summaries() { // what is chosen, on the button that opens the choices
    const c = this.choices, v = this.view, now = (name, text) => { const el = this.root.querySelector(`[data-now="${name}"]`); if (el) el.textContent = text; };
    now("which", [c.scene, c.split, c.corruption && `${c.corruption} ${c.severity}`, c.sort && `worst ${c.sort}`].filter(Boolean).join(", ") || "all");
    now("models", [this.models().join(" / ") || this.setup.models[0], c.protocol].filter(Boolean).join("; "));
    now("colours", `${v.cmap}${v.scale === "linear" ? "" : `, ${v.scale}`}, ${this.shot?.width ? `${this.limits().map((x) => x.toFixed(1)).join(" to ")} m` : ""}${v.fit ? "" : " fixed"}`);
  }

  // ---- choices
  set(values) { // what is seen here alone
    this.model.set("view", { ...this.view, ...values });
    this.model.save_changes();
  }

  choose(values) { // what the kernel must answer
    this.started = performance.now();
    this.busy();
    this.send({ kind: "choose", values });
  }

  pickScene(text) {
    const scene = text.trim() || null;
    if (scene === this.choices.scene) return;
    this.choices.scene = scene;
    this.choose({ scene });
  }

  follow() { // the view was changed, here or in code
    const v = this.view;
    for (const name of ["first", "second", "cmap", "error_cmap", "scale"])
      if (this.$(name)) this.$(name).value = v[name] ?? "";
    for (const name of ["invert", "fit"]) this.$(name).checked = v[name];
    this.press("layout", v.layout);
    this.press("tool", this.tool);
    this.painted = {};
    this.build();
  }

  state(m) {
    if (m.version !== this.version) { this.kept.clear(); this.asked.clear(); }
    this.version = m.version;
    this.n = m.n;
    this.position = m.position;
    this.waiting = null;
    this.choices = { scene: null, ...m.choices };
    this.$("slider").max = Math.max(1, m.n);
    for (const name of ["scene", "split", "corruption", "severity", "sort", "by", "protocol"])
      if (this.$(name)) this.$(name).value = m.choices[name] ?? "";
    if (this.$("severity")) this.$("severity").disabled = !m.choices.corruption;
    this.summaries();
  }

  // ---- from capture to capture
  go(position, since = performance.now()) {
    position = Math.min(Math.max(1, position), Math.max(1, this.n));
    if (position === this.position && this.shot) return;
    this.direction = position >= this.position ? 1 : -1;
    this.position = position;
    this.started = since;
    this.$("slider").value = position;
    const kept = this.kept.get(position);
    if (!kept) return this.ask();
    this.send({ kind: "at", position });
    this.show(kept);
  }

  ask() { // one capture at a time: a key that is held down must not leave a queue behind
    const now = performance.now();
    if (this.waiting && now - this.waiting.since < 20000) return;
    this.waiting = { position: this.position, since: now };
    this.send({ kind: "show", position: this.position });
    this.busy();
  }

  busy() { // said only where the answer takes long enough to wonder
    clearTimeout(this.late);
    this.late = setTimeout(() => {
      this.root.classList.add("sd-busy");
      this.$("where").textContent = `${this.position} / ${this.n}   reading and predicting ...`;
    }, 250);
  }

  ready() {
    clearTimeout(this.late);
    this.root.classList.remove("sd-busy");
  }

  arrive(m, buffers) {
    if (this.waiting?.position === m.position) this.waiting = null;
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
    const most = Math.min(24, Math.max(4, Math.round(24*640*480/(m.width*m.height || 1)))); // some 200 MB
    while (this.kept.size > most) this.kept.delete(this.kept.keys().next().value);
    if (m.position === this.position || m.now) { this.position = m.position; this.show(shot); }
    else if (!this.waiting && this.shot?.position !== this.position) this.kept.has(this.position) ? this.show(this.kept.get(this.position)) : this.ask();
  }

  show(shot) {
    this.shot = shot;
    this.painted = {};
    this.ready();
    if (this.probe && shot.width) this.probe = this.inside(this.probe);
    if (this.line && shot.width) this.line = this.line.map((p) => this.inside(p));
    this.$("slider").value = this.position;
    this.$("where").textContent = this.n ? `${this.position} / ${this.n}   ${shot.title ?? ""}` : "0 / 0";
    this.say({ text: [...shot.problems, shot.note].filter(Boolean).join("\n") });
    this.$("caption").textContent = shot.width ? shot.description : "";
    if (!shot.width) this.$("readout").replaceChildren();
    this.table();
    this.build();
    const started = this.started;
    this.started = null;
    requestAnimationFrame(() => {
      const channel = new MessageChannel();
      channel.port1.onmessage = () => { // after the frame is painted
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

  said(m) { // by the kernel, instead of an answer
    this.waiting = null;
    this.ready();
    this.say(m);
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
    this.$("scored").textContent = `${m.done} of ${m.total}`;
    if (m.done < m.total && this.scoring) return this.send({ kind: "score" });
    this.scoring = false;
    this.$("score").textContent = "score all";
    bar.hidden = true;
    this.send({ kind: "scored" });
  }

  // ---- keys
  key(e) {
    if (e.ctrlKey || e.metaKey || e.altKey || !this.setup) return;
    if (e.key === "Escape") { this.open(null); this.root.focus({ preventScroll: true }); return; }
    const own = e.target.type === "range" ? /^(Arrow|Page|Home|End)/.test(e.key) : /^(INPUT|SELECT|TEXTAREA)$/.test(e.target.tagName) && e.target.type !== "checkbox";
    if (own) return e.stopPropagation();
    const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[e.key];
    if (e.shiftKey && arrows) this.nudge(...arrows);
    else {
      const act = this.acts(e)[e.key.length === 1 ? e.key.toLowerCase() : e.key];
      if (!act) return;
      act();
    }
    e.preventDefault();
    e.stopPropagation();
  }

  nudge(du, dv) {
    if (this.view.layout === "cloud") this.cloud?.move(du*.1, dv*.1);
    else if (this.shot?.width) {
      const [u, v] = this.probe ?? [this.shot.width >> 1, this.shot.height >> 1];
      this.probe = this.inside([u + du, v + dv]);
      this.paint();
    }
  }

  acts(e) {
    const v = this.view, maps = this.setup.depth_maps, go = (p) => () => this.go(p, e.timeStamp), view = (layout) => () => this.set({ layout });
    return { ArrowLeft: go(this.position - 1), ArrowRight: go(this.position + 1), PageUp: go(this.position - 10),
      PageDown: go(this.position + 10), Home: go(1), End: go(this.n),
      "+": () => this.zoomBy(1.5), "=": () => this.zoomBy(1.5), "-": () => this.zoomBy(1/1.5), 0: () => this.zoomBy(0),
      s: view("side"), w: view("swipe"), c: view("cloud"), o: view("scenes"), i: () => this.set({ invert: !v.invert }),
      m: () => this.set({ cmap: maps[(maps.indexOf(v.cmap) + 1) % maps.length] }), e: () => this.save("png"), l: () => this.crossLine() };
  }

  crossLine() {
    if (!this.shot?.width) return;
    const row = this.probe?.[1] ?? this.shot.height >> 1;
    this.line = this.line ? null : [[0, row], [this.shot.width - 1, row]];
    this.paint();
  }
}

function render({ model, el }) {
  const inspector = new Inspector(model, el);
  return () => inspector.destroy();
}

export default { render };
