// Depth maps in the browser: decoding, colour maps, stripes, small plots. Arithmetic on arrays.
const CLEAR = 0; // a pixel without depth: what lies below it is seen, which is stripes
const NOWHERE = 65535; // its code
// Okabe and Ito: told apart by colour-blind readers
const INK = ["#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7"];
const DASH = [[], [7, 3], [2, 3], [9, 3, 2, 3], [4, 4]];

function bytes(view) {
  return new Uint8Array(view.buffer, view.byteOffset, view.byteLength).slice();
}

function decodeDepth(view, n, about) {
  // metres, NaN where there is none
  const raw = bytes(view).buffer;
  if (about.kind === "f4") return new Float32Array(raw);
  const codes = new Uint16Array(raw),
    out = new Float32Array(n);
  for (let i = 0; i < n; i++)
    out[i] = codes[i] === NOWHERE ? NaN : about.low + codes[i] * about.step;
  return out;
}

function unpackBits(view, n) {
  const packed = bytes(view),
    out = new Uint8Array(n);
  for (let i = 0; i < n; i++) out[i] = (packed[i >> 3] >> (7 - (i & 7))) & 1;
  return out;
}

function lookup(base64) {
  // 256 colours as one 32-bit word each
  const text = atob(base64),
    lut = new Uint32Array(256);
  for (let i = 0; i < 256; i++)
    lut[i] =
      (255 << 24) |
      (text.charCodeAt(3 * i + 2) << 16) |
      (text.charCodeAt(3 * i + 1) << 8) |
      text.charCodeAt(3 * i);
  return lut;
}

const SCALES = {
  linear: { f: (d) => d, g: (t) => t },
  log: { f: (d) => Math.log(d), g: (t) => Math.exp(t) },
  disparity: { f: (d) => 1 / d, g: (t) => 1 / t },
};

function ramp(limits, scale) {
  // where a depth lies between the first and the last colour, 0 to 1
  const { f } = SCALES[scale],
    low = scale === "linear" ? limits[0] : Math.max(limits[0], 1e-3);
  const a = f(low),
    b = f(Math.max(limits[1], low + 1e-6)),
    k = 1 / (b - a || 1);
  if (scale === "linear") return { a, k, f: null };
  return { a, k, f };
}

function colourise(metres, keep, limits, lut, { scale = "linear", invert = false } = {}) {
  const n = metres.length,
    out = new Uint32Array(n),
    { a, k, f } = ramp(limits, scale);
  for (let i = 0; i < n; i++) {
    const d = metres[i];
    if (d !== d || (keep && !keep[i])) {
      out[i] = CLEAR;
      continue;
    }
    let t = ((f ? f(d) : d) - a) * k * 255;
    t = t > 0 ? (t < 255 ? t | 0 : 255) : 0;
    out[i] = lut[invert ? 255 - t : t];
  }
  return out;
}

function stripeTile(band) {
  // one period of the stripes, as synthdepth.colour draws them
  const side = 2 * band,
    tile = document.createElement("canvas");
  tile.width = tile.height = side;
  const ctx = tile.getContext("2d"),
    [light, dark] = NO_DEPTH.map((gray) => `rgb(${gray},${gray},${gray})`);
  for (let y = 0; y < side; y++)
    for (let x = 0; x < side; x++) {
      ctx.fillStyle = Math.floor((x + y) / band) % 2 ? dark : light;
      ctx.fillRect(x, y, 1, 1);
    }
  return tile;
}

const TILES = {}; // width of a stripe -> tile

function fillStripes(ctx, x, y, w, h, band = Math.max(2, Math.floor(Math.min(w, h) / 32))) {
  TILES[band] ??= stripeTile(band);
  ctx.save();
  ctx.imageSmoothingEnabled = false;
  ctx.translate(x, y);
  ctx.fillStyle = ctx.createPattern(TILES[band], "repeat");
  ctx.fillRect(0, 0, w, h);
  ctx.restore();
}

function toCanvas(words, width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  canvas
    .getContext("2d")
    .putImageData(new ImageData(new Uint8ClampedArray(words.buffer), width, height), 0, 0);
  return canvas;
}

function rgbWords(rgb, n) {
  const out = new Uint32Array(n);
  for (let i = 0; i < n; i++)
    out[i] = (255 << 24) | (rgb[3 * i + 2] << 16) | (rgb[3 * i + 1] << 8) | rgb[3 * i];
  return out;
}

function ticks(low, high, most = 5) {
  const span = high - low || 1,
    raw = span / most,
    power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw),
    out = [];
  for (let t = Math.ceil(low / step - 1e-9) * step; t <= high + 1e-9 * span; t += step)
    out.push(+t.toPrecision(10));
  return out;
}

function short(t) {
  return t && Math.abs(t) < 0.001 ? t.toExponential() : String(t);
}

function sized(canvas, width, height) {
  // sharp at every zoom of the page
  const ratio = window.devicePixelRatio || 1,
    w = Math.round(width * ratio),
    h = Math.round(height * ratio);
  if (canvas.width !== w || canvas.height !== h) {
    canvas.width = w;
    canvas.height = h;
  }
  const ctx = canvas.getContext("2d");
  ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
  return ctx;
}

function plot(ctx, box, series, { xlabel = "", ylabel = "", zero = false, mark = null } = {}) {
  const ok = series.filter((s) => s.x.length);
  const xs = ok.flatMap((s) => [s.x[0], s.x[s.x.length - 1]]);
  let y0 = Infinity,
    y1 = -Infinity;
  for (const s of ok)
    for (const y of s.y)
      if (Number.isFinite(y)) {
        y0 = Math.min(y0, y);
        y1 = Math.max(y1, y);
      }
  const [x0, x1] = xs.length ? [Math.min(...xs), Math.max(...xs)] : [0, 1];
  if (!(y1 >= y0)) [y0, y1] = [0, 1];
  if (zero) y0 = Math.min(0, y0);
  if (y1 === y0) y1 = y0 + 1;
  const pad = { l: 48, r: 8, t: 8 + 16 * Math.ceil(ok.length / 2), b: 36 };
  const w = box.w - pad.l - pad.r,
    h = box.h - pad.t - pad.b;
  const px = (x) => box.x + pad.l + ((x - x0) / (x1 - x0 || 1)) * w,
    py = (y) => box.y + pad.t + h - ((y - y0) / (y1 - y0)) * h;
  ctx.save();
  ctx.fillStyle = "#fff";
  ctx.fillRect(box.x, box.y, box.w, box.h);
  ctx.font = "12px system-ui, sans-serif";
  ctx.lineWidth = 1;
  ctx.textAlign = "center";
  for (const t of ticks(x0, x1)) {
    ctx.strokeStyle = "#e4e4e4";
    ctx.strokeRect(px(t), py(y1), 0, h);
    ctx.fillStyle = "#222";
    ctx.fillText(short(t), px(t), py(y0) + 14);
  }
  ctx.textAlign = "right";
  for (const t of ticks(y0, y1, 4)) {
    ctx.strokeStyle = "#e4e4e4";
    ctx.strokeRect(px(x0), py(t), w, 0);
    ctx.fillStyle = "#222";
    ctx.fillText(short(t), px(x0) - 4, py(t) + 4);
  }
  ctx.textAlign = "center";
  ctx.fillText(xlabel, px((x0 + x1) / 2), box.y + box.h - 5);
  ctx.save();
  ctx.translate(box.x + 11, box.y + pad.t + h / 2);
  ctx.rotate(-Math.PI / 2);
  ctx.fillText(ylabel, 0, 0);
  ctx.restore();
  ok.forEach((s, k) => {
    ctx.strokeStyle = s.ink ?? INK[k % INK.length];
    ctx.setLineDash(DASH[k % DASH.length]);
    ctx.lineWidth = 1.8;
    ctx.beginPath();
    let pen = false;
    for (let i = 0; i < s.x.length; i++) {
      if (!Number.isFinite(s.y[i])) {
        pen = false;
        continue;
      }
      pen ? ctx.lineTo(px(s.x[i]), py(s.y[i])) : ctx.moveTo(px(s.x[i]), py(s.y[i]));
      pen = true;
    }
    ctx.stroke();
    if (s.dots)
      for (let i = 0; i < s.x.length; i++)
        if (Number.isFinite(s.y[i]))
          ((ctx.fillStyle = ctx.strokeStyle), ctx.fillRect(px(s.x[i]) - 2, py(s.y[i]) - 2, 4, 4));
    const lw = ok.length > 1 ? w / 2 : w,
      lx = box.x + pad.l + (k % 2) * lw,
      ly = box.y + 12 + 16 * Math.floor(k / 2);
    ctx.beginPath();
    ctx.moveTo(lx, ly - 4);
    ctx.lineTo(lx + 24, ly - 4);
    ctx.stroke();
    ctx.setLineDash([]);
    ctx.fillStyle = "#222";
    ctx.textAlign = "left";
    ctx.fillText(s.name, lx + 29, ly, lw - 30);
  });
  if (mark !== null && mark >= x0 && mark <= x1) {
    ctx.setLineDash([2, 2]);
    ctx.strokeStyle = "#555";
    ctx.strokeRect(px(mark), py(y1), 0, h);
  }
  ctx.restore();
}

function histogram(metres, keep, limits, bins = 64) {
  // share of the pixels in each bin
  const count = new Float64Array(bins),
    k = bins / (limits[1] - limits[0] || 1);
  let n = 0;
  for (let i = 0; i < metres.length; i++) {
    if (metres[i] !== metres[i] || (keep && !keep[i])) continue;
    n++;
    const b = Math.floor((metres[i] - limits[0]) * k);
    if (b >= 0 && b < bins) count[b]++;
  }
  return Array.from(count, (c) => (100 * c) / Math.max(1, n));
}
