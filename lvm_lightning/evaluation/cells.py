"""Cells of latent points, and which units of a Gaussian each has: what bits-back codes are made of."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr, ndtri
from torch import Tensor

from lvm_lightning.evaluation.coding import rounded
from lvm_lightning.support.bits import Floats, Ints

UNITS = 22
"""A Gaussian gives each cell some of 2^UNITS units."""
CERTAIN = 8.292361075813597
"""Standard deviations above the mean from which on the normal's distribution function is 1 in float64."""
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
        """The cells that have these units, ``(*, B, K)``."""
        return self._along(q, units.shape, lambda k, mean, sigma: self._search(units[..., k], mean, sigma))

    def cells_of(self, q: Gaussians, number: Ints) -> Cells:
        """The cells of these numbers, ``(B, K)``.

        Raises:
            ValueError: if one has no unit, as a file of other numbers may have it.
        """
        found = self._along(q, number.shape, lambda k, *_: number[..., k])
        if not found.size.all():
            raise ValueError("a cell has no unit of its Gaussian")
        return found

    def _along(self, q: Gaussians, shape: tuple[int, ...], choose: Callable[[int, Floats, Floats], Ints]) -> Cells:
        """Cells ``(*, B, K)``, chosen in one dimension after the other by k and the N(mean, σ²) given those before.

        No sum in it depends on how many samples are looked at together.
        """
        found = Cells(*(np.empty(shape, dtype=np.int64) for _ in Cells._fields))
        mean = np.broadcast_to(q.mean, shape).copy()
        for k, sigma in enumerate(np.diagonal(q.factor, axis1=-2, axis2=-1).T):
            number = choose(k, mean[..., k], sigma)
            found.number[..., k] = number
            found.start[..., k], found.size[..., k] = self.units(number, mean[..., k], sigma)
            step = (self.centres[number] - mean[..., k]) / sigma
            mean[..., k + 1 :] += step[..., None] * q.factor[:, k + 1 :, k]
        return found

    def units(self, number: Ints, mean: Floats, sigma: Floats) -> tuple[Ints, Ints]:
        """The first unit of N(mean, σ²) that cells of one dimension have, and how many they have."""
        start = self._below(number, mean, sigma)
        return start, self._below(number + 1, mean, sigma) - start

    def _below(self, edge: Ints, mean: Floats, sigma: Floats) -> Ints:
        """Units of N(mean, σ²) below an edge: 2^UNITS Φ((edge − mean)/σ), whole."""
        return np.asarray(np.floor(2**UNITS * ndtr((self.edges[edge] - mean) / sigma)), dtype=np.int64)

    def _search(self, units: Ints, mean: Floats, sigma: Floats) -> Ints:
        """The cells that have these units: each ends at the first edge with more units below, but for rounding."""
        end = mean + sigma * np.minimum(ndtri((units + 1) / 2**UNITS), CERTAIN)
        number: Ints = np.searchsorted(self.edges, end).astype(np.int64) - 1
        while True:
            start, size = self.units(number, mean, sigma)
            step = (units >= start + size).astype(np.int64) - (units < start)
            if not step.any():
                return number
            number += step
