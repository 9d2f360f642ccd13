"""What every likelihood p(x|z) offers: the decoder's output and x in, nats with every constant out; Gaussian pixels.

Samples come first: the decoder's output is ``(*S, B, P·D)`` with P parameters a pixel, or ``(*S, 1, P·D)`` when the
batch shares its latent points; x is ``(B, D)``; a log-likelihood is ``(*S, B)``.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from lvm_lightning.support.argtypes import PositiveFloat
from lvm_lightning.support.values import REALS, Support


def float32_or_better(tensor: Tensor, like: Tensor | None = None) -> Tensor:
    """In float32, or in float64 where it (or its like) is."""
    return tensor.to(torch.promote_types((tensor if like is None else like).dtype, torch.float32))


class Likelihood(nn.Module, ABC):
    """Abstract p(x|z) with independent pixels.

    Attributes:
        parameters_per_pixel: P, how many numbers of a pixel the decoder puts out.
        support: the values of x that it gives a probability. Data that lie elsewhere are refused before training.
        density: whether the number is a density, in nats that depend on the scale of x, and not a probability.
    """

    parameters_per_pixel: int = 1
    support: Support
    density: bool

    @abstractmethod
    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        """log p(x|z): ``(*S, B, P·D)`` or shared ``(*S, 1, P·D)``, and x ``(B, D)`` → ``(*S, B)``, nats."""

    @abstractmethod
    def mean(self, parameters: Tensor) -> Tensor:
        """E[x|z], ``(*, P·D) → (*, D)``: not a sample of x."""

    @abstractmethod
    def sample(self, parameters: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """x ~ p(x|z), ``(*, P·D) → (*, D)``; the noise comes from a CPU generator."""

    @abstractmethod
    def information(self, parameters: Tensor) -> Tensor:
        """Fisher information of each parameter, E[(∂ log p(x|z)/∂parameter)²], ``(*, P·D)``: how sharply x tells it."""

    @abstractmethod
    def parameters_of_mean(self, mean: Tensor) -> Tensor:
        """The first parameter of the pixels whose mean is given, ``(D,) → (D,)``: where an output bias can start."""


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
        mean, log_variance = parameters.chunk(2, dim=-1)
        return mean, 0.5 * torch.logaddexp(log_variance, torch.full_like(log_variance, 2 * math.log(self.floor)))

    def information(self, parameters: Tensor) -> Tensor:
        """1/σ² of m, and ½ (∂ log σ²/∂s)² of s."""
        variance = (2 * self.mean_and_log_sigma(parameters)[1]).exp()
        share = parameters.chunk(2, dim=-1)[1].exp() / variance
        return torch.cat([1 / variance, 0.5 * share.square()], dim=-1)
