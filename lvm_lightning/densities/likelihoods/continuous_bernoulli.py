"""Continuous Bernoulli pixels: grey levels in [0, 1]."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lvm_lightning.densities.likelihoods.bernoulli import NaturalLikelihood, float32_or_better
from lvm_lightning.support.values import UNIT

SMALL = 0.5
"""|l| below which the moments are Taylor series: their closed forms are differences of numbers of size 1/l."""
SERIES = (1 / 12, -1 / 720, 1 / 30240, -1 / 1209600, 1 / 47900160, -691 / 1307674368000)
"""Coefficients of l, l³, l⁵, … in A'(l) − ½, B_{2k}/(2k)!: exact to 2e-15 where |l| < SMALL."""
NEAR_ZERO = 1e-30
"""|l| from which on the ratios below are 0/0; at this value they already have their limits."""
CUT = 1e-3
"""Means are cut here: at a mean m near 0, −l = 1/m, and a bright pixel costs so many nats."""
NEWTON_STEPS = 20


class ContinuousBernoulli(NaturalLikelihood):
    """Independent continuous Bernoulli pixels on logits, for grey levels.

        log p(x|z) = Σ_j x_j l_j − softplus(l_j) + log C(λ_j),   λ_j = sigmoid(l_j),  x_j ∈ [0, 1]
        log C(λ) = log (l / tanh(l/2)),   so that   softplus(l) − log C(λ) = log ((e^l − 1)/l) = A(l)

    Without C the expression is no log-density of grey levels: its integral over [0, 1] is less than 1. It is a
    density: nats per image on the scale of x.

    Reference:
        Loaiza-Ganem & Cunningham, The continuous Bernoulli, 2019, section 3.
    """

    support = UNIT
    density = True

    def log_partition(self, logits: Tensor) -> Tensor:
        """A(l) = max(l, 0) + log((1 − e^{−|l|})/|l|): exact near l = 0 too, and without overflow at any l."""
        size = logits.abs().clamp(min=NEAR_ZERO)
        return logits.relu() + (-torch.expm1(-size) / size).log()

    def mean(self, logits: Tensor, out: Tensor | None = None) -> Tensor:
        """E[x|z] = A'(l) = 1/(1 − e^{−l}) − 1/l: same shape as ``logits``, in [0, 1]. It is not λ."""
        near, far, small = _apart(logits)
        direct = -1 / torch.expm1(-far) - 1 / far
        return torch.where(small, 0.5 + near * _even(SERIES, near), direct, out=out)

    def information(self, logits: Tensor) -> Tensor:
        """Var[x|z] = A''(l) = 1/l² − 1/(4 sinh²(l/2))."""
        near, far, small = _apart(logits)
        slopes = [(2 * k + 1) * c for k, c in enumerate(SERIES)]
        size = far.abs()
        return torch.where(small, _even(slopes, near), size.pow(-2) - (-size).exp() / torch.expm1(-size).square())

    def sample(self, logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """x ~ p(x|z) by the inverse distribution function: log(1 + u (e^l − 1))/l, turned round where l > 0."""
        u = torch.rand(logits.shape, generator=generator).to(logits)
        size = logits.abs().clamp(min=NEAR_ZERO)
        x = (torch.log1p(u * torch.expm1(-size)) / -size).clamp(0, 1)
        return torch.where(logits > 0, 1 - x, x)

    def parameters_of_mean(self, mean: Tensor) -> Tensor:
        """The l with A'(l) = mean, cut at the means 1e-3 and 1 − 1e-3, by Newton's method in float64.

        A' rises, convex below 0 and concave above, so that the steps from 0 go to the root without passing it.
        """
        target = mean.double().clamp(CUT, 1 - CUT)
        logits = torch.zeros_like(target)
        for _ in range(NEWTON_STEPS):
            logits = logits - (self.mean(logits) - target) / self.information(logits)
        return logits.to(mean)


def _apart(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """In float32 or better: arguments of the series and of the closed forms, and which of the two serves."""
    exact = float32_or_better(logits)
    small = exact.abs() < SMALL
    return exact.where(small, 0.0), exact.where(~small, 1.0), small


def _even(coefficients: Sequence[float], x: Tensor) -> Tensor:
    """Σ_k c_k x^{2k}."""
    square, total = x.square(), torch.zeros_like(x)
    for c in reversed(coefficients):
        total = total * square + c
    return total
