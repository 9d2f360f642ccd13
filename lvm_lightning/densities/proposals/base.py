"""What every proposal offers."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lvm_lightning.support.randomness import Rows


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
