"""Cells of latent points, and which units of a Gaussian each has: what bits-back codes are made of."""

from typing import NamedTuple

import numpy as np
from scipy.special import ndtr, ndtri
from torch import Tensor

from lvm_lightning.evaluation.coding import rounded
from lvm_lightning.support.bits import Floats, Ints

UNITS = 22
"""A Gaussian gives each cell some of 2^UNITS units."""
PROPOSED = 2.0**-16
"""What the numbers of a Gaussian are multiples of."""


class Gaussians(NamedTuple):
    """N(mean, factor factorᵀ) for each of some images.

    Attributes:
        mean: ``(B, K)``.
        factor: lower triangular with a positive diagonal, ``(B, K, K)``.
    """

    mean: Floats
    factor: Floats

    @classmethod
    def of(cls, mean: Tensor, factor: Tensor, step: float = PROPOSED) -> "Gaussians":
        """On multiples of a step."""
        factor = rounded(factor, step)
        factor.diagonal(dim1=-2, dim2=-1).clamp_(min=step)
        return cls(rounded(mean, step).numpy(), factor.numpy())


class Cells(NamedTuple):
    """Cells, and which units of a Gaussian they have.

    Attributes:
        number: which of the grid's, ``(*, K)``.
        start: the first of the units.
        size: their number.
    """

    number: Ints
    start: Ints
    size: Ints

    def of(self, samples: Ints) -> "Cells":
        """One sample ``(B,)`` of each image: ``(N, B, K) → (B, K)``."""
        return Cells(*(each[samples, np.arange(len(samples))] for each in self))


class Grid:
    """Cells of one dimension.

    Args:
        edges: where they begin and end, ``(M + 1,)``, from −∞ to ∞.
        centres: the point that stands for each, ``(M,)``.
    """

    def __init__(self, edges: Floats, centres: Floats) -> None:
        self.edges, self.centres = edges, centres

    def cells(self, q: Gaussians, units: Ints) -> Cells:
        """The cells that have these units, ``(N, B, K)``, a dimension after the other, each given those before.

        No sum in it depends on how many samples are looked at together.
        """
        found = Cells(*(np.empty_like(units) for _ in Cells._fields))
        mean = np.broadcast_to(q.mean, units.shape).copy()
        for k, sigma in enumerate(np.diagonal(q.factor, axis1=-2, axis2=-1).T):
            number = self._search(units[..., k], mean[..., k], sigma)
            found.number[..., k] = number
            found.start[..., k], found.size[..., k] = self.units(number, mean[..., k], sigma)
            self._condition(mean, q, k, number)
        return found

    def units_of(self, q: Gaussians, number: Ints) -> tuple[Ints, Ints]:
        """The first unit of cells ``(B, K)``, and their numbers of units.

        Raises:
            ValueError: if one has none, as a file of other numbers may have it.
        """
        start, size, mean = np.empty_like(number), np.empty_like(number), q.mean.copy()
        for k, sigma in enumerate(np.diagonal(q.factor, axis1=-2, axis2=-1).T):
            start[:, k], size[:, k] = self.units(number[:, k], mean[:, k], sigma)
            self._condition(mean, q, k, number[:, k])
        if not size.all():
            raise ValueError("a cell has no unit of its Gaussian")
        return start, size

    def units(self, number: Ints, mean: Floats, sigma: Floats) -> tuple[Ints, Ints]:
        """The same for N(mean, σ²), one dimension."""
        start = self._below(number, mean, sigma)
        return start, self._below(number + 1, mean, sigma) - start

    def _below(self, edge: Ints, mean: Floats, sigma: Floats) -> Ints:
        """Units of N(mean, σ²) below an edge: 2^UNITS Φ((edge − mean)/σ), whole."""
        return np.asarray(np.floor(2**UNITS * ndtr((self.edges[edge] - mean) / sigma)), dtype=np.int64)

    def _search(self, units: Ints, mean: Floats, sigma: Floats) -> Ints:
        """The cells that have these units: those of the units' quantiles, moved on until it is so."""
        quantile = mean + sigma * ndtri((units + 0.5) / 2**UNITS)
        number: Ints = np.searchsorted(self.edges, quantile, side="right").astype(np.int64) - 1
        while True:
            start, size = self.units(number, mean, sigma)
            step = (units >= start + size).astype(np.int64) - (units < start)
            if not step.any():
                return number
            number += step

    def _condition(self, mean: Floats, q: Gaussians, k: int, number: Ints) -> None:
        """Move the means of the dimensions behind k, given the cells that k has."""
        step = (self.centres[number] - mean[..., k]) / q.factor[:, k, k]
        mean[..., k + 1 :] += step[..., None] * q.factor[:, k + 1 :, k]
