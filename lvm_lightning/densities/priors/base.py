"""What every prior offers."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from lvm_lightning.densities.proposals.base import Proposal


class Prior(nn.Module, ABC):
    """Abstract p(z) over K dimensions.

    Args:
        dim: number K of latent dimensions.

    Attributes:
        examples: how many training examples it wants to start from.
        noise_dtype: type that it starts with; none takes torch's default.
    """

    examples: int = 0
    noise_dtype: torch.dtype | None = None
    like: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        like = torch.empty(0, dtype=self.noise_dtype)  # follows the model to its device and its type
        self.register_buffer("like", like, persistent=False)

    @abstractmethod
    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density in nats: ``(*, K) → (*,)``."""

    @abstractmethod
    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """z ~ p(z), ``(count, K)``, on the prior's device and in its type; the noise comes from a CPU generator."""

    def attach(self, encode: Callable[[Tensor], Proposal], data_dim: int) -> None:
        """Take the model's encoder, x ``(B, D)`` → q(z|x), and the number D of pixels. Called once, by the model."""

    def start_from(self, x: Tensor) -> None:
        """Start from :attr:`examples` training examples, ``(examples, D)``. Called once, before training."""


class NoisePrior(Prior):
    """Abstract prior whose z is a function of standard-normal noise."""

    @abstractmethod
    def transform(self, noise: Tensor) -> Tensor:
        """z from ε ~ N(0, I), ``(*, K) → (*, K)``."""

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """z ~ p(z), ``(count, K)``."""
        noise = torch.randn(count, self.dim, generator=generator, dtype=self.like.dtype)
        return self.transform(noise.to(self.like.device))
