"""Densities p(z) of the latent variable."""

import math

import torch
from torch import Tensor, nn


class StandardNormal(nn.Module):
    """z ~ N(0, I_K).

        log p(z) = −½ (‖z‖² + K log 2π)

    Args:
        dim: number K of latent dimensions.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density in nats: ``(*, K) → (*,)``."""
        return -0.5 * (z.square().sum(-1) + self.dim * math.log(2 * math.pi))

    def icdf(self, u: Tensor) -> Tensor:
        """Quantiles, ``(*, K) → (*, K)``: uniform points on (0, 1)^K become points of the prior."""
        z: Tensor = torch.special.ndtri(u)
        return z
