"use strict";
// What a page shows of a latent plane and of images, whatever it asks of the model.

const RANGE = 40; // nats of log p(z|x) that the colour covers
const MARGIN = 34; // CSS pixels beside the plane, for its axes
const OWN = -1; // the number of the image that the reader draws
const byId = (id) => document.getElementById(id);

/** Lets the page draw and listen, then goes on; throws where another image has been chosen since. */
function resting() {
  const { run } = view;
  return () => new Promise((go, stop) => setTimeout(() => (run === view.run ? go() : stop(new Error(ANOTHER))), 0));
}

const ANOTHER = "another image";

/** Wait for what rests between its steps; that another image was chosen in between is no fault. */
async function unlessAnother(work) {
  try {
    await work(resting());
  } catch (error) {
    if (error.message !== ANOTHER) throw error;
  }
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
  const D = DATA.explorer.width * DATA.explorer.height;
  return Float32Array.from({ length: D }, (_, j) => (bits[(n * D + j) >> 3] >> (7 - ((n * D + j) & 7))) & 1);
}

/** Where a point of the plane lies on its canvas, and back. */
const scaleOf = (size) => (size - 2 * MARGIN) / (2 * DATA.explorer.extent);
const toCanvas = ([a, b], size) => [
  MARGIN + (a + DATA.explorer.extent) * scaleOf(size), MARGIN + (DATA.explorer.extent - b) * scaleOf(size)];
const toPlane = (x, y, size) => [(x - MARGIN) / scaleOf(size) - DATA.explorer.extent, DATA.explorer.extent - (y - MARGIN) / scaleOf(size)];

/** The three numbers of a colour of the style sheet. */
const rgbOf = (name) => colour(name).match(/[0-9a-f]{2}/gi).map((h) => parseInt(h, 16));

/** Logarithms on a grid of `side` points along each axis as a picture, from their top down; the first axis changes slowest. */
function heatOf(values, side) {
  const canvas = document.createElement("canvas"), pixels = new ImageData(side, side), rgb = rgbOf("--two");
  const top = Math.max(...values);
  values.forEach((value, index) => {
    const i = Math.floor(index / side), j = side - 1 - (index % side);
    pixels.data.set([...rgb, 235 * Math.max(0, 1 - (top - value) / RANGE)], 4 * (j * side + i));
  });
  canvas.width = canvas.height = side;
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas;
}

/**
 * The plane: decoded images and colours behind, what `more` draws on it, its axes, and a ring around the point.
 * `heat` is a picture of a grid, whose outermost points lie on the plane's edges.
 */
function drawPlaneOf({ mosaic, heat, names, point, more }) {
  const { context: c, width: size } = sharp(byId("plane")), e = DATA.explorer.extent;
  const [left, top] = toCanvas([-e, e], size), inner = size - 2 * MARGIN;
  c.save();
  c.beginPath(); c.rect(left, top, inner, inner); c.clip();
  c.fillStyle = colour("--card"); c.fillRect(left, top, inner, inner);
  if (mosaic && byId("mosaic").checked) c.drawImage(mosaic, left, top, inner, inner);
  if (heat) {
    const half = (0.5 * inner) / (heat.width - 1);
    c.drawImage(heat, left - half, top - half, inner + 2 * half, inner + 2 * half);
  }
  more(c, size);
  c.restore();
  drawAxes(c, size, names);
  const [x, y] = toCanvas(point, size);
  c.lineWidth = 3; c.strokeStyle = colour("--one");
  c.beginPath(); c.arc(x, y, 9, 0, 2 * Math.PI); c.stroke();
}

function drawCross(c, [x, y]) {
  c.lineWidth = 2; c.strokeStyle = colour("--front");
  c.beginPath(); c.moveTo(x - 7, y); c.lineTo(x + 7, y); c.moveTo(x, y - 7); c.lineTo(x, y + 7); c.stroke();
}

/** Frame, ticks and names of the axes. */
function drawAxes(c, size, [across, up]) {
  const e = DATA.explorer.extent, [left, top] = toCanvas([-e, e], size), inner = size - 2 * MARGIN;
  c.strokeStyle = colour("--line"); c.lineWidth = 1; c.strokeRect(left, top, inner, inner);
  c.fillStyle = colour("--front"); c.font = "12px system-ui, sans-serif";
  for (let v = -e; v <= e; v += e / 2) {
    const [x, y] = toCanvas([v, v], size);
    c.textAlign = "center"; c.textBaseline = "top"; c.fillText(told(v, 0), x, top + inner + 4);
    c.textAlign = "right"; c.textBaseline = "middle"; c.fillText(told(v, 0), left - 5, y);
  }
  c.textAlign = "center"; c.textBaseline = "top"; c.fillText(across, left + inner / 2, top + inner + 18);
  c.textAlign = "left"; c.textBaseline = "middle"; c.fillText(up, 1, top + inner / 2 - 14);
}

/** A Gaussian with its axes along the plane's: one and two standard deviations. */
function drawEllipse(c, size, [a, b, s, t]) {
  const [x, y] = toCanvas([a, b], size), scale = scaleOf(size);
  c.strokeStyle = colour("--three"); c.lineWidth = 2;
  for (const k of [1, 2]) {
    c.beginPath(); c.ellipse(x, y, k * s * scale, k * t * scale, 0, 0, 2 * Math.PI); c.stroke();
  }
}

/** All test images on one sheet, the one of that number framed. */
function drawSheet(images, number) {
  const { width, height, count } = DATA.explorer, columns = Math.min(count, 20), rows = Math.ceil(count / columns);
  const canvas = byId("sheet"), sheet = new Float32Array(columns * (width + 2) * rows * (height + 2));
  const across = columns * (width + 2);
  images.forEach((x, n) => {
    const left = (n % columns) * (width + 2) + 1, top = Math.floor(n / columns) * (height + 2) + 1;
    x.forEach((v, j) => { sheet[(top + Math.floor(j / width)) * across + left + (j % width)] = v; });
  });
  drawImage(canvas, sheet, { width: across, height: rows * (height + 2) });
  if (number === OWN) return;
  const c = canvas.getContext("2d");
  c.strokeStyle = "#b8501a"; c.lineWidth = 3;
  c.strokeRect((number % columns) * (width + 2) + 1, Math.floor(number / columns) * (height + 2) + 1, width, height);
}

/** Call `choose` with the number of the image on the sheet that is clicked on. */
function listenToSheet(choose) {
  byId("sheet").addEventListener("click", (event) => {
    const { count } = DATA.explorer, columns = Math.min(count, 20), rows = Math.ceil(count / columns), sheet = byId("sheet");
    const n = Math.floor((event.offsetY / sheet.clientHeight) * rows) * columns + Math.floor((event.offsetX / sheet.clientWidth) * columns);
    if (n < count) choose(n);
  });
}

/** Call `move` with the point of the plane that pointer or keys ask for; `point` tells where it is. */
function listenToPlane(move, point) {
  const plane = byId("plane");
  const to = (event) => move(toPlane(event.offsetX, event.offsetY, plane.clientWidth));
  plane.addEventListener("pointerdown", (event) => { plane.setPointerCapture(event.pointerId); to(event); });
  plane.addEventListener("pointermove", (event) => { if (event.buttons) to(event); });
  plane.addEventListener("keydown", (event) => {
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    if (!way) return;
    event.preventDefault();
    const step = event.shiftKey ? 0.01 : 0.1;
    const [a, b] = point();
    move([a + step * way[0], b + step * way[1]]);
  });
}
