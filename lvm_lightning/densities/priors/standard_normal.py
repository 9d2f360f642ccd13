"""The standard normal."""

import math

import torch
from torch import Tensor

from lvm_lightning.densities.priors.base import NoisePrior


def standard_normal_log_prob(z: Tensor) -> Tensor:
    """log N(z; 0, I) = −½ (‖z‖² + K log 2π): ``(*, K) → (*,)``, nats."""
    return -0.5 * (z.square().sum(-1) + z.shape[-1] * math.log(2 * math.pi))


class StandardNormal(NoisePrior):
    """z ~ N(0, I_K).

        log p(z) = −½ (‖z‖² + K log 2π)

    Args:
        dim: number K of latent dimensions.
    """

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density in nats: ``(*, K) → (*,)``."""
        return standard_normal_log_prob(z)

    def transform(self, noise: Tensor) -> Tensor:
        """The noise itself."""
        return noise

    def icdf(self, u: Tensor) -> Tensor:
        """Quantiles, ``(*, K) → (*, K)``: uniform points on (0, 1)^K become points of the prior."""
        z: Tensor = torch.special.ndtri(u)
        return z
