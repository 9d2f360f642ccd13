"use strict";
// The latent plane under the pointer: what the page shows of the arithmetic in decoder.js.

const view = { z: [0, 0], number: 0, x: null, drawn: null, samples: 0, result: null, coarse: null, path: null, run: 0 };
let model, table, images, own, priorPoints, priorLogits, boundChart, mosaic, heat;

/** The decoded images behind the plane, from the bytes of the table. */
function drawMosaic() {
  const { width, height } = DATA.explorer, columns = 13, canvas = document.createElement("canvas");
  canvas.width = columns * width; canvas.height = columns * height;
  const context = canvas.getContext("2d"), D = model.pixels, rgb = rgbOf("--front");
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

/** The plane with everything on it. */
function drawPlane() {
  drawPlaneOf({ mosaic, heat, names: ["z₁", "z₂"], point: view.z, more: (c, size) => {
    if (proposal()) drawEllipse(c, size, proposal());
    drawPoints(c, size);
    if (view.result) drawCross(c, toCanvas(view.result.mode, size));
  } });
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
  heat = heatOf(view.coarse, table.side);
  byId("image-title").textContent = number === OWN ? "Your own image" : `Test image ${number + 1}`;
  byId("image").setAttribute("aria-valuetext", byId("image-title").textContent);
  if (number !== OWN) byId("image").value = number;
  byId("ellipse-note").hidden = !proposal();
  byId("source").disabled = !proposal();
  drawImage(byId("chosen"), view.x); drawSheet(images, view.number); showPoint();
  await unlessAnother(async (rest) => {
    view.result = await integrate(model, table, view.x, rest);
    showNumbers(); showPoint(); drawZoom();
    await weigh(rest);
  });
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
  listenToSheet(choose);
  onColours(() => { mosaic = drawMosaic(); heat = heatOf(view.coarse, table.side); drawPlane(); drawZoom(); });
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
  setSamples(); listenToPlane(movePoint, () => view.z); listenToOwn(); listenToControls();
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
