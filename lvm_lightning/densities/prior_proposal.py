"""The prior as proposal: what a model without an encoder has."""

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from lvm_lightning.densities.points import UNIFORM, Points
from lvm_lightning.densities.priors import NoisePrior, Prior, StandardNormal
from lvm_lightning.densities.proposals.base import Drawn, Proposal
from lvm_lightning.support.randomness import Rows

SHARED_FROM, SHARED_BY = 1024, 50
"""From so many draws on, so many neighbouring examples share them, and each is decoded once for all of them."""


def prior_points(prior: Prior, points: Points, samples: int, examples: int, generator: torch.Generator) -> Tensor:
    """z ~ p(z), ``(samples, examples, K)``: uniform points of the cube, which the prior's quantiles carry to z.

    A prior that has no quantiles draws i.i.d. points.
    """
    if isinstance(prior, StandardNormal):
        return prior.icdf(UNIFORM[points](samples, examples, prior.dim, generator))
    return prior.sample(samples * examples, generator).view(samples, examples, -1)


class PriorProposal(Proposal):
    """q(z|x) = p(z) for every example: the importance weight is p(x|z) itself.

    Args:
        prior: p(z).
        x: the examples ``(B, D)``; z has their device and type.
    """

    def __init__(self, prior: Prior, x: Tensor) -> None:
        self.prior, self.like = prior, x

    @property
    def location(self) -> Tensor:
        """Where the prior has its noise 0, the same for every example, ``(B, K)``."""
        zero = self.like.new_zeros(len(self.like), self.prior.dim)
        return self.prior.transform(zero) if isinstance(self.prior, NoisePrior) else zero

    def log_prob(self, z: Tensor) -> Tensor:
        """log p(z)."""
        return self.prior.log_prob(z)

    def draws(self, samples: int, rows: Rows, generator: torch.Generator, size: int) -> Iterator[Drawn]:
        """i.i.d. points; from 1,024 on, fifty neighbouring examples share them."""
        if samples < SHARED_FROM:
            for first, last in pairwise(_edges(0, samples, max(1, size // max(1, rows.total)))):
                z = self._points(last - first, rows.total, generator)[:, rows.start : rows.start + len(self.like)]
                yield Drawn(slice(first, last), slice(None), z, self.prior.log_prob(z))
            return
        z = self._points(samples, -(-rows.total // SHARED_BY), generator)  # (S, groups, K)
        for first, last in pairwise(_edges(rows.start, rows.start + len(self.like), SHARED_BY)):
            here = slice(first - rows.start, last - rows.start)
            group = min(first // SHARED_BY, z.shape[1] - 1)
            for start in range(0, samples, size):
                part = z[start : start + size, group : group + 1]
                yield Drawn(slice(start, start + size), here, part, self.prior.log_prob(part))

    def _points(self, samples: int, examples: int, generator: torch.Generator) -> Tensor:
        return prior_points(self.prior, "iid", samples, examples, generator).to(self.like)


def _edges(start: int, stop: int, size: int) -> list[int]:
    """``start``, the multiples of ``size`` behind it, and ``stop``."""
    return [start, *range(start // size * size + size, stop, size), stop]
