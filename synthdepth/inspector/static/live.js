// Two small pages beside the inspector: a training as it runs, and predictions for any picture.
class Monitor {
  constructor(model, el) {
    Object.assign(this, { model, el, rows: [], stamp: "" });
    this.root = h("div", { class: "sd-root", role: "region", "aria-label": "training" });
    this.root.append(h("p", { "data-name": "status", role: "status" }, "Waiting for the kernel. If nothing follows, run the cell again."),
                     h("div", { class: "sd-curves" }));
    el.append(this.root);
    this.onMessage = (m) => this.receive(m);
    model.on("msg:custom", this.onMessage);
    this.sizes = new ResizeObserver(() => this.draw());
    this.sizes.observe(this.root);
    this.poll();
    this.timer = setInterval(() => this.poll(), 2000);
  }

  destroy() {
    clearInterval(this.timer);
    this.sizes.disconnect();
    this.model.off("msg:custom", this.onMessage);
  }

  poll() { if (!document.hidden) this.model.send({ kind: "poll", stamp: this.stamp }); }

  receive(m) {
    if (m.kind === "said") { this.root.querySelector("[data-name=status]").textContent = m.text; return; }
    if (m.kind !== "log") return;
    Object.assign(this, { charts: m.charts, stamp: m.stamp });
    if (m.still && !this.hidden) this.el.append(this.hidden = h("style", {}, `.${m.still} { display: none }`));
    this.root.querySelector("[data-name=status]").textContent = m.status;
    this.root.dataset.epochs = m.epochs;
    const box = this.root.querySelector(".sd-curves");
    box.replaceChildren(...m.charts.map((c) => h("canvas", { role: "img", "aria-label": c.words })));
    this.draw();
  }

  draw() {
    [...this.root.querySelectorAll(".sd-curves canvas")].forEach((canvas, k) => {
      const c = this.charts[k], w = canvas.clientWidth;
      if (w) plot(sized(canvas, w, 200), { x: 0, y: 0, w, h: 200 }, c.series.map((s) => ({ ...s, dots: s.x.length < 40 })),
                  { xlabel: "epoch (0: before training)", ylabel: c.name });
    });
  }
}

class Predictor extends Inspector {
  begin(m) {
    super.begin(m);
    const row = h("div", { class: "sd-row sd-captures", role: "group", "aria-label": "picture and models" },
      this.field("picture", h("input", { type: "file", accept: "image/*", "data-name": "file",
        onchange: (e) => e.target.files[0] && this.upload(e.target.files[0]) })),
      m.pictures.length ? this.select("choose", "or", [["", "choose one"], ...m.pictures.map((p, i) => [String(i), p])],
                                      (v) => v !== "" && this.predict({ picture: +v })) : null,
      ...m.models.map((name) => h("label", { class: "sd-check" },
        h("input", { type: "checkbox", checked: true, "data-model": name, onchange: () => this.predict({}) }), name)),
      h("progress", { "data-name": "busy", max: 1, value: 0, hidden: true, "aria-label": "prediction" }),
      h("span", { "data-name": "stage-of", role: "status" }));
    for (const what of ['[data-name="captures"]', '[data-opens="captures"]', '[data-value="scenes"]'])
      this.root.querySelector(what).hidden = true;
    this.$("captures").before(row);
  }

  state() { this.version = this.setup.version; this.n = this.position = 1; }
  ahead() {}

  async upload(file) {
    this.predict({ title: file.name }, [await file.arrayBuffer()]);
  }

  predict(what, buffers = []) {
    const names = [...this.root.querySelectorAll("[data-model]")].filter((b) => b.checked).map((b) => b.dataset.model);
    this.started = performance.now();
    this.built = null;
    this.model.send({ kind: "predict", models: names, ...what }, undefined, buffers);
  }

  receive(m, buffers) {
    if (m.kind !== "stage") return super.receive(m, buffers);
    const bar = this.$("busy");
    bar.hidden = m.done >= m.total;
    bar.max = m.total;
    bar.value = m.done;
    this.$("stage-of").textContent = m.text;
    if (m.done < m.total) this.model.send({ kind: "go" });
  }
}
