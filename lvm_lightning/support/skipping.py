"""Backward passes through the samples that carry weight, and no others.

A bound's gradient is Σ_n c_n ∂ℓ_n/∂θ over the samples of an example. In a trained model a few of the c_n carry almost
all: of 128 prior samples, two in a hundred. So all samples are evaluated without a graph; when the way back brings the
c_n, those that matter are evaluated once more, with one. Every bound and every gradient estimator is served, as nothing
here knows where the c_n come from; the numbers that are reported stay those of all samples.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lvm_lightning.support.autocast import autocast_of_now

OfPairs = Callable[[Tensor, Tensor], Tensor]
"""Points z ``(*S, b, K)`` and examples x ``(b, D)`` → one number a pair, ``(*S, b)``."""

NEGLIGIBLE = 1e-6
"""Share of Σ_n |c_n| that may be left out."""
PAYS = 0.5
"""Share of kept samples up to which to evaluate them again costs less than a graph of all."""
MOST = 8
"""How many times as many samples are taken at once where almost none get a graph."""
FIGURES = 5
"""Binary digits of a number of kept samples: it grows by at most a sixteenth."""
FEWEST, LEAST = 8, 4096
"""Samples of an example, and of a batch, from which on skipping is tried."""


@dataclasses.dataclass
class Kept:
    """What the last backward pass kept.

    Attributes:
        share: of the samples.
    """

    share: float = 0.0


@dataclasses.dataclass(frozen=True)
class Skipping:
    """What the backward passes of one training step leave out.

    Attributes:
        roulette: samples with less than this share of their example's Σ_n |c_n| are kept with a probability that falls
            with their share, and count for more: Russian roulette, without bias. 0 leaves out what is negligible alone.
        generator: CPU generator of that chance.
        kept: where each backward pass says what it kept.

    Reference:
        Kahn & Harris, Estimation of particle transmission by random sampling, 1951 (Russian roulette).
    """

    roulette: float
    generator: torch.Generator
    kept: Kept = dataclasses.field(default_factory=Kept)

    def choose(self, cotangent: Tensor) -> tuple[Tensor, Tensor]:
        """Which samples a backward pass takes, and the cotangents that they have there.

        Args:
            cotangent: c, ``(S, b)``.

        Returns:
            Indices into the flattened c, ``(m,)``, and cotangents ``(m,)``.
        """
        size = cotangent.abs()
        kept = ~(size < NEGLIGIBLE / size.numel() * size.sum())  # so that what is not finite stays
        if self.roulette > 0:
            probability = (size / (self.roulette * size.sum(0))).clamp(max=1).masked_fill(size == 0, 1)
            kept &= ~(torch.rand(size.shape, generator=self.generator).to(size) >= probability)
            cotangent = cotangent / probability
        index = kept.flatten().nonzero().squeeze(-1)
        self.kept.share = len(index) / kept.numel()
        return index, cotangent.flatten()[index]

    def growth(self) -> int:
        """How many times as many samples a step may take at once, where so few of them get a graph."""
        return int(1 / max(self.kept.share, 1 / MOST))

    def serves(self, z: Tensor, x: Tensor) -> bool:
        """Whether it can leave out samples: each example has its own, and in this step it has paid so far."""
        return z.shape[-2] == len(x) and self.kept.share <= PAYS and torch.is_grad_enabled() and not x.requires_grad

    def apply(self, function: OfPairs, z: Tensor, x: Tensor, parameters: Sequence[Tensor], size: int) -> Tensor:
        """``function(z, x)``, whose backward pass takes only what :meth:`choose` keeps.

        Args:
            function: of each pair by itself.
            z: ``(*S, b, K)``.
            x: ``(b, D)``.
            parameters: leaves that ``function`` may depend on.
            size: pairs to evaluate at a time where no graph is kept.

        Returns:
            ``(*S, b)``.
        """
        wanted = [p for p in parameters if p.requires_grad]
        return cast(Tensor, _Skipped.apply(self, function, size, z, x, *wanted))


class _Skipped(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, skipping: Skipping, function: OfPairs, size: int, z: Tensor, x: Tensor, *parameters: Tensor
    ) -> Tensor:
        ctx.skipping, ctx.function, ctx.autocast = skipping, function, autocast_of_now(z.device.type)
        ctx.save_for_backward(z, x, *parameters)
        parts = z.flatten(0, -3).split(max(1, size // len(x)))
        with ctx.autocast():
            return torch.cat([function(part, x) for part in parts]).view(z.shape[:-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        z, x, *parameters = ctx.saved_tensors
        index, kept = rounded_up(*ctx.skipping.choose(cotangent.flatten(0, -2)))
        points = z.flatten(0, -2)[index].requires_grad_(ctx.needs_input_grad[3])
        wanted = [*([points] if points.requires_grad else []), *parameters]
        with torch.enable_grad(), ctx.autocast():
            value = ctx.function(points, x[index % len(x)])
        found = iter(torch.autograd.grad(value, wanted, kept, allow_unused=True))
        to_z = None
        if points.requires_grad:
            to_z = torch.zeros_like(z.flatten(0, -2)).index_add_(0, index, next(found)).view_as(z)
        return (None, None, None, to_z, None, *found)


def rounded_up(index: Tensor, cotangent: Tensor) -> tuple[Tensor, Tensor]:
    """The samples ``(m,)``, and the last of them again, with cotangents of 0, until they are one of a few numbers.

    A library prepares its bfloat16 products anew for each shape, which can take longer than the product.
    """
    m = len(index)
    more = -m % max(1, 2 ** (m.bit_length() - FIGURES)) if m else 0
    return torch.cat([index, index[-1:].expand(more)]), torch.cat([cotangent, cotangent.new_zeros(more)])
