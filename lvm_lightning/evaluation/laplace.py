"""Proposals that are computed from the decoder when they are first asked for: no encoder has to know them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from lvm_lightning.densities import DiagonalGaussian, Proposal
from lvm_lightning.densities.proposals import Drawn
from lvm_lightning.evaluation.fitting import FittedProposals, Mixture
from lvm_lightning.support.randomness import Rows

TOGETHER = 250
"""Images whose modes are looked for together: what it takes is in proportion."""


@dataclass(frozen=True)
class LaplaceProposal(Proposal):
    """q(z|x) of :class:`.FittedProposals` for each of B images: Gaussians at modes of p(z|x), and the prior.

    Args:
        fit: x → the mixtures.
        x: ``(B, D)``.
    """

    fit: FittedProposals
    x: Tensor

    @cached_property
    def mixture(self) -> Mixture:
        """The mixtures, fitted once, in float32 or better. No gradient reaches the decoder through them."""
        with torch.autocast(self.x.device.type, enabled=False):
            parts = [self.fit(part) for part in self.x.split(TOGETHER)]
        columns = zip(*((part.log_weight, part.mean, part.factor) for part in parts), strict=True)
        return Mixture(*(torch.cat(column, 1) for column in columns))

    @property
    def location(self) -> Tensor:
        """The mode of p(z|x) that has the largest weight, ``(B, K)``: not the mean."""
        return self.mixture.mean[self._best]

    def diagonal(self) -> DiagonalGaussian:
        """The Gaussian there without its correlations, for pictures."""
        covariance = torch.cholesky_inverse(self.mixture.factor[self._best])
        return DiagonalGaussian(self.location, 0.5 * covariance.diagonal(dim1=-2, dim2=-1).log())

    @property
    def _best(self) -> tuple[Tensor, Tensor]:
        """Number of each image's heaviest Gaussian, and of the image."""
        best = self.mixture.log_weight[:-1].argmax(0)  # the last one is the prior's
        return best, torch.arange(len(best), device=best.device)

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z|x), ``(*S, B, K)`` or shared ``(*S, 1, K)`` → ``(*S, B)``, nats, differentiable in z."""
        log_q = self.mixture.log_prob(z.flatten(0, -3) if z.ndim > 2 else z.unsqueeze(0))
        return log_q.view(*z.shape[:-2], log_q.shape[-1])

    def draws(self, samples: int, rows: Rows, generator: torch.Generator, size: int) -> Iterator[Drawn]:
        """As the mixtures'."""
        return self.mixture.draws(samples, rows, generator, size)

    def widened(self, factor: float) -> "LaplaceProposal":
        """With Gaussians so many times as wide; the prior stays."""
        return LaplaceProposal(replace(self.fit, widen=factor * self.fit.widen), self.x)
