"""Densities p(z) of the latent variable."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from zuko.flows import MAF
from zuko.transforms import ComposedTransform

from lvm_lightning.support.argtypes import PositiveInt


class Prior(nn.Module, ABC):
    """Abstract p(z) over K dimensions.

    Args:
        dim: number K of latent dimensions.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    @abstractmethod
    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density in nats: ``(*, K) → (*,)``."""

    @abstractmethod
    def transform(self, noise: Tensor) -> Tensor:
        """z from standard-normal noise, ``(*, K) → (*, K)``."""


def standard_normal_log_prob(z: Tensor) -> Tensor:
    """log N(z; 0, I) = −½ (‖z‖² + K log 2π): ``(*, K) → (*,)``, nats."""
    return -0.5 * (z.square().sum(-1) + z.shape[-1] * math.log(2 * math.pi))


class StandardNormal(Prior):
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


class ExponentialPrior(Prior):
    """z ~ Exp(λ) on the positive half-line, K = 1.

        log p(z) = log λ − λ z,   −∞ for z < 0

    Args:
        rate: λ.
    """

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


class FlowPrior(Prior):
    """Learned prior: a masked autoregressive flow over a standard normal.

        log p(z) = log N(f(z); 0, I) + log |det ∂f/∂z|

    Args:
        dim: number K of latent dimensions.
        depth: number of autoregressive transformations.
        hidden: widths of each transformation's hidden layers.

    Reference:
        Papamakarios et al., Masked Autoregressive Flow for Density Estimation, 2017, eq. 3; Chen et al., Variational
        Lossy Autoencoder, 2017, section 3.2 (the flow as a prior).
    """

    def __init__(self, dim: int, depth: PositiveInt = 2, hidden: Sequence[PositiveInt] = (256, 256)) -> None:
        super().__init__(dim)
        self.flow = MAF(dim, transforms=depth, hidden_features=tuple(hidden))

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density in nats: ``(*, K) → (*,)``."""
        noise, log_jacobian = self._transform().call_and_ladj(z)
        return standard_normal_log_prob(noise) + cast(Tensor, log_jacobian)

    def transform(self, noise: Tensor) -> Tensor:
        """f⁻¹, one latent dimension after the other."""
        return cast(Tensor, self._transform().inv(noise))

    def _transform(self) -> ComposedTransform:
        return cast(ComposedTransform, self.flow.transform())
