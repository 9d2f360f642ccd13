"use strict";
// z ~ Exp(λ), x_i ~ N(z, σ²), q = Exp(θ): the closed forms of lvm_lightning/evaluation/closed_forms.py under a slider.

const LEAST = -20; // nats: where the axis of the bars starts at the latest, below log p(x)
const TOY = DATA.toy;
const atId = (id) => document.getElementById(id);

/** log p(x, z) = log λ − λ z + Σ log N(x_i; z, σ²). */
function logJoint(z) {
  const { rate, sigma, n, mean, squares } = TOY;
  const constant = -0.5 * n * Math.log(2 * Math.PI * sigma ** 2) - squares / (2 * sigma ** 2);
  return Math.log(rate) - rate * z + constant - (n * (z - mean) ** 2) / (2 * sigma ** 2);
}

/** ELBO(θ) = E_q[log p(x, z)] + 1 − log θ, with E_q z = 1/θ and E_q z² = 2/θ². */
function elboOf(theta) {
  const { rate, sigma, n, mean, squares } = TOY;
  const constant = -0.5 * n * Math.log(2 * Math.PI * sigma ** 2) - squares / (2 * sigma ** 2);
  const square = (1 / theta - mean) ** 2 + theta ** -2;
  return Math.log(rate) + constant - (n * square) / (2 * sigma ** 2) - rate / theta + 1 - Math.log(theta);
}

// The slider's place of a θ, from a 20th of the best one to 20 times it, and back: equal steps are equal factors.
const placeOf = (theta) => 500 + (500 * Math.log(theta / TOY.best)) / Math.log(20);
const thetaAt = (place) => TOY.best * 20 ** ((place - 500) / 500);

const zs = (() => {
  const end = 2.5 * Math.max(TOY.mean, 2 * TOY.sigma);
  return Array.from({ length: 401 }, (_, i) => (end * i) / 400);
})();
const posterior = zs.map((z) => Math.exp(logJoint(z) - TOY.log_p));
const surrogate = (theta) => zs.map((z) => theta * Math.exp(-theta * z));
let theta = TOY.theta;

const densities = chart(atId("densities"), () => ({
  title: "p(z|x) and q(z)",
  scales: { x: { time: false }, y: { range: [0, 1.3 * Math.max(...posterior)] } },
  axes: [axis("z"), axis("density", { size: 60 })],
  series: [{ label: "z", value: (_, v) => told(v) },
    { label: "posterior p(z|x)", stroke: colour("--two"), width: 2.5, value: (_, v) => told(v, 4), points: { show: false } },
    { label: "surrogate q(z)", stroke: colour("--one"), width: 2, dash: [6, 4], value: (_, v) => told(v, 4), points: { show: false } }],
}), [zs, posterior, surrogate(theta)]);

/** Everything at the present θ. */
function showTheta() {
  const elbo = elboOf(theta), kl = TOY.log_p - elbo;
  const low = TOY.log_p + Math.max(LEAST, Math.min(elboOf(thetaAt(0)), elboOf(thetaAt(1000))) - TOY.log_p);
  const share = Math.max(0, (elbo - low) / (TOY.log_p - low));
  densities.show([zs, posterior, surrogate(theta)]);
  atId("theta-told").textContent = told(theta, 4);
  atId("theta").setAttribute("aria-valuetext", `θ = ${told(theta, 4)}`);
  atId("bar-elbo").style.width = `${100 * share}%`;
  atId("bar-kl").style.width = `${100 * (1 - share)}%`;
  atId("bar-elbo").textContent = share > 0.2 ? "ELBO" : "";
  atId("bar-kl").textContent = share < 0.85 ? "KL" : "";
  atId("bars-low").textContent = `${told(low, 1)} nats`;
  atId("bars-high").textContent = `log p(x) = ${told(TOY.log_p, 4)} nats`;
  const text = `θ = ${told(theta, 4)}: ELBO ${told(elbo, 4)} + KL(q ‖ p(z|x)) ${told(kl, 4)} = log p(x) ${told(elbo + kl, 4)} nats. ` +
    `The best θ* = ${told(TOY.best, 4)}.`;
  atId("toy-told").textContent = text;
  atId("bars").setAttribute("aria-label", text);
}

function setTheta(value) {
  theta = value;
  atId("theta").value = placeOf(theta);
  showTheta();
}

atId("theta").addEventListener("input", (event) => { theta = thetaAt(Number(event.target.value)); showTheta(); });
atId("theta-best").addEventListener("click", () => setTheta(TOY.best));
atId("theta-trained").addEventListener("click", () => setTheta(TOY.theta));
setTheta(TOY.theta);
window.lvm = { elbo: elboOf, setTheta, posterior, zs };
