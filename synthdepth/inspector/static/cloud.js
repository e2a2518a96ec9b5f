// A point cloud drawn with WebGL: several clouds side by side, one camera for all.
const CLOUD_VERTEX = `attribute vec3 at; attribute vec3 ink;
uniform mat4 view; uniform float size; varying vec3 colour;
void main() { gl_Position = view*vec4(at, 1.); gl_PointSize = size; colour = ink; }`;
const CLOUD_FRAGMENT = `precision mediump float; varying vec3 colour;
void main() { gl_FragColor = vec4(colour, 1.); }`;

function lift(metres, width, height, camera, keep = null, most = 150000) {
  // points in metres, and the pixel each comes from
  const step = Math.max(1, Math.ceil(Math.sqrt((width * height) / most))),
    at = [],
    from = [];
  for (let v = 0; v < height; v += step)
    for (let u = 0; u < width; u += step) {
      const z = metres[v * width + u];
      if (!(z > 0) || (keep && !keep[v * width + u])) continue;
      at.push(
        ((u + 0.5 - camera[2]) / camera[0]) * z,
        (-(v + 0.5 - camera[3]) / camera[1]) * z,
        -z,
      );
      from.push(v * width + u);
    }
  return { at: new Float32Array(at), from, step };
}

function multiply(a, b) {
  // 4x4, column by column
  const out = new Float32Array(16);
  for (let c = 0; c < 4; c++)
    for (let r = 0; r < 4; r++)
      for (let k = 0; k < 4; k++) out[4 * c + r] += a[4 * k + r] * b[4 * c + k];
  return out;
}

function eye(orbit, aspect, f) {
  // turn about the pivot, step back, project
  const [ca, sa, cb, sb] = [
    Math.cos(orbit.turn),
    Math.sin(orbit.turn),
    Math.cos(orbit.tilt),
    Math.sin(orbit.tilt),
  ];
  const [px, py, pz] = orbit.pivot;
  const move = new Float32Array([1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, -px, -py, -pz, 1]);
  const turn = new Float32Array([ca, 0, -sa, 0, 0, 1, 0, 0, sa, 0, ca, 0, 0, 0, 0, 1]);
  const tilt = new Float32Array([1, 0, 0, 0, 0, cb, sb, 0, 0, -sb, cb, 0, 0, 0, 0, 1]);
  const back = new Float32Array([1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, -orbit.away, 1]);
  const near = 0.02 * orbit.away,
    far = 50 * orbit.away;
  const lens = new Float32Array([
    f / aspect,
    0,
    0,
    0,
    0,
    f,
    0,
    0,
    0,
    0,
    (far + near) / (near - far),
    -1,
    0,
    0,
    (2 * far * near) / (near - far),
    0,
  ]);
  return multiply(lens, multiply(back, multiply(tilt, multiply(turn, move))));
}

class Cloud {
  constructor(canvas) {
    this.canvas = canvas;
    this.gl = canvas.getContext("webgl", { preserveDrawingBuffer: true, antialias: false });
    this.clouds = [];
    this.orbit = { turn: 0, tilt: 0, away: 3, pivot: [0, 0, -3] };
    if (!this.gl) return;
    const gl = this.gl,
      program = gl.createProgram();
    for (const [kind, text] of [
      [gl.VERTEX_SHADER, CLOUD_VERTEX],
      [gl.FRAGMENT_SHADER, CLOUD_FRAGMENT],
    ]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, text);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    gl.useProgram(program);
    this.program = program;
    gl.enable(gl.DEPTH_TEST);
  }

  get works() {
    return !!this.gl;
  }

  set(clouds, distance, f) {
    // clouds: {at, ink (Uint8Array of rgb), step}
    const gl = this.gl;
    for (const c of this.clouds) for (const b of c.buffers) gl.deleteBuffer(b);
    this.f = f;
    this.home = distance;
    this.clouds = clouds.map((c) => {
      const buffers = [c.at, c.ink].map((data) => {
        const b = gl.createBuffer();
        gl.bindBuffer(gl.ARRAY_BUFFER, b);
        gl.bufferData(gl.ARRAY_BUFFER, data, gl.STATIC_DRAW);
        return b;
      });
      return { buffers, n: c.at.length / 3, step: c.step };
    });
    if (!this.placed) this.reset();
    this.draw();
  }

  reset() {
    this.placed = true;
    this.orbit = { turn: -0.3, tilt: 0.2, away: 1.5 * this.home, pivot: [0, 0, -this.home] };
    this.draw();
  }

  draw() {
    if (!this.gl || !this.clouds.length) return;
    const gl = this.gl,
      { canvas } = this,
      ratio = window.devicePixelRatio || 1;
    const w = Math.max(1, Math.round(canvas.clientWidth * ratio)),
      h = Math.max(1, Math.round(canvas.clientHeight * ratio));
    if (canvas.width !== w || canvas.height !== h) {
      canvas.width = w;
      canvas.height = h;
    }
    const part = w / this.clouds.length,
      [at, ink] = ["at", "ink"].map((n) => gl.getAttribLocation(this.program, n));
    gl.disable(gl.SCISSOR_TEST);
    gl.viewport(0, 0, w, h);
    gl.clearColor(0.16, 0.16, 0.18, 1);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.enable(gl.SCISSOR_TEST);
    this.clouds.forEach((c, k) => {
      gl.viewport(k * part, 0, part - 2, h);
      gl.scissor(k * part, 0, part - 2, h);
      gl.uniformMatrix4fv(
        gl.getUniformLocation(this.program, "view"),
        false,
        eye(this.orbit, part / h, this.f),
      );
      gl.uniform1f(
        gl.getUniformLocation(this.program, "size"),
        Math.max(
          1.5 * ratio,
          Math.min(6 * ratio, (c.step * 1.6 * ratio * this.home) / this.orbit.away),
        ),
      );
      gl.bindBuffer(gl.ARRAY_BUFFER, c.buffers[0]);
      gl.enableVertexAttribArray(at);
      gl.vertexAttribPointer(at, 3, gl.FLOAT, false, 0, 0);
      gl.bindBuffer(gl.ARRAY_BUFFER, c.buffers[1]);
      gl.enableVertexAttribArray(ink);
      gl.vertexAttribPointer(ink, 3, gl.UNSIGNED_BYTE, true, 0, 0);
      gl.drawArrays(gl.POINTS, 0, c.n);
    });
  }

  drop() {
    this.gl?.getExtension("WEBGL_lose_context")?.loseContext();
  }

  move(turn, tilt, zoom = 1) {
    this.orbit.turn += turn;
    this.orbit.tilt = Math.max(-1.5, Math.min(1.5, this.orbit.tilt + tilt));
    this.orbit.away = Math.max(0.05 * this.home, Math.min(10 * this.home, this.orbit.away * zoom));
    this.draw();
  }
}
