"""Proposals q(z|x): an encoder's output becomes a distribution; the diagonal Gaussian."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from lvm_lightning.support.randomness import Rows

Scale = Literal["exp", "softplus"]


class Drawn(NamedTuple):
    """Some of the draws for some of the examples of a batch.

    Attributes:
        samples: which draws they are.
        examples: which examples they are for.
        z: ``(s, b, K)``, or ``(s, 1, K)`` where the examples share them.
        log_q: log q(z|x), ``(s, b)`` or ``(s, 1)``, nats.
    """

    samples: slice
    examples: slice
    z: Tensor
    log_q: Tensor


class Proposal(ABC):
    """Abstract q(z|x) for the examples of one batch."""

    @property
    @abstractmethod
    def location(self) -> Tensor:
        """Where q(z|x) lies, ``(B, K)``, for pictures: its mean where that has a closed form."""

    @abstractmethod
    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z|x) at any z, ``(*S, B, K)`` or shared ``(*S, 1, K)`` → ``(*S, B)``, nats, differentiable in all."""

    @abstractmethod
    def draws(self, samples: int, rows: Rows, generator: torch.Generator, size: int) -> Iterator[Drawn]:
        """z ~ q(z|x), some draws after the others. The noise does not depend on how a batch is cut.

        Args:
            samples: number S of draws for each example.
            rows: which rows of a batch that several processes share these examples are.
            generator: CPU generator of the noise.
            size: latent points to draw at a time, about.
        """

    def detached(self) -> "Proposal":
        """The same with its parameters held fixed: no gradient reaches the encoder."""
        return self

    def widened(self, factor: float) -> "Proposal":
        """The same with its standard deviations multiplied by a factor: importance weights that are less heavy."""
        return self

    def stopped_log_prob(self, z: Tensor) -> Tensor:
        """log q(z|x) whose gradient reaches z alone, ``(*S, B, K) → (*S, B)``, nats."""
        return self.detached().log_prob(z)

    def kl_per_dimension(self) -> Tensor | None:
        """KL(q(z_k|x) ‖ N(0, 1)) in nats, ``(B, K)``; None where it has no closed form."""
        return None


class NoiseProposal(Proposal):
    """Abstract proposal whose z is a differentiable function of standard-normal noise.

    Attributes:
        noise_dtype: type that noise is drawn in; none takes torch's default.
    """

    noise_dtype: torch.dtype | None = None

    @abstractmethod
    def rsample(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Reparameterised samples.

        Args:
            noise: standard-normal ε, ``(*S, B, K)``.

        Returns:
            z ``(*S, B, K)``, and log q(z|x) ``(*S, B)`` in nats; both are functions of the encoder's parameters.
        """

    @property
    def like(self) -> Tensor:
        """Any tensor of the shape ``(B, K)``, the type and the device of z."""
        return self.location

    def noise(self, samples: int, rows: Rows, generator: torch.Generator) -> Tensor:
        """ε ~ N(0, I), ``(S, B, K)``."""
        batch, dim = self.like.shape
        noise = torch.randn(samples, rows.total, dim, generator=generator, dtype=self.noise_dtype)
        return noise[:, rows.start : rows.start + batch].to(self.like)

    def draws(self, samples: int, rows: Rows, generator: torch.Generator, size: int) -> Iterator[Drawn]:
        """As many draws at a time for each example as the size allows, at least one."""
        count = max(1, size // max(1, rows.total))
        for start in range(0, samples, count):
            some = min(count, samples - start)
            yield Drawn(slice(start, start + some), slice(None), *self.rsample(self.noise(some, rows, generator)))


class Posterior(nn.Module, ABC):
    """Abstract last layer of an encoder: features h → q(z|x).

    Attributes:
        features: how many numbers of each example it takes from the encoder.
        reparameterised: whether z is a differentiable function of noise, which every gradient estimator needs.
        factorised: whether q(z|x) = Π_k q(z_k|x) with a closed-form KL from the standard normal.
    """

    features: int
    reparameterised: bool = True
    factorised: bool

    @abstractmethod
    def forward(self, h: Tensor) -> NoiseProposal:
        """Features ``(B, features)`` → the proposal, in float32 or better whatever precision h has."""


class DiagonalGaussian(NoiseProposal):
    """q(z|x) = Π_k N(z_k; μ_k, σ_k²).

    With ε = (z − μ)/σ the latent axis is summed, and nothing else:

        log q(z|x) = Σ_k −½ ε_k² − log σ_k − ½ log 2π

    Args:
        mean: μ, ``(B, K)``.
        log_sigma: log σ, ``(B, K)``.
    """

    def __init__(self, mean: Tensor, log_sigma: Tensor) -> None:
        self.mean, self.log_sigma = mean, log_sigma

    @property
    def location(self) -> Tensor:
        """The mean."""
        return self.mean

    def rsample(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """z = μ + σ ε and log q(z|x) as a function of ε, which is exact where σ is small."""
        return self.mean + self.log_sigma.exp() * noise, _log_density(noise, self.log_sigma)

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z|x), from ε = (z − μ)/σ; points shared by the batch take one matrix product over all pairs."""
        if z.shape[-2] < len(self.mean):
            return self._log_prob_of_pairs(z.squeeze(-2))
        return _log_density((z - self.mean) * (-self.log_sigma).exp(), self.log_sigma)

    def _log_prob_of_pairs(self, z: Tensor) -> Tensor:
        """``(*S, K) → (*S, B)``, in float64: the terms of Σ_k (z_k − μ_k)²/σ_k² cancel where σ is small."""
        mean, precision, exact = self.mean.double(), (-2 * self.log_sigma.double()).exp(), z.double()
        squares = exact.square() @ precision.mT - 2 * exact @ (mean * precision).mT
        squares = squares + (mean.square() * precision).sum(-1)
        constant = self.log_sigma.double().sum(-1) + 0.5 * z.shape[-1] * math.log(2 * math.pi)
        return (-0.5 * squares - constant).to(self.mean.dtype)

    def detached(self) -> "DiagonalGaussian":
        """With μ and σ held fixed."""
        return DiagonalGaussian(self.mean.detach(), self.log_sigma.detach())

    def widened(self, factor: float) -> "DiagonalGaussian":
        """N(μ, c² σ²)."""
        return DiagonalGaussian(self.mean, self.log_sigma + math.log(factor))

    def kl_per_dimension(self) -> Tensor:
        """KL(q(z_k|x) ‖ N(0, 1)) = ½ (μ² + σ² − 1) − log σ, ``(B, K)``, nats.

        Reference:
            Kingma & Welling, Auto-Encoding Variational Bayes, 2014, appendix B.
        """
        return 0.5 * (self.mean.square() + (2 * self.log_sigma).exp() - 1) - self.log_sigma


class GaussianPosterior(Posterior):
    """h = (μ, s) → N(μ, diag σ²) with σ = exp(s) or softplus(s).

    Args:
        latent_dim: number K of latent dimensions.
        scale: ``exp``, or ``softplus``, which grows slower and so bears larger learning rates.

    Reference:
        Kingma & Welling, Auto-Encoding Variational Bayes, 2014, eq. 9.
    """

    factorised = True

    def __init__(self, latent_dim: int, scale: Scale = "exp") -> None:
        super().__init__()
        self.features, self.scale = 2 * latent_dim, scale

    def forward(self, h: Tensor) -> DiagonalGaussian:
        """Features ``(B, 2K)``, the K means first → the proposal."""
        mean, s = h.to(torch.promote_types(h.dtype, torch.float32)).chunk(2, dim=-1)
        return DiagonalGaussian(mean, s if self.scale == "exp" else log_softplus(s))


def log_softplus(s: Tensor) -> Tensor:
    """log log(1 + e^s), which is s itself, to float32's last bit, where softplus would underflow to 0."""
    return torch.where(s < -20, s, softplus(s.clamp(min=-20)).log())


def _log_density(eps: Tensor, log_sigma: Tensor) -> Tensor:
    return (-0.5 * eps.square() - log_sigma - 0.5 * math.log(2 * math.pi)).sum(-1)
