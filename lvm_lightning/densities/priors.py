"""Priors p(z): the standard normal, the exponential and its proposal, the encoder's proposals at trained images, and
trained points."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from lvm_lightning.densities.proposals import NoiseProposal, Proposal
from lvm_lightning.support.argtypes import PositiveInt
from lvm_lightning.support.log_space import log_sum_exp
from lvm_lightning.support.portions import in_blocks
from lvm_lightning.support.randomness import Rows


class Prior(nn.Module, ABC):
    """Abstract p(z) over K dimensions.

    Args:
        dim: number K of latent dimensions.

    Attributes:
        examples: how many training examples it wants to start from.
        noise_dtype: type that it starts with; none takes torch's default.
        continuous: whether it has a density, over all of ℝᴷ or a part of it.
    """

    examples: int = 0
    continuous = True
    noise_dtype: torch.dtype | None = None
    like: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        # follows the model to its device and its type
        self.register_buffer("like", torch.empty(0, dtype=self.noise_dtype), persistent=False)

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
        return self.transform(torch.randn(count, self.dim, generator=generator, dtype=self.like.dtype).to(self.like))


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
        return cast(Tensor, torch.special.ndtri(u))


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
        return cast(Tensor, -torch.special.log_ndtr(noise) / self.rate)


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


class VampPrior(Prior):
    """Mixture of the encoder's proposals at M pseudo-inputs u_m, which are parameters of the model.

        p(z) = 1/M Σ_m q(z|u_m)

    The pseudo-inputs start from training examples. Nothing keeps them in the range of x. Its KL has no closed form.

    Args:
        dim: number K of latent dimensions.
        components: number M of pseudo-inputs.

    Reference:
        Tomczak & Welling, VAE with a VampPrior, 2018, eq. 9.
    """

    encode: Callable[[Tensor], Proposal] | None = None

    def __init__(self, dim: int, components: PositiveInt = 500) -> None:
        super().__init__(dim)
        self.examples = self.components = components

    def attach(self, encode: Callable[[Tensor], Proposal], data_dim: int) -> None:
        """Take the encoder, and make the pseudo-inputs ``(M, D)``."""
        self.__dict__["encode"] = encode  # not as a submodule: its parameters are the model's already
        self.inputs = nn.Parameter(torch.rand(self.components, data_dim))

    def start_from(self, x: Tensor) -> None:
        """Start the pseudo-inputs from training examples, ``(M, D)``.

        Raises:
            ValueError: if there are fewer than M.
        """
        if len(x) < self.components:
            raise ValueError(
                f"components: must be at most the {len(x):,} training examples, got {self.components:,}; lower it"
            )
        with torch.no_grad():
            self.inputs.copy_(x[: self.components])

    def log_prob(self, z: Tensor) -> Tensor:
        """log Σ_m q(z|u_m) − log M, ``(*, K) → (*,)``, nats, in blocks of points where they are many."""
        q = self._proposals(slice(None))
        log_sum = in_blocks(
            lambda block: log_sum_exp(q.log_prob(block), -1), z.reshape(-1, 1, self.dim), self.components
        )
        return log_sum.view(z.shape[:-1]) - math.log(self.components)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """z ~ q(z|u_m) with m ~ 1, …, M, ``(count, K)``."""
        which = torch.randint(self.components, (count,), generator=generator)
        (drawn,) = self._proposals(which.to(self.like.device)).draws(1, Rows(0, count), generator, count)
        return drawn.z.squeeze(0)

    def _proposals(self, which: Tensor | slice) -> Proposal:
        """q(z|u_m) of some components."""
        if self.encode is None:
            raise RuntimeError("prior: a VampPrior needs the model's encoder, got none; call attach(encode, data_dim)")
        return self.encode(self.inputs[which])


class LatentPoints(Prior):
    """M points z_m, which are parameters of the model, each as likely as the others.

        P(z = z_m) = 1/M

    Args:
        start: where the points start, ``(M, K)``.
    """

    continuous = False

    def __init__(self, start: Tensor) -> None:
        super().__init__(start.shape[-1])
        self.points = nn.Parameter(start.clone())

    def log_prob(self, z: Tensor) -> Tensor:
        """−log M nats, the logarithm of a probability: ``(*, K) → (*,)``. Each z is taken for one of the points."""
        return z.new_full(z.shape[:-1], -math.log(len(self.points)))

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """z_m with m ~ 1, …, M, ``(count, K)``."""
        return self.points[torch.randint(len(self.points), (count,), generator=generator).to(self.points.device)]
