"""The diagonal Gaussian."""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

from lvm_lightning.densities.proposals.base import NoiseProposal, Posterior

Scale = Literal["exp", "softplus"]


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
        squares = (
            exact.square() @ precision.mT - 2 * exact @ (mean * precision).mT + (mean.square() * precision).sum(-1)
        )
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
    small = -20.0
    return torch.where(s < small, s, softplus(s.clamp(min=small)).log())


def _log_density(eps: Tensor, log_sigma: Tensor) -> Tensor:
    return (-0.5 * eps.square() - log_sigma - 0.5 * math.log(2 * math.pi)).sum(-1)
