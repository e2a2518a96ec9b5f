// The page that follows a training.
class Monitor {
  constructor(model, el) {
    Object.assign(this, { model, el, rows: [], stamp: "" });
    this.root = h("div", { class: "sd-root", role: "region", "aria-label": "training" });
    this.root.append(
      h(
        "p",
        { "data-name": "status", role: "status" },
        "Waiting for the kernel. If nothing follows, run the cell again.",
      ),
      h("div", { class: "sd-curves" }),
    );
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

  poll() {
    if (!document.hidden) this.model.send({ kind: "poll", stamp: this.stamp });
  }

  receive(m) {
    if (m.kind === "said") {
      this.root.querySelector("[data-name=status]").textContent = m.text;
      return;
    }
    if (m.kind !== "log") return;
    Object.assign(this, { charts: m.charts, stamp: m.stamp });
    if (m.still && !this.hidden)
      this.el.append((this.hidden = h("style", {}, `.${m.still} { display: none }`)));
    this.root.querySelector("[data-name=status]").textContent = m.status;
    this.root.dataset.epochs = m.epochs;
    const box = this.root.querySelector(".sd-curves");
    box.replaceChildren(
      ...m.charts.map((c) => h("canvas", { role: "img", "aria-label": c.words })),
    );
    this.draw();
  }

  draw() {
    [...this.root.querySelectorAll(".sd-curves canvas")].forEach((canvas, k) => {
      const c = this.charts[k],
        w = canvas.clientWidth;
      if (w)
        plot(
          sized(canvas, w, 200),
          { x: 0, y: 0, w, h: 200 },
          c.series.map((s) => ({ ...s, dots: s.x.length < 40 })),
          { xlabel: "epoch (0: before training)", ylabel: c.name },
        );
    });
  }
}
