"""Exponential prior, Gaussian observations: everything in closed form.

    z ~ Exp(λ),   x_i ~ N(z, σ²), i = 1..n,   surrogate q_θ = Exp(θ)

With x̄ the mean of the observations, m = x̄ − λσ²/n and s = σ/√n, the posterior is N(m, s²) truncated to z ≥ 0, and
log p(x), the ELBO and the best θ follow. All functions work in float64 and stay accurate where a = m/s is far below 0,
where the posterior is a sliver beside 0: scipy's truncated normal has lost every digit of its variance at a = −500.

Derivation: complete the square in z of −λz − Σ(x_i − z)²/(2σ²) and integrate over z ≥ 0. The teaching text that the
model comes from has λ = σ = 1, n = 5.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple, cast

import torch
from torch import Tensor
from torch.special import erfcx, log_ndtr

from lvm_lightning.densities import Exponential, ExponentialPrior, Gaussian
from lvm_lightning.evaluation import LOG_P, NATS, Evaluator, Given, Kind, Measured
from lvm_lightning.model import LatentVariableModel

CONTINUED_FRACTION_DEPTH = 400
SWITCH = -1.0
"""Below this a the moments come from a continued fraction, whose terms do not cancel; above from erfcx."""


class Problem(NamedTuple):
    """What the closed forms depend on.

    Attributes:
        rate: λ of the prior.
        sigma: σ of the observations.
        n: number of observations.
        mean: x̄.
        squares: Σ (x_i − x̄)².
    """

    rate: float
    sigma: float
    n: int
    mean: float
    squares: float

    @classmethod
    def of(cls, x: Tensor, rate: float, sigma: float) -> "Problem":
        """The problem of observations ``(n,)``.

        Raises:
            ValueError: if there is no observation, one is not finite, or λ or σ is not positive.
        """
        for name, value in [("rate", rate), ("sigma", sigma)]:
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name}: must be positive and finite, got {value:g}")
        x = x.double()
        if x.ndim != 1 or not len(x) or not bool(x.isfinite().all()):
            raise ValueError(f"observations: must be one or more finite numbers, got {x.tolist()}")
        return cls(rate, sigma, len(x), float(x.mean()), float((x - x.mean()).square().sum()))

    @property
    def m(self) -> float:
        """Location of the posterior before truncation: x̄ − λσ²/n."""
        return self.mean - self.rate * self.sigma**2 / self.n

    @property
    def s(self) -> float:
        """Scale of the posterior before truncation: σ/√n."""
        return self.sigma / math.sqrt(self.n)

    @property
    def a(self) -> float:
        """m/s: how many scales the location lies above 0."""
        return self.m / self.s


def log_marginal(p: Problem) -> float:
    """log p(x), nats: log p(x, z) where p(z|x) is largest, at z₀ = max(m, 0), and the mass around it.

        log p(x) = log p(x, z₀) + log s √2π + log Φ(a)                  a ≥ 0
        log p(x) = log p(x, 0)  + log s √2π + log ½ erfcx(−a/√2)        a < 0

    Both are log λ − n/2 log 2πσ² − Σ(x_i − x̄)²/(2σ²) − λx̄ + λ²σ²/(2n) + ½ log 2πs² + log Φ(a), whose large terms are
    cancelled on paper: at λ = 10⁶, σ = 100 they have 3·10¹⁵ nats, and no digit of their sum would be left.
    """
    peak = float(log_joint(p, torch.tensor(max(p.m, 0.0), dtype=torch.float64)))
    return peak + 0.5 * math.log(2 * math.pi) + math.log(p.s) + _log_mass(p.a)


def log_joint(p: Problem, z: Tensor) -> Tensor:
    """log p(x, z) = log λ − λz + Σ_i log N(x_i; z, σ²), nats; −∞ for z < 0."""
    z = z.double()
    value = math.log(p.rate) - p.rate * z + _log_constant(p) - p.n * (z - p.mean).square() / (2 * p.sigma**2)
    return value.where(z >= 0, -torch.inf)


def _log_mass(a: float) -> float:
    """log of ∫₀^∞ exp(−½ (u − a)²) du / √2π, for a < 0 over its largest integrand exp(−½ a²)."""
    at = torch.tensor(a, dtype=torch.float64)
    return float(log_ndtr(at) if a >= 0 else (0.5 * erfcx(-at / math.sqrt(2))).log())


def log_posterior(p: Problem, z: Tensor) -> Tensor:
    """log p(z|x), the truncated normal's log-density; −∞ for z < 0.

    With u = z/s: −½ (u − a)² − log s √2π − log Φ(a); for a < 0 the terms in a² are cancelled on paper first:
    −½ u² + a u − log s √2π − log ½ erfcx(−a/√2).
    """
    u = z.double() / p.s
    exponent = -0.5 * u.square() + p.a * u if p.a < 0 else -0.5 * (u - p.a).square()
    value: Tensor = exponent - math.log(p.s) - 0.5 * math.log(2 * math.pi) - _log_mass(p.a)
    return value.where(z >= 0, -torch.inf)


def posterior_moments(p: Problem) -> tuple[float, float]:
    """Mean and variance of p(z|x).

    With I_k = ∫₀^∞ u^k exp(au − ½u²) du, integration by parts gives r_k = I_k/I_{k−1} = k/(r_{k+1} − a). Then the mean
    is s r₁ and the variance s² r₁ (r₂ − r₁). For a > −1, where the fraction is slow and nothing cancels, with the
    inverse Mills ratio h = φ(a)/Φ(a): mean s (a + h), variance s² (1 − ah − h²).
    """
    if p.a < SWITCH:
        first = second = 0.0
        for k in range(CONTINUED_FRACTION_DEPTH, 0, -1):
            first, second = k / (first - p.a), first
        return p.s * first, p.s**2 * first * (second - first)
    a = torch.tensor(p.a, dtype=torch.float64)
    h = float((-0.5 * a.square() - 0.5 * math.log(2 * math.pi) - log_ndtr(a)).exp())
    return p.s * (p.a + h), p.s**2 * (1 - p.a * h - h**2)


def elbo(p: Problem, theta: Tensor) -> Tensor:
    """ELBO(θ) = E_q[log p(x, z)] + 1 − log θ for q = Exp(θ), with every constant, nats.

    E_q (z − x̄)² = (1/θ − x̄)² + 1/θ². With λ = σ = 1 it is the source's B/θ − n/θ² − log θ + C, B = Σx_i − λ.
    """
    theta = theta.double()
    square = (1 / theta - p.mean).square() + theta.pow(-2)
    return math.log(p.rate) + _log_constant(p) - p.n * square / (2 * p.sigma**2) - p.rate / theta + 1 - theta.log()


def best_rate(p: Problem) -> float:
    """θ* = argmax ELBO(θ), the positive root of θ² + Bθ − 2n/σ² = 0, B = Σx_i/σ² − λ, without cancellation."""
    b, c = p.n * p.mean / p.sigma**2 - p.rate, 2 * p.n / p.sigma**2
    root = math.sqrt(b**2 + 4 * c)
    return 2 * c / (b + root) if b > 0 else (root - b) / 2


def kl(p: Problem, theta: Tensor) -> Tensor:
    """KL(q_θ ‖ p(z|x)) = log p(x) − ELBO(θ), nats."""
    return log_marginal(p) - elbo(p, theta)


def relative_variance(p: Problem, theta: float) -> float:
    """Var[w]/p(x)² of the weights w = p(x, z)/q_θ(z), z ~ q_θ: ∫ p(z|x)²/q_θ(z) dz − 1.

    p(z|x)² is a truncated normal of scale s/√2 in the same place, and 1/q_θ tilts it: with r = θ s/√2 and a = m/s,

        ∫₀^∞ p(z|x)²/q_θ(z) dz = exp(θ m + r²/2) Φ(√2 a + r) / (2 √π s θ Φ(a)²)

    For a < 0 the exponent cancels against those of the Φ, as θ m = √2 a r. A value above 1e308 is given as infinite.
    """
    a, r = p.a, theta * p.s / math.sqrt(2)
    b = math.sqrt(2) * a + r
    exponent = theta * p.m + r**2 / 2 if a >= 0 else b**2 / 2 if b >= 0 else 0.0
    log_integral = exponent + _log_mass(b) - 2 * _log_mass(a) - math.log(2 * math.sqrt(math.pi) * p.s * theta)
    return float(torch.tensor(log_integral, dtype=torch.float64).expm1())


def _log_constant(p: Problem) -> float:
    return -0.5 * p.n * math.log(2 * math.pi * p.sigma**2) - p.squares / (2 * p.sigma**2)


class ClosedForms(Evaluator):
    """θ, θ*, ELBO(θ), log p(x) and the KL between them, for the first example of a batch."""

    rows = None

    def lacks(self, model: LatentVariableModel) -> str:
        """An exponential prior, and Gaussian observations of z itself."""
        return "" if isinstance(model.prior, ExponentialPrior) else "an exponential prior"

    def measure(self, given: Given) -> Iterator[Measured]:
        """One number each."""
        prior, likelihood = cast(ExponentialPrior, given.model.prior), cast(Gaussian, given.model.likelihood)
        p = Problem.of(given.batch.x[0], prior.rate, float(likelihood.sigma))
        theta = cast(Exponential, given.q).log_rate.exp()
        yield _number("θ", theta, "1/unit of x", "parameter")
        yield _number("θ*, the ELBO's maximum", best_rate(p), "1/unit of x")
        yield _number("ELBO(θ)", elbo(p, theta))
        yield _number("log p(x)", log_marginal(p))
        yield _number("KL(q_θ(z) ‖ p(z|x)) = log p(x) − ELBO(θ)", kl(p, theta), NATS)


def _number(name: str, value: float | Tensor, unit: str = LOG_P, kind: Kind = "exact") -> Measured:
    return Measured(name, torch.tensor([float(value)], dtype=torch.float64), kind, 0, unit, constant=True)
