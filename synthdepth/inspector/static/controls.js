// What can be chosen by hand: a row that steps, a row that shows how, and drawers for what is
// chosen more rarely.
const VIEWS = [
  ["side", "side by side", "s"],
  ["swipe", "swipe", "w"],
  ["cloud", "3-D", "c"],
  ["scenes", "overview", "o"],
];
const TOOLS = [
  ["pan", "move", "drag the picture"],
  ["line", "profile", "drag a line, the depth along it is drawn"],
];
const KEYS = [
  ["← →", "previous, next capture"],
  ["Home End", "first, last capture"],
  ["Page ↑ ↓", "ten captures on or back"],
  ["Shift + arrows", "move the probe, or turn the cloud"],
  ["+ −", "zoom at the probe"],
  ["0", "whole picture, cloud turned back"],
  ["S W C O", "side by side, swipe, 3-D cloud, overview"],
  ["M", "next colour map"],
  ["I", "invert the colours"],
  ["L", "profile through the row of the probe, and away"],
  ["E", "save as PNG"],
  ["Esc", "close what is open"],
  ["wheel", "zoom, once the page was clicked, or with Ctrl"],
  ["double click", "whole picture"],
];

class Controls extends Summary {
  option(value, text, chosen) {
    return h("option", { value, selected: value === chosen }, text);
  }

  field(text, control) {
    return h("label", { class: "sd-field" }, h("span", {}, text), control);
  }

  select(name, text, options, change, chosen) {
    return this.field(
      text,
      h(
        "select",
        { "data-name": name, onchange: (e) => change(e.target.value) },
        ...options.map(([v, t]) => this.option(v, t, chosen)),
      ),
    );
  }

  button(name, text, title, act) {
    return h(
      "button",
      { type: "button", "data-name": name, title, "aria-label": title, onclick: act },
      text,
    );
  }

  check(name, text, change) {
    return h(
      "label",
      { class: "sd-check" },
      h("input", {
        type: "checkbox",
        "data-name": name,
        onchange: (e) => change(e.target.checked),
      }),
      text,
    );
  }

  metres(name, text, change) {
    const done = (e) => Number.isFinite(e.target.valueAsNumber) && change(e.target.valueAsNumber);
    return this.field(
      text,
      h("input", {
        type: "number",
        "data-name": name,
        step: 0.1,
        onchange: done,
        onkeydown: (e) => e.key === "Enter" && done(e),
      }),
    );
  }

  group(label, ...children) {
    return h("div", { class: "sd-group", role: "group", "aria-label": label }, ...children);
  }

  toggles(label, kind, options, act) {
    // buttons of which one is pressed
    return this.group(
      label,
      h(
        "span",
        { class: "sd-toggles", "data-name": kind },
        ...options.map(([value, text, title]) =>
          h(
            "button",
            {
              type: "button",
              "data-value": value,
              "data-kind": kind,
              "aria-pressed": "false",
              onclick: () => act(value),
              title: title.length === 1 ? `${text} (${title})` : title,
            },
            text,
          ),
        ),
      ),
    );
  }

  press(kind, value) {
    for (const b of this.root.querySelectorAll(`[data-kind="${kind}"]`))
      b.setAttribute("aria-pressed", String(b.dataset.value === value));
  }

  page() {
    const stage = h("div", { "data-name": "stage", class: "sd-stage" });
    const plotted = (name, label) =>
      h("canvas", {
        "data-name": name,
        class: "sd-plot",
        role: "img",
        "aria-label": label,
        hidden: true,
      });
    const aside = h(
      "div",
      { class: "sd-aside" },
      h(
        "div",
        { "data-name": "readout", class: "sd-numbers", role: "status" },
        h("p", {}, "Point at a pixel: depth in metres, error and ratio."),
      ),
      h("div", { "data-name": "table", class: "sd-numbers" }),
      h("div", { "data-name": "about", class: "sd-numbers", hidden: true }),
      plotted("histogram", "histogram of depth"),
      plotted("profile", "depth along the line"),
    );
    return [
      h(
        "div",
        { class: "sd-row" },
        this.captures(),
        h("span", { class: "sd-row sd-openers" }, ...this.openers()),
      ),
      ...this.drawers(),
      this.tools(),
      h("div", {
        "data-name": "message",
        class: "sd-message",
        role: "status",
        "aria-live": "polite",
      }),
      h(
        "div",
        { class: "sd-body" },
        h(
          "div",
          { class: "sd-main" },
          stage,
          h("p", { "data-name": "caption", class: "sd-caption" }),
        ),
        aside,
      ),
    ];
  }

  captures() {
    return h(
      "div",
      {
        class: "sd-row sd-captures",
        role: "group",
        "aria-label": "captures",
        "data-name": "captures",
      },
      this.button("previous", "◀", "previous capture (left arrow)", () =>
        this.step(() => this.position - 1),
      ),
      h("input", {
        type: "range",
        min: 1,
        max: Math.max(1, this.setup.n),
        value: 1,
        "data-name": "slider",
        "aria-label": "capture",
        oninput: (e) => this.go(+e.target.value),
      }),
      this.button("next", "▶", "next capture (right arrow)", () =>
        this.step(() => this.position + 1),
      ),
      h("output", { "data-name": "where", class: "sd-where" }),
    );
  }

  tools() {
    const set = (name) => (v) => this.set({ [name]: v });
    const mouse = h(
      "span",
      { "data-name": "mouse", class: "sd-row" },
      this.toggles("what the mouse does", "tool", TOOLS, (v) => {
        this.tool = v;
        this.press("tool", v);
      }),
      this.group(
        "zoom",
        this.button("out", "−", "zoom out (-)", () => this.zoomBy(1 / 1.5)),
        this.button("whole", "100 %", "show the whole picture (0)", () => this.zoomBy(0)),
        this.button("in", "+", "zoom in (+)", () => this.zoomBy(1.5)),
      ),
    );
    const swipe = h(
      "span",
      { "data-name": "swipe-controls", class: "sd-row", hidden: true },
      this.select("left", "left", [], set("left")),
      this.select("right", "right", [], set("right")),
      h("input", {
        type: "range",
        min: 0,
        max: 1,
        step: 0.005,
        value: 0.5,
        "data-name": "divider",
        "aria-label": "divider",
        oninput: (e) => {
          this.split = +e.target.value;
          this.paint(false);
        },
      }),
    );
    const cloud = h(
      "span",
      { "data-name": "cloud-controls", class: "sd-row", hidden: true },
      this.select(
        "ink",
        "points by",
        ["picture", "depth", ...(this.setup.error_maps.length ? ["error"] : [])].map((x) => [x, x]),
        () => this.fillCloud(),
      ),
    );
    return h(
      "div",
      { class: "sd-row sd-tools" },
      this.toggles("view", "layout", VIEWS, set("layout")),
      mouse,
      swipe,
      cloud,
    );
  }

  openers() {
    const s = this.setup,
      drawers = ["captures", ...(s.models.length ? ["models"] : []), "colours", "save", "keys"];
    return drawers.map((name) =>
      h(
        "button",
        {
          type: "button",
          class: "sd-opener",
          "data-opens": name,
          "aria-expanded": "false",
          "aria-controls": `${s.still}-${name}`,
          onclick: () => this.open(name),
        },
        h("span", {}, name),
        h("span", { class: "sd-now", "data-now": name }),
      ),
    );
  }

  open(name) {
    // one drawer at a time; the same name again closes it
    for (const b of this.root.querySelectorAll("[data-opens]")) {
      const open = b.dataset.opens === name && b.getAttribute("aria-expanded") === "false";
      b.setAttribute("aria-expanded", String(open));
      this.root.querySelector(`[data-drawer="${b.dataset.opens}"]`).hidden = !open;
    }
    this.paint();
  }

  drawers() {
    const s = this.setup,
      same = (xs) => xs.map((x) => [x, x]),
      drawer = (name, label, ...children) =>
        h(
          "div",
          {
            class: "sd-drawer",
            id: `${s.still}-${name}`,
            "data-drawer": name,
            role: "group",
            "aria-label": label,
            hidden: true,
          },
          ...children,
        );
    const set = (name) => (v) => this.set({ [name]: v }),
      pick = (name) => (v) => this.choose({ [name]: v === "" ? null : v });
    const fix = (values) =>
      this.set({ fit: false, limits: this.limits(), reach: this.reach(), ...values });
    const errors = s.error_maps.length && s.models.length,
      several = s.models.length > 1;
    return [
      drawer(
        "captures",
        "which captures, in which order",
        ...this.scenes(),
        s.splits.length > 1
          ? this.select("split", "split", [["", "all"], ...same(s.splits)], pick("split"))
          : null,
        s.no_corruption
          ? h("span", { "data-name": "no-corruption", role: "note" }, s.no_corruption)
          : null,
        ...(s.corruptions.length && !s.no_corruption
          ? [
              this.select(
                "corruption",
                "corruption",
                [["", "none"], ...same(s.corruptions)],
                pick("corruption"),
              ),
              this.select("severity", "severity", same([1, 2, 3, 4, 5]), (v) =>
                this.choose({ severity: +v }),
              ),
            ]
          : []),
        s.names.length
          ? this.select(
              "sort",
              "order",
              [["", "as stored"], ...s.metrics.map((m) => [m.name, `worst ${m.name} first`])],
              pick("sort"),
            )
          : null,
        s.names.length > 1 ? this.select("by", "of model", same(s.names), pick("by")) : null,
        s.models.length ? this.scorer() : null,
      ),
      s.models.length
        ? drawer(
            "models",
            "which models, scored how",
            several ? this.select("first", "first model", same(s.models), set("first")) : null,
            several
              ? this.select(
                  "second",
                  "second model",
                  [["", "none"], ...same(s.models)],
                  set("second"),
                )
              : null,
            s.protocols.length
              ? this.select("protocol", "protocol", same(s.protocols), pick("protocol"))
              : null,
          )
        : null,
      drawer(
        "colours",
        "colours",
        this.select("cmap", "depth", same(s.depth_maps), set("cmap")),
        this.select("scale", "scale", same(Object.keys(SCALES)), set("scale")),
        this.metres("low", "from (m)", (v) => fix({ limits: [v, this.limits()[1]] })),
        this.metres("high", "to (m)", (v) => fix({ limits: [this.limits()[0], v] })),
        errors ? this.select("error_cmap", "error", same(s.error_maps), set("error_cmap")) : null,
        errors ? this.metres("reach", "error up to ± (m)", (v) => fix({ reach: v })) : null,
        this.check("invert", "invert depth", set("invert")),
        this.check("fit", "fit to each capture", (on) => (on ? this.set({ fit: true }) : fix({}))),
      ),
      drawer(
        "save",
        "save this view",
        this.button("png", "PNG", "save this view as PNG (e)", () => this.save("png")),
        this.button("pdf", "PDF", "save this view as PDF", () => this.save("pdf")),
        h("span", {}, `into ${s.figures}`),
      ),
      drawer(
        "keys",
        "keys",
        h(
          "dl",
          { class: "sd-keys" },
          ...KEYS.flatMap(([k, what]) => [h("dt", {}, k), h("dd", {}, what)]),
        ),
      ),
    ].filter(Boolean);
  }

  scenes() {
    const { scenes, still } = this.setup,
      pick = (e) => this.pickScene(e.target.value);
    return [
      this.field(
        "scene",
        h("input", {
          list: `${still}-scenes`,
          "data-name": "scene",
          placeholder: "all",
          onchange: pick,
          oninput: (e) => (e.target.value === "" || scenes.includes(e.target.value)) && pick(e),
          onkeydown: (e) => e.key === "Enter" && pick(e),
        }),
      ),
      h("datalist", { id: `${still}-scenes` }, ...scenes.map((x) => h("option", { value: x }))),
    ];
  }

  scorer() {
    return h(
      "span",
      { class: "sd-row" },
      h(
        "button",
        {
          type: "button",
          "data-name": "score",
          title: "predict and score every capture of this choice",
          onclick: () => this.scoreAll(),
        },
        "score all",
      ),
      h("progress", {
        "data-name": "progress",
        max: 1,
        value: 0,
        hidden: true,
        "aria-label": "captures scored",
      }),
      h("span", { "data-name": "scored" }),
    );
  }

  summaries() {
    // what is chosen, on the button that opens the choices
    const c = this.choices,
      v = this.view,
      seen = this.shot?.width,
      range = this.limits()
        .map((x) => x.toFixed(1))
        .join(" to ");
    const now = (name, ...parts) => {
      const el = this.root.querySelector(`[data-now="${name}"]`);
      if (el) el.textContent = parts.filter(Boolean).join(", ");
    };
    const chosen = [
      c.scene,
      c.split,
      c.corruption && `${c.corruption} ${c.severity}`,
      c.sort && `worst ${c.sort}`,
    ].filter(Boolean);
    now("captures", ...(chosen.length ? chosen : ["all"]));
    now("models", this.models().join(" / "), c.protocol);
    now(
      "colours",
      v.cmap,
      v.scale === "linear" ? "" : v.scale,
      seen ? `${range} m` : "",
      v.fit ? "" : "fixed",
    );
  }
}
