// The page that predicts any picture: the inspector with a place to choose one.
class Predictor extends Inspector {
  begin(m) {
    super.begin(m);
    const row = h(
      "div",
      { class: "sd-row sd-captures", role: "group", "aria-label": "picture and models" },
      this.field(
        "picture",
        h("input", {
          type: "file",
          accept: "image/*",
          "data-name": "file",
          onchange: (e) => e.target.files[0] && this.upload(e.target.files[0]),
        }),
      ),
      m.pictures.length
        ? this.select(
            "choose",
            "or",
            [["", "choose one"], ...m.pictures.map((p, i) => [String(i), p])],
            (v) => v !== "" && this.predict({ picture: +v }),
          )
        : null,
      ...m.models.map((name) =>
        h(
          "label",
          { class: "sd-check" },
          h("input", {
            type: "checkbox",
            checked: true,
            "data-model": name,
            onchange: () => this.predict({}),
          }),
          name,
        ),
      ),
      h("progress", {
        "data-name": "busy",
        max: 1,
        value: 0,
        hidden: true,
        "aria-label": "prediction",
      }),
      h("span", { "data-name": "stage-of", role: "status" }),
    );
    for (const what of [
      '[data-name="captures"]',
      '[data-opens="captures"]',
      '[data-value="scenes"]',
    ])
      this.root.querySelector(what).hidden = true;
    this.$("captures").before(row);
  }

  state() {
    this.version = this.setup.version;
    this.n = this.position = 1;
  }
  ahead() {}

  async upload(file) {
    this.predict({ title: file.name }, [await file.arrayBuffer()]);
  }

  predict(what, buffers = []) {
    const names = [...this.root.querySelectorAll("[data-model]")]
      .filter((b) => b.checked)
      .map((b) => b.dataset.model);
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
