"use strict";
// The curves of the page. The data lie in the page itself; nothing is fetched.

const DATA = JSON.parse(document.getElementById("data").textContent);
const SERIES_COLOURS = ["--one", "--two", "--three", "--four"];

/** The value of a colour of the style sheet, in the scheme that is on. */
function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/** A number for people: few digits, a true minus sign. */
function told(value, digits = 2) {
  return value == null || !isFinite(value) ? "–" : value.toFixed(digits).replace("-", "−");
}

/** Numbers of a vertical axis, with the decimals that their steps need. */
function signed(_, ticks, index, space, step) {
  return ticks.map((v) => told(v, Math.max(0, Math.ceil(-Math.log10(step) - 1e-9))));
}

/** An axis with its label, in the colours of the scheme */
function axis(label, more = {}) {
  return { label, stroke: colour("--front"), grid: { stroke: colour("--grid") }, ticks: { stroke: colour("--grid") },
    font: "12px system-ui, sans-serif", labelFont: "13px system-ui, sans-serif",
    ...more };
}

/** Call `draw` again when the colours change: with the scheme, and on paper, which is white. */
function onColours(draw) {
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  for (const event of ["beforeprint", "afterprint"]) {
    window.addEventListener(event, () => {
      document.documentElement.classList.toggle("printing", event === "beforeprint");
      draw();
    });
  }
}

/**
 * Draw a chart into an element, and again when the scheme or the width changes.
 * `options` makes uPlot's options anew each time, because they hold colours; `chart.data` can be replaced by `show`.
 */
function chart(element, options, data) {
  const made = { plot: null, data, element };
  const draw = () => {
    if (made.plot) made.plot.destroy();
    const width = Math.max(260, element.clientWidth);
    made.plot = new uPlot({ width, height: 300, ...options() }, made.data, element);
  };
  made.show = (fresh) => { made.data = fresh; made.plot.setData(fresh); };
  draw();
  onColours(draw);
  let width = element.clientWidth;
  new ResizeObserver(() => {
    if (Math.abs(element.clientWidth - width) > 1) { width = element.clientWidth; made.plot.setSize({ width, height: 300 }); }
  }).observe(element);
  return made;
}

/** The range of a curve's axis: it starts where all but the lowest twentieth of the values are, as training starts far below. */
function rangeOf(values) {
  const sorted = values.filter((v) => v != null).sort((a, b) => a - b);
  const low = sorted[Math.floor(sorted.length * 0.05)], high = sorted[sorted.length - 1];
  const room = Math.max(high - low, 1e-3);
  return [low - 0.15 * room, high + 0.05 * room];
}

/** The bounds of all runs over the training steps: a line for training, points on a line for validation. */
function drawCurves() {
  const element = document.getElementById("curves");
  if (!element) return;
  const tables = [], series = [];
  DATA.curves.forEach(({ run, tag, points }) => {
    tables.push([points.map((p) => p[0]), points.map((p) => p[1])]);
    series.push({ run, training: tag === "train/bound" });
  });
  const several = new Set(series.map((s) => s.run)).size > 1;
  const name = (s) => (s.training ? "training" : "validation") + (several ? `, ${DATA.runs[s.run]}` : "");
  const joined = tables.length > 1 ? uPlot.join(tables) : tables[0];
  const range = rangeOf(joined.slice(1).flat());
  const line = (s) => {
    // one run: a colour for each of its two curves; several: a colour for each run
    const stroke = colour(SERIES_COLOURS[(several ? s.run : s.training ? 0 : 1) % SERIES_COLOURS.length]);
    return { label: name(s), stroke, width: s.training ? 1.2 : 2, dash: several && !s.training ? [6, 4] : undefined,
      spanGaps: true, points: { show: !s.training, size: 7, fill: stroke }, value: (_, v) => (v == null ? "–" : `${told(v)} nats`) };
  };
  chart(element, () => ({
    title: "Bound in training and in validation",
    scales: { x: { time: false }, y: { range } },
    axes: [axis("training step"), axis(`bound (${DATA.unit})`, { size: 70, values: signed })],
    series: [{ label: "step", value: (_, v) => (v == null ? "–" : v.toLocaleString("en")) }, ...series.map(line)],
  }), joined);
}

drawCurves();
