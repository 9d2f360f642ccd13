"use strict";
// The latent plane under the pointer: what the page shows of the arithmetic in decoder.js.

const RANGE = 40; // nats of log p(z|x) that the colour covers
const MARGIN = 34; // CSS pixels beside the plane, for its axes
const OWN = -1; // the number of the image that the reader draws
const byId = (id) => document.getElementById(id);
const view = { z: [0, 0], number: 0, x: null, drawn: null, samples: 0, result: null, coarse: null, path: null, run: 0 };
let model, table, images, own, priorPoints, priorLogits, boundChart, mosaic, heat;

/** Lets the page draw and listen, then goes on; throws where another image has been chosen since. */
function resting() {
  const run = view.run;
  return () => new Promise((go, stop) => setTimeout(() => (run === view.run ? go() : stop(new Error("another image"))), 0));
}

/** A canvas of so many CSS pixels, sharp on any screen; its context measures in CSS pixels. */
function sharp(canvas) {
  const { width, height } = canvas.getBoundingClientRect(), ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio); canvas.height = Math.round(height * ratio);
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return { context, width, height };
}

/** Draw an image, values in [0, 1], dark on white, one canvas pixel a pixel. */
function drawImage(canvas, values, { width, height } = DATA.explorer) {
  canvas.width = width; canvas.height = height;
  const pixels = new ImageData(width, height);
  values.forEach((v, j) => {
    const grey = Math.round(255 * (1 - v));
    pixels.data.set([grey, grey, grey, 255], 4 * j);
  });
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

/** Test image `n`, zeros and ones; the page holds a bit a pixel. */
function imageOf(bits, n) {
  const D = model.pixels;
  return Float32Array.from({ length: D }, (_, j) => (bits[(n * D + j) >> 3] >> (7 - ((n * D + j) & 7))) & 1);
}

/** Where a latent point lies on the plane's canvas, and back. */
const scaleOf = (size) => (size - 2 * MARGIN) / (2 * table.extent);
const toCanvas = ([a, b], size) => [MARGIN + (a + table.extent) * scaleOf(size), MARGIN + (table.extent - b) * scaleOf(size)];
const toPlane = (x, y, size) => [(x - MARGIN) / scaleOf(size) - table.extent, table.extent - (y - MARGIN) / scaleOf(size)];

/** The decoded images behind the plane, from the bytes of the table. */
function drawMosaic() {
  const { width, height } = DATA.explorer, columns = 13, canvas = document.createElement("canvas");
  canvas.width = columns * width; canvas.height = columns * height;
  const context = canvas.getContext("2d"), D = model.pixels, rgb = colour("--front").match(/[0-9a-f]{2}/gi).map((h) => parseInt(h, 16));
  for (let i = 0; i < columns; i++) {
    for (let j = 0; j < columns; j++) {
      const near = (k) => Math.round(((k + 0.5) / columns) * (table.side - 1));
      const at = (near(i) * table.side + near(columns - 1 - j)) * D, pixels = new ImageData(width, height);
      for (let d = 0; d < D; d++) {
        const p = sigmoid(table.low[d] + table.step[d] * table.levels[at + d]);
        pixels.data.set([...rgb, 90 * p], 4 * d);
      }
      context.putImageData(pixels, i * width, j * height);
    }
  }
  return canvas;
}

/** log p(z|x) on the grid as a picture, from its top down. */
function drawHeat() {
  const n = table.side, canvas = document.createElement("canvas"), pixels = new ImageData(n, n);
  const rgb = colour("--two").match(/[0-9a-f]{2}/gi).map((h) => parseInt(h, 16));
  const top = Math.max(...view.coarse);
  view.coarse.forEach((value, index) => {
    const i = Math.floor(index / n), j = n - 1 - (index % n);
    pixels.data.set([...rgb, 235 * Math.max(0, 1 - (top - value) / RANGE)], 4 * (j * n + i));
  });
  canvas.width = canvas.height = n;
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas;
}

/** The plane with everything on it. */
function drawPlane() {
  const { context: c, width: size } = sharp(byId("plane"));
  const [left, top] = toCanvas([-table.extent, table.extent], size), inner = size - 2 * MARGIN;
  const half = (0.5 * inner) / (table.side - 1);
  c.save();
  c.beginPath(); c.rect(left, top, inner, inner); c.clip();
  c.fillStyle = colour("--card"); c.fillRect(left, top, inner, inner);
  if (byId("mosaic").checked) c.drawImage(mosaic, left, top, inner, inner);
  if (heat) c.drawImage(heat, left - half, top - half, inner + 2 * half, inner + 2 * half); // its pixels are centred on the grid
  drawEllipse(c, size);
  drawPoints(c, size);
  c.restore();
  if (view.result) drawCross(c, toCanvas(view.result.mode, size));
  drawAxes(c, size);
  const [x, y] = toCanvas(view.z, size);
  c.lineWidth = 3; c.strokeStyle = colour("--one");
  c.beginPath(); c.arc(x, y, 9, 0, 2 * Math.PI); c.stroke();
}

function drawCross(c, [x, y]) {
  c.lineWidth = 2; c.strokeStyle = colour("--front");
  c.beginPath(); c.moveTo(x - 7, y); c.lineTo(x + 7, y); c.moveTo(x, y - 7); c.lineTo(x, y + 7); c.stroke();
}

/** Frame, ticks and names of the axes. */
function drawAxes(c, size) {
  const e = table.extent, [left, top] = toCanvas([-e, e], size), inner = size - 2 * MARGIN;
  c.strokeStyle = colour("--line"); c.lineWidth = 1; c.strokeRect(left, top, inner, inner);
  c.fillStyle = colour("--front"); c.font = "12px system-ui, sans-serif";
  for (let v = -e; v <= e; v += e / 2) {
    const [x, y] = toCanvas([v, v], size);
    c.textAlign = "center"; c.textBaseline = "top"; c.fillText(told(v, 0), x, top + inner + 4);
    c.textAlign = "right"; c.textBaseline = "middle"; c.fillText(told(v, 0), left - 5, y);
  }
  c.textAlign = "center"; c.textBaseline = "top"; c.fillText("z₁", left + inner / 2, top + inner + 18);
  c.textAlign = "left"; c.textBaseline = "middle"; c.fillText("z₂", 1, top + inner / 2 - 14);
}

/** q(z|x) of a stored image: one and two standard deviations. */
function drawEllipse(c, size) {
  const q = proposal();
  if (!q) return;
  const [x, y] = toCanvas(q, size), scale = scaleOf(size);
  c.strokeStyle = colour("--three"); c.lineWidth = 2;
  for (const k of [1, 2]) {
    c.beginPath(); c.ellipse(x, y, k * q[2] * scale, k * q[3] * scale, 0, 0, 2 * Math.PI); c.stroke();
  }
}

/** The first N points of the bound, each with an area that grows with its share of the weight. */
function drawPoints(c, size) {
  if (!view.path) return;
  const { points, weights } = view.path, count = Math.min(view.samples, weights.length);
  const top = logSumExp(weights.slice(0, count));
  for (let n = 0; n < count; n++) {
    const [x, y] = toCanvas(points[n], size), share = Math.exp(weights[n] - top);
    c.beginPath(); c.arc(x, y, 1.5 + 9 * Math.sqrt(share), 0, 2 * Math.PI);
    c.fillStyle = colour(share > 0.01 ? "--four" : "--faint"); c.globalAlpha = share > 0.01 ? 0.8 : 0.5; c.fill();
    c.globalAlpha = 1;
  }
}

/** Mean and standard deviations of q(z|x) of the chosen image, where the run has an encoder. */
function proposal() {
  const { proposals } = DATA.explorer;
  return proposals && view.number !== OWN ? proposals[view.number] : null;
}

/** The refined posterior around its mode: each point of the lattice as its cell. */
function drawZoom() {
  const { context: c, width, height } = sharp(byId("zoom"));
  if (!view.result) return;
  const { points, cell: [u1, u2, v2], value } = view.result, highest = Math.max(...points.map((p) => p.value));
  const shown = points.filter((p) => p.value > highest - 8);
  const [a, b] = [0, 1].map((k) => shown.map((p) => p.z[k]));
  const pad = [Math.abs(u1), Math.abs(u2) + Math.abs(v2)];
  const low = [Math.min(...a) - pad[0], Math.min(...b) - pad[1]], high = [Math.max(...a) + pad[0], Math.max(...b) + pad[1]];
  const left = 46, bottom = 34, at = ([x, y]) => [
    left + ((x - low[0]) / (high[0] - low[0])) * (width - left - 8), height - bottom - ((y - low[1]) / (high[1] - low[1])) * (height - bottom - 8)];
  for (const { z: [x, y], value: v } of shown) {
    c.globalAlpha = Math.exp(v - highest); c.fillStyle = c.strokeStyle = colour("--two");
    c.beginPath();
    for (const [s, t] of [[-1, -1], [1, -1], [1, 1], [-1, 1]]) c.lineTo(...at([x + (s * u1) / 2, y + (s * u2 + t * v2) / 2]));
    c.closePath(); c.fill();
  }
  c.globalAlpha = 1;
  drawCross(c, at(view.result.mode));
  c.strokeStyle = colour("--line"); c.strokeRect(left, 8, width - left - 8, height - bottom - 8);
  c.fillStyle = colour("--front"); c.font = "12px system-ui, sans-serif";
  for (const f of [0.1, 0.5, 0.9]) {
    const tick = [low[0] + f * (high[0] - low[0]), low[1] + f * (high[1] - low[1])], [x, y] = at(tick);
    c.textAlign = "center"; c.textBaseline = "top"; c.fillText(told(tick[0]), x, height - bottom + 4);
    c.textAlign = "right"; c.textBaseline = "middle"; c.fillText(told(tick[1]), left - 5, y);
  }
  c.textAlign = "center"; c.textBaseline = "bottom"; c.fillText("z₁", left + (width - left) / 2, height);
  c.textAlign = "left"; c.textBaseline = "middle"; c.fillText("z₂", 0, (height - bottom) * 0.72);
  byId("zoom").setAttribute("aria-label", `Posterior density around its mode ${zTold(view.result.mode)}; log p(x) is ${told(value)} nats`);
}

const zTold = ([a, b]) => `(${told(a)}, ${told(b)})`;

/** All test images on one sheet, the chosen one framed. */
function drawSheet() {
  const { width, height, count } = DATA.explorer, columns = Math.min(count, 20), rows = Math.ceil(count / columns);
  const canvas = byId("sheet"), sheet = new Float32Array(columns * (width + 2) * rows * (height + 2));
  const across = columns * (width + 2);
  images.forEach((x, n) => {
    const left = (n % columns) * (width + 2) + 1, top = Math.floor(n / columns) * (height + 2) + 1;
    x.forEach((v, j) => { sheet[(top + Math.floor(j / width)) * across + left + (j % width)] = v; });
  });
  drawImage(canvas, sheet, { width: across, height: rows * (height + 2) });
  if (view.number === OWN) return;
  const c = canvas.getContext("2d");
  c.strokeStyle = "#b8501a"; c.lineWidth = 3;
  c.strokeRect((view.number % columns) * (width + 2) + 1, Math.floor(view.number / columns) * (height + 2) + 1, width, height);
}

/** The image at the point z, what is told of it, and the ring. */
function showPoint() {
  const logits = model.logits([view.z]), [logLikelihood] = model.logLikelihoods(logits, view.x);
  drawImage(byId("mean"), logits.map(sigmoid));
  drawPlane();
  const posterior = view.result ? `, log p(z|x) = ${told(logLikelihood + logPrior(view.z) - view.result.value, 1)}` : "";
  byId("point").textContent = `z = ${zTold(view.z)}: log p(x|z) = ${told(logLikelihood, 1)}, log p(z) = ${told(logPrior(view.z))}${posterior} nats`;
}

let frame = 0;
/** Move the point; the page is drawn once a frame, however often the pointer reports. */
function movePoint(z) {
  view.z = z.map((v) => Math.max(-table.extent, Math.min(table.extent, v)));
  frame = frame || requestAnimationFrame(() => { frame = 0; showPoint(); });
}

/** A sample of x at the point z. */
function drawSample() {
  drawImage(byId("drawn"), model.mean(view.z).map((p) => (Math.random() < p ? 1 : 0)));
}

/** Choose a test image by its number, or the reader's own; everything that depends on it follows. */
async function choose(number) {
  view.number = number; view.run += 1;
  view.x = number === OWN ? own : images[number];
  view.result = view.path = null;
  view.coarse = table.logJoints(view.x);
  heat = drawHeat();
  byId("image-title").textContent = number === OWN ? "Your own image" : `Test image ${number + 1}`;
  byId("image").setAttribute("aria-valuetext", byId("image-title").textContent);
  if (number !== OWN) byId("image").value = number;
  byId("ellipse-note").hidden = !proposal();
  byId("source").disabled = !proposal();
  drawImage(byId("chosen"), view.x); drawSheet(); showPoint();
  const rest = resting();
  try {
    view.result = await integrate(model, table, view.x, rest);
    showNumbers(); showPoint(); drawZoom();
    await weigh(rest);
  } catch (error) {
    if (error.message !== "another image") throw error;
  }
}

/** log p(x) and what belongs to it. */
function showNumbers() {
  const { value, error, points, mode } = view.result;
  const rows = { "log p(x)": `${told(value, 3)} nats`, "its error": `at most ${error.toPrecision(1)} nats`,
    "points of the lattice": points.length, "mode of p(z|x)": zTold(mode) };
  byId("numbers").replaceChildren(...Object.entries(rows).flatMap(([name, text]) => {
    const [term, told_] = [document.createElement("dt"), document.createElement("dd")];
    term.textContent = name; told_.textContent = text;
    return [term, told_];
  }));
}

/** Log weights log p(x, z) − log q(z) of the points, from the prior or from q(z|x) with the same noise. */
async function weigh(rest) {
  const q = byId("source").value === "proposal" && proposal();
  if (!q) {
    view.path = { points: priorPoints, weights: model.logLikelihoods(await decodedPoints(), view.x) };
  } else {
    const noise = priorPoints.slice(0, 256), points = noise.map(([a, b]) => [q[0] + q[2] * a, q[1] + q[3] * b]);
    const joint = [];
    for (let n = 0; n < points.length; n += 16) {
      await rest();
      joint.push(...model.logJoints(points.slice(n, n + 16), view.x));
    }
    view.path = { points, weights: Float64Array.from(joint, (v, n) => v - logPrior(noise[n]) + Math.log(q[2] * q[3])) };
  }
  await rest();
  showBound();
}

/** The estimate log 1/n Σ w of the first n points, for each n. */
function estimates(weights) {
  let sum = -Infinity;
  return Float64Array.from(weights, (w, n) => {
    const top = Math.max(sum, w);
    sum = top + Math.log(Math.exp(sum - top) + Math.exp(w - top));
    return sum - Math.log(n + 1);
  });
}

/** The estimate over N, log p(x) beside it, and in words. */
function showBound() {
  const { weights } = view.path, along = estimates(weights), N = Math.min(view.samples, weights.length), logP = view.result.value;
  const steps = along.map((_, n) => n + 1);
  const data = [[...steps], [...along], along.length ? [...along].map(() => logP) : [], [...along].map((v, n) => (n + 1 === N ? v : null))];
  view.bound = along;
  if (boundChart) boundChart.show(data); else boundChart = chart(byId("bound"), boundOptions, data);
  const first = weights.slice(0, N), heaviest = Math.exp(Math.max(...first) - logSumExp(first));
  byId("bound-told").textContent = `N = ${N}: log 1/N Σ w = ${told(along[N - 1])} nats, log p(x) = ${told(logP)} nats, difference ` +
    `${told(logP - along[N - 1])}. The heaviest point has ${told(100 * heaviest, 1)} % of the weight.`;
  drawPlane();
}

function boundOptions() {
  const nats = (_, v) => (v == null ? "–" : `${told(v)} nats`);
  const range = () => {
    const along = view.bound, low = Math.max(along[Math.min(4, along.length - 1)], view.result.value - 250);
    const high = Math.max(view.result.value, ...along.slice(4)), room = Math.max(high - low, 1);
    return [low - 0.1 * room, high + 0.1 * room];
  };
  return {
    title: "One draw of log 1/N Σ w, beside log p(x)",
    scales: { x: { time: false, distr: 3, range: () => [1, view.bound.length] }, y: { range } },
    axes: [axis("points N"), axis("nats", { size: 70, values: signed })],
    series: [{ label: "N" }, { label: "log 1/N Σ w", stroke: colour("--four"), width: 1.5, value: nats },
      { label: "log p(x)", stroke: colour("--two"), width: 1.5, dash: [6, 4], value: nats, points: { show: false } },
      { label: "at the chosen N", stroke: colour("--one"), points: { show: true, size: 11, fill: colour("--one") }, value: nats }],
  };
}

/** N grows by the same factor with each step of its slider. */
function setSamples() {
  view.samples = Math.round(priorPoints.length ** (byId("samples").value / 100));
  byId("samples-told").textContent = view.samples;
  byId("samples").setAttribute("aria-valuetext", `N = ${view.samples}`);
  if (view.path) showBound();
}

/** Pointer and keys on the plane. */
function listenToPlane() {
  const plane = byId("plane");
  const to = (event) => movePoint(toPlane(event.offsetX, event.offsetY, plane.clientWidth));
  plane.addEventListener("pointerdown", (event) => { plane.setPointerCapture(event.pointerId); to(event); });
  plane.addEventListener("pointermove", (event) => { if (event.buttons) to(event); });
  plane.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    if (!move) return;
    event.preventDefault();
    const step = event.shiftKey ? 0.01 : 0.1;
    movePoint([view.z[0] + step * move[0], view.z[1] + step * move[1]]);
  });
}

/** The reader's own image: the pointer sets pixels, as wide as a pen. */
function listenToOwn() {
  const canvas = byId("own"), { width, height } = DATA.explorer;
  const pen = (event) => {
    const x = (event.offsetX / canvas.clientWidth) * width - 0.5, y = (event.offsetY / canvas.clientHeight) * height - 0.5;
    own.forEach((_, j) => { if (Math.hypot((j % width) - x, Math.floor(j / width) - y) < width / 22) own[j] = 1; });
    drawImage(canvas, own);
    choose(OWN);
  };
  canvas.addEventListener("pointerdown", (event) => { canvas.setPointerCapture(event.pointerId); pen(event); });
  canvas.addEventListener("pointermove", (event) => { if (event.buttons) pen(event); });
  byId("clear").addEventListener("click", () => { own.fill(0); drawImage(canvas, own); choose(OWN); });
  byId("edit").addEventListener("click", () => { own.set(view.x); drawImage(canvas, own); choose(OWN); });
}

/** Sheet, sliders and boxes. */
function listenToControls() {
  byId("draw").addEventListener("click", drawSample);
  byId("mosaic").addEventListener("change", drawPlane);
  byId("samples").addEventListener("input", setSamples);
  byId("image").addEventListener("input", (event) => choose(Number(event.target.value)));
  byId("source").addEventListener("change", () => choose(view.number));
  byId("sheet").addEventListener("click", (event) => {
    const { count } = DATA.explorer, columns = Math.min(count, 20), rows = Math.ceil(count / columns), sheet = byId("sheet");
    const n = Math.floor((event.offsetY / sheet.clientHeight) * rows) * columns + Math.floor((event.offsetX / sheet.clientWidth) * columns);
    if (n < count) choose(n);
  });
  onColours(() => { mosaic = drawMosaic(); heat = drawHeat(); drawPlane(); drawZoom(); });
  new ResizeObserver(() => { drawPlane(); drawZoom(); }).observe(byId("plane"));
}

/** Logits at the points of the prior: decoded once, for all images, when they are first asked for. */
function decodedPoints() {
  priorLogits = priorLogits || decodePoints();
  return priorLogits;
}

/** They are decoded a few at a time, while the page is in use. */
async function decodePoints() {
  const D = model.pixels, logits = new Float32Array(priorPoints.length * D);
  for (let n = 0; n < priorPoints.length; n += 16) {
    await new Promise((go) => setTimeout(go, 0));
    logits.set(model.logits(priorPoints.slice(n, n + 16)), n * D);
  }
  return logits;
}

async function start() {
  const { explorer } = DATA;
  model = new Decoder(explorer.layers);
  table = new Table(explorer.table, await unpacked(explorer.table.levels), explorer.side, explorer.extent);
  const bits = await unpacked(explorer.images), points = floatsOf(explorer.points);
  images = Array.from({ length: explorer.count }, (_, n) => imageOf(bits, n));
  own = new Float32Array(model.pixels);
  priorPoints = Array.from({ length: points.length / 2 }, (_, n) => [points[2 * n], points[2 * n + 1]]);
  byId("image").max = explorer.count - 1;
  byId("source-label").hidden = !explorer.proposals;
  mosaic = drawMosaic();
  setSamples(); listenToPlane(); listenToOwn(); listenToControls();
  drawImage(byId("own"), own);
  const chosen = choose(0);
  drawSample();
  byId("explorer-wait").hidden = true;
  window.lvm.interactive = performance.now();
  await chosen;
}

// For tests, and for readers with a console.
window.lvm = {
  view, choose, movePoint, setSamples,
  mean: (z) => [...model.mean(z)],
  integrate: async (n) => {
    const { value, error } = await integrate(model, table, images[n], async () => {});
    return { value, error };
  },
  logWeights: async (n) => [...model.logLikelihoods(await decodedPoints(), images[n])],
};
window.lvm.ready = start();
