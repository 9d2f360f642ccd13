"""The exponential surrogate of one positive latent."""

import math

import torch
from torch import Tensor

from lvm_lightning.densities.proposals.base import Proposal


class Exponential(Proposal):
    """q(z) = Exp(θ), the same for every example.

        z = e/θ,  e ~ Exp(1),   log q(z) = log θ − θ z

    Args:
        log_rate: log θ, ``()``; its exponential is positive whatever an optimiser makes of it.
        batch: number B of examples.
    """

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

    def stopped_log_prob(self, z: Tensor) -> Tensor:
        """log q(z) with θ held fixed."""
        log_rate = self.log_rate.detach()
        return (log_rate - log_rate.exp() * z).squeeze(-1)
