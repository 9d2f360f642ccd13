"use strict";
// The model's arithmetic, without a page: decoder, log p(x|z), its posterior over the plane, and log p(x).

const REACH = 10; // nats below its highest point at which a posterior ends: what lies beyond is 0.01 % of it
const TOLERANCE = 0.02; // nats; above it a lattice gets a denser one
const SPACING = 0.8; // of a lattice, in standard deviations of the posterior around its mode
const LARGEST = 3000; // points of a lattice at most

const ACTIVATIONS = {
  "": (v) => v,
  ELU: (v) => (v > 0 ? v : Math.expm1(v)),
  ReLU: (v) => (v > 0 ? v : 0),
  LeakyReLU: (v) => (v > 0 ? v : 0.01 * v),
  Tanh: Math.tanh,
  SiLU: (v) => v / (1 + Math.exp(-v)),
  GELU: (v) => 0.5 * v * (1 + erf(v * Math.SQRT1_2)),
  Softplus: softplus,
};

/** log(1 + e^v) without overflow. */
function softplus(v) {
  return Math.max(v, 0) + Math.log1p(Math.exp(-Math.abs(v)));
}

function sigmoid(v) {
  return 1 / (1 + Math.exp(-v));
}

/** The error function to 1.5e-7: Abramowitz & Stegun 7.1.26. */
function erf(v) {
  const t = 1 / (1 + 0.3275911 * Math.abs(v));
  const sum = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t;
  return Math.sign(v) * (1 - sum * Math.exp(-v * v));
}

/** log Σ e^v, for an array. */
function logSumExp(values) {
  let largest = -Infinity, sum = 0;
  for (const v of values) if (v > largest) largest = v;
  if (largest === -Infinity) return largest;
  for (const v of values) sum += Math.exp(v - largest);
  return largest + Math.log(sum);
}

/** The bytes of a base64 text. */
function bytesOf(text) {
  const characters = atob(text), bytes = new Uint8Array(characters.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = characters.charCodeAt(i);
  return bytes;
}

const floatsOf = (text) => new Float32Array(bytesOf(text).buffer);

/** The bytes of a base64 text in zlib's format. */
async function unpacked(text) {
  const stream = new Blob([bytesOf(text)]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** The decoder: layers of 16-bit weights with a scale for each row become float32. */
class Decoder {
  constructor(layers) {
    this.layers = layers.map((layer) => {
      const levels = new Int16Array(bytesOf(layer.weights).buffer), scale = floatsOf(layer.scale);
      const weights = new Float32Array(levels.length);
      for (let i = 0; i < levels.length; i++) weights[i] = levels[i] * scale[Math.floor(i / layer.fan_in)];
      return { ...layer, weights, bias: floatsOf(layer.bias), activation: ACTIVATIONS[layer.activation] };
    });
    this.pixels = this.layers[this.layers.length - 1].fan_out;
  }

  /** Logits of `points`, [[z1, z2, …], …], one row after the other. */
  logits(points) {
    let values = Float32Array.from(points.flat()), kept;
    for (const layer of this.layers) {
      if (layer.keeps) kept = values;
      values = this.applied(layer, values, points.length);
      if (layer.adds) for (let i = 0; i < values.length; i++) values[i] += kept[i];
    }
    return values;
  }

  /**
   * A layer on the activations of so many rows. Four rows and two outputs at a time: each number that is read then serves
   * several products, which makes it twice as fast. Rows that are missing in the last four are zeros, and thrown away.
   */
  applied({ fan_in: fanIn, fan_out: fanOut, weights, bias, activation }, input, rows) {
    const output = new Float32Array(rows * fanOut), x = new Float64Array(4 * fanIn);
    for (let first = 0; first < rows; first += 4) {
      const count = Math.min(4, rows - first);
      for (let k = 0; k < count; k++) {
        for (let i = 0, at = (first + k) * fanIn; i < fanIn; i++) x[4 * i + k] = activation(input[at + i]);
      }
      for (let o = 0; o < fanOut; o += 2) {
        const next = Math.min(o + 1, fanOut - 1), v = o * fanIn, w = next * fanIn;
        let a0 = bias[o], a1 = a0, a2 = a0, a3 = a0, b0 = bias[next], b1 = b0, b2 = b0, b3 = b0;
        for (let i = 0, j = 0; i < fanIn; i++, j += 4) {
          const s = weights[v + i], t = weights[w + i], x0 = x[j], x1 = x[j + 1], x2 = x[j + 2], x3 = x[j + 3];
          a0 += s * x0; a1 += s * x1; a2 += s * x2; a3 += s * x3;
          b0 += t * x0; b1 += t * x1; b2 += t * x2; b3 += t * x3;
        }
        const [a, b] = [[a0, a1, a2, a3], [b0, b1, b2, b3]];
        for (let k = 0; k < count; k++) {
          output[(first + k) * fanOut + o] = a[k];
          output[(first + k) * fanOut + next] = b[k];
        }
      }
    }
    return output;
  }

  /** p(x_j = 1|z), one number a pixel. */
  mean(z) {
    return this.logits([z]).map(sigmoid);
  }

  /** log p(x|z) of one image at each row of logits: Σ x l − softplus(l). */
  logLikelihoods(logits, x) {
    const D = this.pixels, found = new Float64Array(logits.length / D);
    for (let row = 0; row < found.length; row++) {
      let sum = 0;
      for (let j = 0, at = row * D; j < D; j++, at++) sum += x[j] * logits[at] - softplus(logits[at]);
      found[row] = sum;
    }
    return found;
  }

  /** log p(x, z) = log p(x|z) + log N(z; 0, I) at each point. */
  logJoints(points, x) {
    const found = this.logLikelihoods(this.logits(points), x);
    points.forEach((z, i) => { found[i] += logPrior(z); });
    return found;
  }
}

/** log N(z; 0, I). */
function logPrior(z) {
  let squares = 0;
  for (const v of z) squares += v * v;
  return -0.5 * (squares + z.length * Math.log(2 * Math.PI));
}

/** The decoded grid: a byte for each logit, so that log p(x, z) of an image over the whole plane is one product. */
class Table {
  constructor({ low, step, partition }, levels, side, extent) {
    Object.assign(this, { low: floatsOf(low), step: floatsOf(step), partition: floatsOf(partition), side, extent });
    this.pixels = this.low.length;
    this.levels = levels;
    this.undoDifferences();
  }

  /** The page holds differences along both axes of the grid, modulo 256. */
  undoDifferences() {
    const row = this.side * this.pixels, levels = this.levels;
    for (let i = 0; i < levels.length; i++) if (i % row >= this.pixels) levels[i] += levels[i - this.pixels];
    for (let i = row; i < levels.length; i++) levels[i] += levels[i - row];
  }

  /** The point of a grid index; z1 changes slowest. */
  point(index) {
    const at = (i) => -this.extent + (2 * this.extent * i) / (this.side - 1);
    return [at(Math.floor(index / this.side)), at(index % this.side)];
  }

  /** log p(x, z) at all grid points. */
  logJoints(x) {
    const D = this.pixels, on = [];
    let shift = 0;
    for (let j = 0; j < D; j++) if (x[j]) { on.push(j); shift += x[j] * this.low[j]; }
    const scale = Float64Array.from(on, (j) => x[j] * this.step[j]);
    return Float64Array.from(this.partition, (partition, index) => {
      let sum = shift - partition;
      for (let k = 0, at = index * D; k < on.length; k++) sum += scale[k] * this.levels[at + on[k]];
      return sum + logPrior(this.point(index));
    });
  }

  /** The highest grid points that no neighbour is above of, best first. */
  peaks(values, count) {
    const n = this.side, found = [];
    for (let index = 0; index < values.length; index++) {
      const i = Math.floor(index / n), j = index % n;
      let highest = true;
      for (let di = -1; di <= 1 && highest; di++) {
        for (let dj = -1; dj <= 1; dj++) {
          const inside = i + di >= 0 && i + di < n && j + dj >= 0 && j + dj < n;
          if (inside && values[index + di * n + dj] > values[index]) { highest = false; break; }
        }
      }
      if (highest) found.push(index);
    }
    return found.sort((a, b) => values[b] - values[a]).slice(0, count);
  }
}

/** Gradient of log p(x, z) and Fisher information plus that of the prior, by finite differences of the logits. */
function slopes(decoder, x, z) {
  const e = 2e-3, D = decoder.pixels;
  const l = decoder.logits([z, [z[0] + e, z[1]], [z[0], z[1] + e]]);
  const g = [-z[0], -z[1]], F = [1, 0, 1];
  let value = logPrior(z);
  for (let j = 0; j < D; j++) {
    const p = sigmoid(l[j]), a = (l[D + j] - l[j]) / e, b = (l[2 * D + j] - l[j]) / e, v = p * (1 - p);
    value += x[j] * l[j] - softplus(l[j]);
    g[0] += a * (x[j] - p); g[1] += b * (x[j] - p);
    F[0] += v * a * a; F[1] += v * a * b; F[2] += v * b * b;
  }
  return { z, value, g, F };
}

/** One scoring step up log p(x, z), cut short until it rises; null where none does. */
function risen(decoder, x, { z, value, g, F: [a, b, c] }) {
  const det = a * c - b * b;
  const step = [(c * g[0] - b * g[1]) / det, (a * g[1] - b * g[0]) / det];
  const tried = [1, 0.4, 0.1, 0.02].map((t) => [z[0] + t * step[0], z[1] + t * step[1]]);
  const values = decoder.logJoints(tried, x), best = values.indexOf(Math.max(...values));
  return values[best] > value + 1e-2 ? slopes(decoder, x, tried[best]) : null;
}

/** Modes of the posterior, best first: climbs from several places, of which those that stay far below are given up. */
async function climb(decoder, x, starts, rest) {
  let found = starts.map((z) => ({ ...slopes(decoder, x, z), climbing: true }));
  for (let turn = 0; turn < 15 && found.some((mode) => mode.climbing); turn++) {
    await rest();
    found = found.map((mode) => {
      const next = mode.climbing && risen(decoder, x, mode);
      return next ? { ...next, climbing: true } : { ...mode, climbing: false };
    });
    found.sort((a, b) => b.value - a.value);
    if (turn) found = found.filter((mode) => mode.value > found[0].value - (mode.climbing ? 3 : 1) * REACH);
  }
  return found.filter((mode) => mode.value > found[0].value - REACH);
}

/** Columns of a lattice's cell: the Cholesky factor of the covariance F⁻¹, times a spacing. */
function cellOf([a, b, c], spacing) {
  const det = a * c - b * b, l11 = Math.sqrt(c / det), l21 = -b / det / l11;
  return [spacing * l11, spacing * l21, spacing * Math.sqrt(a / det - l21 * l21)];
}

/** log p(x, z) on the points z0 + i u + j v of a lattice that carry weight, grown from the places of all modes. */
async function grown(decoder, x, modes, [u1, u2, v2], rest) {
  const z0 = modes[0].z, values = new Map();
  const key = (i, j) => `${i},${j}`;
  const place = ([i, j]) => [z0[0] + i * u1, z0[1] + i * u2 + j * v2];
  let front = modes.map(({ z }) => {
    const i = Math.round((z[0] - z0[0]) / u1);
    return [i, Math.round((z[1] - z0[1] - i * u2) / v2)];
  });
  let highest = -Infinity;
  while (front.length && values.size < LARGEST) {
    front = [...new Map(front.map((at) => [key(...at), at])).values()].filter((at) => !values.has(key(...at)));
    if (!front.length) break;
    await rest();
    const found = decoder.logJoints(front.map(place), x);
    front.forEach((at, n) => values.set(key(...at), { at, z: place(at), value: found[n] }));
    highest = Math.max(highest, ...found);
    front = front.flatMap(([i, j], n) => (found[n] < highest - REACH ? []
      : [[i + 1, j], [i - 1, j], [i, j + 1], [i, j - 1]]));
  }
  return [...values.values()];
}

/**
 * log p(x) = log ∫ p(x|z) N(z; 0, I) dz, refined: the grid shows where the posterior lies, scoring steps find its modes,
 * and a lattice in the shape of the posterior around the best one sums it up. Four sublattices, each with every other point
 * along both axes, give the error: their sums would be the same. It waits for `rest` between its steps: the page stays
 * awake, and where the image has changed `rest` throws.
 */
async function integrate(decoder, table, x, rest) {
  const coarse = table.logJoints(x);
  const modes = await climb(decoder, x, table.peaks(coarse, 6).map((index) => table.point(index)), rest);
  let found = null;
  for (let spacing = SPACING; spacing > SPACING / 8; spacing /= 2) {
    const cell = cellOf(modes[0].F, spacing), points = await grown(decoder, x, modes, cell, rest);
    const area = Math.log(cell[0] * cell[2]);
    const value = area + logSumExp(points.map((p) => p.value));
    const parts = [0, 1, 2, 3].map((c) => area + Math.log(4) + logSumExp(
      points.filter(({ at: [i, j] }) => (i & 1) + 2 * (j & 1) === c).map((p) => p.value)));
    const error = Math.max(...parts.map((part) => Math.abs(part - value)));
    if (!found || error < found.error) found = { value, error, points, cell, mode: modes[0].z, coarse };
    if (error < TOLERANCE || points.length >= LARGEST) break;
  }
  return found;
}
