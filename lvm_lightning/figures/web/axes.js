"use strict";
// More than two latent axes: two of them under the pointer, the others where the encoder has the chosen image.

const SIDE = 25, COLUMNS = 13; // points of the slice, and decoded images, along each axis
const view = { z: [], axes: [0, 1], number: 0, x: null, slice: null, run: 0 };
let model, images, mosaic, heat;

const nameOf = (k) => `z${String(k + 1).replace(/\d/g, (digit) => "₀₁₂₃₄₅₆₇₈₉"[digit])}`;

/** Mean and standard deviation of q(z|x) of the chosen image along all axes; 0 and none where there is no encoder. */
function proposal() {
  const { proposals, dim } = DATA.explorer;
  if (!proposals) return { mean: Array(dim).fill(0), sigma: null };
  const q = proposals[view.number];
  return { mean: q.slice(0, dim), sigma: q.slice(dim) };
}

/** The chosen latent point with other values along the two axes. */
function placed([a, b]) {
  const z = [...view.z];
  [z[view.axes[0]], z[view.axes[1]]] = [a, b];
  return z;
}

const point = () => view.axes.map((k) => view.z[k]);

/** The plane with everything on it. */
function drawPlane() {
  drawPlaneOf({ mosaic, heat, names: view.axes.map(nameOf), point: point(), more: (c, size) => {
    const { mean, sigma } = proposal(), along = (values) => view.axes.map((k) => values[k]);
    if (sigma) drawEllipse(c, size, [...along(mean), ...along(sigma)]);
  } });
}

/** The image at the point, and what is told of it. */
function showPoint() {
  const logits = model.logits([view.z]), [logLikelihood] = model.logLikelihoods(logits, view.x);
  drawImage(byId("mean"), logits.map(sigmoid));
  drawPlane();
  const [a, b] = view.axes;
  byId("point").textContent = `${nameOf(a)} = ${told(view.z[a])}, ${nameOf(b)} = ${told(view.z[b])}: ` +
    `log p(x|z) = ${told(logLikelihood, 1)}, log p(z) = ${told(logPrior(view.z), 1)} nats`;
}

let frame = 0;
/** Move along the two axes; the page is drawn once a frame, however often the pointer reports. */
function movePoint(to) {
  const e = DATA.explorer.extent;
  view.z = placed(to.map((v) => Math.max(-e, Math.min(e, v))));
  frame = frame || requestAnimationFrame(() => { frame = 0; showPoint(); });
}

/** A sample of x at the point. */
function drawSample() {
  drawImage(byId("drawn"), model.mean(view.z).map((p) => (Math.random() < p ? 1 : 0)));
}

/** log p(x, z) over the two axes, the others as they are, a row of the grid after the other; and some of the images. */
async function slice() {
  view.run += 1; view.slice = mosaic = heat = null;
  await unlessAnother(async (rest) => {
    const { extent, width, height } = DATA.explorer, D = model.pixels, rgb = rgbOf("--front");
    const on = (i) => -extent + (2 * extent * i) / (SIDE - 1), steps = Array.from({ length: SIDE }, (_, i) => i);
    const near = Array.from({ length: COLUMNS }, (_, c) => Math.round(((c + 0.5) / COLUMNS) * (SIDE - 1)));
    const values = new Float64Array(SIDE * SIDE), sheet = document.createElement("canvas");
    sheet.width = COLUMNS * width; sheet.height = COLUMNS * height;
    for (const i of steps) {
      await rest();
      const points = steps.map((j) => placed([on(i), on(j)])), logits = model.logits(points);
      model.logLikelihoods(logits, view.x).forEach((v, j) => { values[i * SIDE + j] = v + logPrior(points[j]); });
      for (let row = 0; near.includes(i) && row < COLUMNS; row++) {
        const pixels = new ImageData(width, height);
        for (let d = 0; d < D; d++) pixels.data.set([...rgb, 90 * sigmoid(logits[near[row] * D + d])], 4 * d);
        sheet.getContext("2d").putImageData(pixels, near.indexOf(i) * width, (COLUMNS - 1 - row) * height);
      }
    }
    view.slice = values; mosaic = sheet; heat = heatOf(values, SIDE);
    drawPlane();
  });
}

/** Choose a test image: the point is where its encoder has it. */
async function choose(number) {
  view.number = number; view.x = images[number]; view.z = proposal().mean;
  byId("image-title").textContent = `Test image ${number + 1}`;
  byId("image").setAttribute("aria-valuetext", byId("image-title").textContent);
  byId("image").value = number;
  drawImage(byId("chosen"), view.x); drawSheet(images, number);
  mosaic = heat = null; showPoint(); drawSample();
  await slice();
}

/** Take another axis; the point stays where it is, so that one after the other all can be moved. */
async function turn(which, axis) {
  if (axis === view.axes[1 - which]) view.axes[1 - which] = view.axes[which];
  view.axes[which] = axis;
  view.axes.forEach((k, w) => { byId(`axis-${w + 1}`).value = k; });
  mosaic = heat = null; showPoint();
  await slice();
}

/** The axes by what they carry, most first: the mean over the images of KL(q(z_k|x) ‖ N(0, 1)). */
function fillAxes() {
  const { dim, kl } = DATA.explorer, order = Array.from({ length: dim }, (_, k) => k);
  if (kl) order.sort((a, b) => kl[b] - kl[a]);
  view.axes = order.slice(0, 2);
  for (const which of [0, 1]) {
    byId(`axis-${which + 1}`).replaceChildren(...order.map((k) => {
      const option = document.createElement("option");
      option.value = k;
      option.textContent = kl ? `${nameOf(k)}, KL ${told(kl[k])} nats` : nameOf(k);
      return option;
    }));
    byId(`axis-${which + 1}`).value = view.axes[which];
    byId(`axis-${which + 1}`).addEventListener("change", (event) => turn(which, Number(event.target.value)));
  }
}

async function start() {
  const { explorer } = DATA;
  model = new Decoder(explorer.layers);
  const bits = await unpacked(explorer.images);
  images = Array.from({ length: explorer.count }, (_, n) => imageOf(bits, n));
  byId("image").max = explorer.count - 1;
  byId("ellipse-note").hidden = !explorer.proposals;
  fillAxes();
  listenToPlane(movePoint, point); listenToSheet(choose);
  byId("draw").addEventListener("click", drawSample);
  byId("mosaic").addEventListener("change", drawPlane);
  byId("back").addEventListener("click", () => choose(view.number));
  byId("image").addEventListener("input", (event) => choose(Number(event.target.value)));
  onColours(() => { if (view.slice) heat = heatOf(view.slice, SIDE); drawPlane(); });
  new ResizeObserver(drawPlane).observe(byId("plane"));
  const chosen = choose(0);
  byId("explorer-wait").hidden = true;
  window.lvm.interactive = performance.now();
  await chosen;
}

// For tests, and for readers with a console.
window.lvm = { view, choose, turn };
window.lvm.ready = start();
