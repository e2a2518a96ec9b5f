// The depth inspector: what it asks the kernel, which only answers with depth maps, and what its
// keys do.
const KEPT = 256e6; // bytes of captures that the page keeps, so that going back asks nobody
const megabytes = (n) => `${(n / 1e6).toFixed(n < 1e7 ? 1 : 0)} MB`;

class Inspector extends Controls {
  constructor(model, el) {
    super();
    Object.assign(this, {
      model,
      el,
      setup: null,
      choices: {},
      version: -1,
      n: 0,
      position: 0,
      direction: 1,
    });
    Object.assign(this, {
      shot: null,
      kept: new Map(),
      asked: new Set(),
      waiting: null,
      started: null,
      scoring: false,
      reordering: 0,
      later: [],
    });
    Object.assign(this, {
      zoom: { k: 1, x: 0.5, y: 0.5 },
      probe: null,
      line: null,
      tool: "pan",
      split: 0.5,
    });
    Object.assign(this, { painted: {}, luts: {}, thumbs: [] });
    this.root = h("div", {
      class: "sd-root",
      tabindex: "0",
      role: "region",
      "aria-label": "depth inspector",
      "data-lm-suppress-shortcuts": "true",
      "data-jp-suppress-context-menu": "",
    });
    this.root.append(
      h(
        "p",
        { class: "sd-wait" },
        "Waiting for the kernel. If nothing follows, run the cell again.",
      ),
    );
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

  get view() {
    return this.model.get("view");
  }
  send(content) {
    this.model.send(content);
  }

  sendLarge(message, blob) {
    // in pieces that every server lets through, one large message after the other
    const text = `${megabytes(blob.size)} are too large to send: at most ${megabytes(LARGEST)}`;
    if (blob.size > LARGEST) return this.said({ text: `${message.title}: ${text}` });
    this.sending = (this.sending ?? Promise.resolve()).then(async () => {
      const about = { name: crypto.getRandomValues(new Uint32Array(2)).join("-"), bytes: blob.size };
      const piece = async (from) => [await blob.slice(from, from + PIECE).arrayBuffer()];
      let from = 0;
      for (; from + PIECE < blob.size; from += PIECE)
        this.model.send({ kind: "piece", ...about }, undefined, await piece(from));
      this.model.send({ ...message, ...about }, undefined, await piece(from));
    });
    return this.sending;
  }

  receive(m, buffers) {
    const act = {
      setup: "begin",
      capture: "arrive",
      state: "state",
      scored: "progress",
      said: "said",
      thumbs: "thumb",
    }[m.kind];
    if (act) this[act](m, buffers ?? []);
    // a new order is answered by a capture to be shown now, or by why there is none
    if (m.now || m.kind === "said") this.reordered();
  }

  // ---- the page
  begin(m) {
    this.setup = m;
    this.version = m.version;
    this.n = m.n;
    for (const [name, table] of Object.entries(m.maps)) this.luts[name] = lookup(table);
    this.kept.clear();
    Object.assign(this, { reordering: 0, later: [] });
    this.root.replaceChildren(...this.page());
    this.sizes.disconnect();
    this.sizes.observe(this.$("stage"));
    this.el.append(h("style", {}, `.${m.still} { display: none }`));
    this.follow();
    this.state(m);
  }

  // ---- choices
  set(values) {
    // what is seen here alone
    this.model.set("view", { ...this.view, ...values });
    this.model.save_changes();
  }

  choose(values) {
    // what the kernel must answer
    this.started = performance.now();
    this.busy();
    this.reorder({ kind: "choose", values });
  }

  reorder(message) {
    this.reordering += 1;
    this.send(message);
  }

  reordered() {
    this.reordering = Math.max(0, this.reordering - 1);
    if (!this.reordering) for (const act of this.later.splice(0)) act();
  }

  pickScene(text) {
    const scene = text.trim() || null;
    if (scene === this.choices.scene) return;
    this.choices.scene = scene;
    this.choose({ scene });
  }

  follow() {
    // the view was changed, here or in code
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
    if (m.version !== this.version) {
      this.kept.clear();
      this.asked.clear();
    }
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
  step(to, since = performance.now()) {
    // a new order begins at its own place; who pressed a key meanwhile goes on from there
    const act = () => this.go(to(), since);
    this.reordering ? this.later.push(act) : act();
  }

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

  ask() {
    // one capture at a time: a key that is held down must not leave a queue behind
    const now = performance.now();
    if (this.waiting && now - this.waiting.since < 20000) return;
    this.waiting = { position: this.position, since: now };
    this.send({ kind: "show", position: this.position });
    this.busy();
  }

  busy() {
    // said only where the answer takes long enough to wonder
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
      const n = m.width * m.height;
      shot.rgb = bytes(buffers[0]);
      shot.maps.truth = decodeDepth(buffers[1], n, m.truth);
      shot.preds.forEach((p, k) => {
        shot.maps[`pred:${p.name}`] = decodeDepth(buffers[2 + 2 * k], n, p);
        shot.keep[`err:${p.name}`] = unpackBits(buffers[3 + 2 * k], n);
        const t = shot.maps.truth,
          q = shot.maps[`pred:${p.name}`],
          e = (shot.maps[`err:${p.name}`] = new Float32Array(n));
        for (let i = 0; i < n; i++) e[i] = q[i] - t[i];
      });
    }
    this.asked.delete(m.position);
    if (!m.problems.length || m.upload) this.kept.set(m.position, shot);
    while (this.held() > KEPT && this.kept.size > 1)
      this.kept.delete(this.kept.keys().next().value);
    if (m.position === this.position || m.now) {
      this.position = m.position;
      this.show(shot);
    } else if (!this.waiting && this.shot?.position !== this.position) {
      // the person went on meanwhile
      const kept = this.kept.get(this.position);
      kept ? this.show(kept) : this.ask();
    }
  }

  held(shots = this.kept.values()) {
    let n = 0;
    for (const { rgb, maps, keep } of shots)
      for (const x of [rgb, ...Object.values(maps), ...Object.values(keep)])
        n += x?.byteLength ?? 0;
    return n;
  }

  show(shot) {
    this.shot = shot;
    this.painted = {};
    this.ready();
    if (this.probe && shot.width) this.probe = this.inside(this.probe);
    if (this.line && shot.width) this.line = this.line.map((p) => this.inside(p));
    this.$("slider").value = this.position;
    this.$("where").textContent = this.n
      ? `${this.position} / ${this.n}   ${shot.title ?? ""}`
      : "0 / 0";
    this.$("where").title = shot.title ?? "";
    this.say({ text: [...shot.problems, shot.note].filter(Boolean).join("\n") });
    this.$("caption").textContent = shot.width ? shot.description : "";
    if (!shot.width) this.$("readout").replaceChildren();
    this.table();
    this.build(false);
    const started = this.started;
    this.started = null;
    requestAnimationFrame(() => {
      const channel = new MessageChannel();
      channel.port1.onmessage = () => {
        // after the frame is painted
        if (started !== null) this.root.dataset.ms = (performance.now() - started).toFixed(1);
        this.root.dataset.shown = shot.position;
        this.root.dataset.index = shot.index ?? "";
        if (this.shot === shot && this.view.layout !== "scenes") this.plots();
        this.ahead();
      };
      channel.port2.postMessage(0);
    });
  }

  ahead() {
    // ask for the neighbours before they are wanted; the kernel declines where that is slow
    const room = Math.floor(KEPT / (this.held([this.shot]) || 1)) - 1;
    for (const d of [1, 2, -1].slice(0, Math.max(0, room))) {
      const p = this.position + d * this.direction;
      if (p < 1 || p > this.n || this.kept.has(p) || this.asked.has(p)) continue;
      this.asked.add(p);
      this.send({ kind: "ahead", position: p, version: this.version });
    }
  }

  said(m) {
    // by the kernel, instead of an answer
    this.waiting = null;
    this.ready();
    this.say(m);
  }

  say(m) {
    const box = this.$("message");
    if (box.textContent === m.text) return;
    box.classList.toggle("sd-fine", /^(saved|choose) /.test(m.text));
    box.replaceChildren(
      ...m.text
        .split("\n")
        .filter(Boolean)
        .map((t) => h("p", {}, t)),
    );
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
    this.reorder({ kind: "scored" });
  }

  // ---- keys
  key(e) {
    if (e.ctrlKey || e.metaKey || e.altKey || !this.setup) return;
    if (e.key === "Escape") {
      this.open(null);
      this.root.focus({ preventScroll: true });
      return;
    }
    const { type, tagName } = e.target,
      typing = /^(INPUT|SELECT|TEXTAREA)$/.test(tagName) && type !== "checkbox";
    if (type === "range" ? /^(Arrow|Page|Home|End)/.test(e.key) : typing)
      return e.stopPropagation();
    const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[
      e.key
    ];
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
    if (this.view.layout === "cloud") this.cloud?.move(du * 0.1, dv * 0.1);
    else if (this.shot?.width) {
      const [u, v] = this.probe ?? [this.shot.width >> 1, this.shot.height >> 1];
      this.probe = this.inside([u + du, v + dv]);
      this.paint();
    }
  }

  acts(e) {
    const v = this.view,
      maps = this.setup.depth_maps;
    const go = (to) => () => this.step(to, e.timeStamp),
      view = (layout) => () => this.set({ layout });
    return {
      ArrowLeft: go(() => this.position - 1),
      ArrowRight: go(() => this.position + 1),
      PageUp: go(() => this.position - 10),
      PageDown: go(() => this.position + 10),
      Home: go(() => 1),
      End: go(() => this.n),
      "+": () => this.zoomBy(1.5),
      "=": () => this.zoomBy(1.5),
      "-": () => this.zoomBy(1 / 1.5),
      0: () => this.zoomBy(0),
      s: view("side"),
      w: view("swipe"),
      c: view("cloud"),
      o: view("scenes"),
      i: () => this.set({ invert: !v.invert }),
      m: () => this.set({ cmap: maps[(maps.indexOf(v.cmap) + 1) % maps.length] }),
      e: () => this.save("png"),
      l: () => this.crossLine(),
    };
  }

  crossLine() {
    if (!this.shot?.width) return;
    const row = this.probe?.[1] ?? this.shot.height >> 1;
    this.line = this.line
      ? null
      : [
          [0, row],
          [this.shot.width - 1, row],
        ];
    this.paint();
  }
}
