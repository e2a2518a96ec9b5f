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
          disabled: !m.models.length,
          title: m.without || "any picture: it is predicted here and kept nowhere",
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
      m.without ? h("span", { "data-name": "without", role: "note" }, m.without) : null,
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
    this.$("stage-of").textContent = `sending ${file.name} (${megabytes(file.size)})`;
    const blob = await this.smaller(file),
      exif = blob === file ? "" : await this.exif(file);
    this.predict({ title: file.name, exif }, blob);
    if (blob.size > LARGEST) this.$("stage-of").textContent = "";
  }

  async smaller(file) {
    // a photograph goes at the size at which it is predicted; what the browser would read in its
    // own way (16 bits, transparency, palettes) or not at all goes as it is
    const side = this.setup.longest_side,
      head = new Uint8Array(await file.slice(0, 26).arrayBuffer()),
      begins = (...start) => start.every((x, i) => head[i] === x),
      jpeg = begins(0xff, 0xd8),
      png = begins(0x89, 0x50, 0x4e, 0x47) && head[24] === 8 && [0, 2].includes(head[25]);
    if (file.size <= PIECE || !(jpeg || png)) return file;
    try {
      const bitmap = await createImageBitmap(file, { imageOrientation: "from-image" }),
        scale = side / Math.max(bitmap.width, bitmap.height);
      if (scale >= 1) return file;
      const width = Math.round(bitmap.width * scale),
        height = Math.round(bitmap.height * scale),
        canvas = h("canvas", { width, height }),
        ctx = canvas.getContext("2d");
      ctx.imageSmoothingQuality = "high";
      ctx.drawImage(bitmap, 0, 0, width, height);
      bitmap.close();
      return (await new Promise((done) => canvas.toBlob(done))) ?? file;
    } catch {
      return file;
    }
  }

  async exif(file) {
    // what a JPEG says of itself, which a canvas forgets, in base64: the focal length is in it
    const bytes = new Uint8Array(await file.slice(0, 1 << 18).arrayBuffer()),
      word = (at) => (bytes[at] << 8) | bytes[at + 1];
    if (word(0) !== 0xffd8) return "";
    for (let at = 2; bytes[at] === 0xff && at + 10 < bytes.length; at += 2 + word(at + 2))
      if (word(at) === 0xffe1 && word(at + 4) === 0x4578 && word(at + 6) === 0x6966) {
        const part = bytes.slice(at + 4, at + 2 + word(at + 2));
        return btoa(Array.from(part, (x) => String.fromCharCode(x)).join(""));
      }
    return "";
  }

  predict(what, blob = null) {
    const models = [...this.root.querySelectorAll("[data-model]")]
      .filter((b) => b.checked)
      .map((b) => b.dataset.model);
    this.started = performance.now();
    this.built = null;
    if (blob) this.sendLarge({ kind: "predict", models, ...what }, blob);
    else this.send({ kind: "predict", models, ...what });
  }

  said(m) {
    this.$("stage-of").textContent = "";
    super.said(m);
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
