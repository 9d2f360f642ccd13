"""The exponential distribution of one positive latent, as a prior and as a proposal."""

import math

import torch
from torch import Tensor

from lvm_lightning.densities.priors import NoisePrior
from lvm_lightning.densities.proposals import NoiseProposal


class ExponentialPrior(NoisePrior):
    """z ~ Exp(λ) on the positive half-line, K = 1.

        log p(z) = log λ − λ z,   −∞ for z < 0

    Args:
        rate: λ.
    """

    noise_dtype = torch.float64

    def __init__(self, rate: float) -> None:
        super().__init__(1)
        self.rate = rate

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density in nats: ``(*, 1) → (*,)``."""
        z = z.squeeze(-1)
        return (math.log(self.rate) - self.rate * z).where(z >= 0, -torch.inf)

    def transform(self, noise: Tensor) -> Tensor:
        """−log Φ(ε)/λ."""
        z: Tensor = -torch.special.log_ndtr(noise) / self.rate
        return z


class Exponential(NoiseProposal):
    """q(z) = Exp(θ), the same for every example.

        z = e/θ,  e ~ Exp(1),   log q(z) = log θ − θ z

    Args:
        log_rate: log θ, ``()``; its exponential is positive whatever an optimiser makes of it.
        batch: number B of examples.
    """

    noise_dtype = torch.float64

    def __init__(self, log_rate: Tensor, batch: int) -> None:
        self.log_rate, self.batch = log_rate, batch

    @property
    def location(self) -> Tensor:
        """The mean 1/θ, ``(B, 1)``."""
        return (-self.log_rate).exp().expand(self.batch, 1)

    def rsample(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """z and log q(z) from standard-normal ε ``(*S, B, 1)``: e = −log Φ(ε) is a standard exponential."""
        e = -torch.special.log_ndtr(noise)
        return (-self.log_rate).exp() * e, (self.log_rate - e).squeeze(-1)

    def widened(self, factor: float) -> "Exponential":
        """Exp(θ/c)."""
        return Exponential(self.log_rate - math.log(factor), self.batch)

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z)."""
        return (self.log_rate - self.log_rate.exp() * z).squeeze(-1)

    def detached(self) -> "Exponential":
        """With θ held fixed."""
        return Exponential(self.log_rate.detach(), self.batch)
