"""Likelihoods of grey levels: Gaussian pixels, and the continuous Bernoulli. Each is a density."""

import math
from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from lvm_lightning.densities.likelihoods import Likelihood, NaturalLikelihood, float32_or_better
from lvm_lightning.support.argtypes import PositiveFloat
from lvm_lightning.support.log_space import rounding
from lvm_lightning.support.values import REALS, UNIT

SMALL = 0.5
"""|l| below which the moments are Taylor series: their closed forms are differences of numbers of size 1/l."""
SERIES = (1 / 12, -1 / 720, 1 / 30240, -1 / 1209600, 1 / 47900160, -691 / 1307674368000)
"""Coefficients of l, l³, l⁵, … in A'(l) − ½, B_{2k}/(2k)!: exact to 2e-15 where |l| < SMALL."""
NEAR_ZERO = 1e-30
"""|l| from which on the ratios below are 0/0; at this value they already have their limits."""
CUT = 1e-3
"""Means are cut here: at a mean m near 0, −l = 1/m, and a bright pixel costs so many nats."""
NEWTON_STEPS = 20


class GaussianLikelihood(Likelihood):
    """Independent Gaussian pixels, abstract in where the standard deviation comes from.

        log p(x|z) = −½ Σ_j [ ((x_j − m_j)/σ_j)² + 2 log σ_j + log 2π ]

    It is a density: nats per image on the scale of x. On x in [−1, 1] it is D log 2 nats lower than on [0, 1], and on
    grey levels it grows without limit as σ → 0 unless the data are dequantised.
    """

    support = REALS
    density = True

    @abstractmethod
    def mean_and_log_sigma(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """m ``(*, D)`` and log σ, which broadcasts against it."""

    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        """Log-density of every x under every latent point, ``(*S, B)`` in nats, in float32 or better."""
        with torch.autocast(parameters.device.type, enabled=False):
            mean, log_sigma = self.mean_and_log_sigma(float32_or_better(parameters))
            scaled = (x - mean) * (-log_sigma).exp()
            D = x.shape[-1]
            log_scale = log_sigma.expand(*mean.shape[:-1], D).sum(-1)  # one mean may stand for D observations
            return -0.5 * scaled.square().sum(-1) - log_scale - 0.5 * D * math.log(2 * math.pi)

    def mean(self, parameters: Tensor) -> Tensor:
        """E[x|z] = m."""
        return self.mean_and_log_sigma(parameters)[0]

    def sample(self, parameters: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """x = m + σ ε."""
        mean, log_sigma = self.mean_and_log_sigma(parameters)
        return mean + log_sigma.exp() * torch.randn(mean.shape, generator=generator).to(mean)

    def parameters_of_mean(self, mean: Tensor) -> Tensor:
        """The mean itself."""
        return mean


class Gaussian(GaussianLikelihood):
    """Gaussian pixels with one standard deviation for all: m = decoder(z), σ fixed or learned.

    Args:
        sigma: σ, or where a learned σ starts.
        learn_sigma: whether σ is a parameter of the model.
        floor: least value of a learned σ.

    Raises:
        ValueError: if a learned σ starts at its floor or below.
    """

    def __init__(self, sigma: PositiveFloat = 1.0, learn_sigma: bool = False, floor: PositiveFloat = 1e-3) -> None:
        super().__init__()
        if learn_sigma and sigma <= floor:
            raise ValueError(f"sigma: a learned σ must start above its floor {floor:g}, got {sigma:g}")
        self.fixed_sigma, self.floor = None if learn_sigma else sigma, floor
        if learn_sigma:
            self.log_excess = nn.Parameter(torch.tensor(math.log(sigma - floor)))

    @property
    def sigma(self) -> Tensor:
        """σ, ``()``; learned, it is floor + exp(its parameter)."""
        if self.fixed_sigma is not None:
            return torch.tensor(self.fixed_sigma, dtype=torch.float64)
        return self.floor + self.log_excess.exp()

    def information(self, parameters: Tensor) -> Tensor:
        """1/σ²."""
        return self.sigma.to(parameters).pow(-2).expand_as(parameters)

    def mean_and_log_sigma(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """The decoder's output, and log σ ``()``."""
        return parameters, self.sigma.log().to(parameters)


class PixelwiseGaussian(GaussianLikelihood):
    """Gaussian pixels with a mean and a variance each: (m, s) = decoder(z), σ² = floor² + exp(s).

    The decoder puts out the D means first and the D numbers s behind them.

    Args:
        floor: least value of σ. Without one, a pixel that never varies sends the density to infinity.
    """

    parameters_per_pixel = 2

    def __init__(self, floor: PositiveFloat = 1e-2) -> None:
        super().__init__()
        self.floor = floor

    def mean_and_log_sigma(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """m and log σ, both ``(*, D)``."""
        mean, log_excess = parameters.chunk(2, dim=-1)
        least = 2 * math.log(self.floor)
        above = log_excess - least
        with torch.no_grad():
            above.clamp_(min=rounding(above.dtype) - 4)  # below, exp(s) adds nothing to floor²
        return mean, 0.5 * (softplus(above, threshold=40) + least)  # the threshold is one of float64

    def information(self, parameters: Tensor) -> Tensor:
        """1/σ² of m, and ½ (∂ log σ²/∂s)² of s."""
        variance = (2 * self.mean_and_log_sigma(parameters)[1]).exp()
        share = parameters.chunk(2, dim=-1)[1].exp() / variance
        return torch.cat([1 / variance, 0.5 * share.square()], dim=-1)


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
        direct = -1 / torch.expm1(-far.clamp(min=2 * rounding(far.dtype))) - 1 / far
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
