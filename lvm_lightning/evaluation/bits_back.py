"""Bits back: a code whose length is an importance-weighted bound, for a model with Gaussian proposals."""

import math
from collections.abc import Callable
from typing import NamedTuple, cast

import numpy as np
import torch
from scipy.special import ndtr, ndtri
from torch import Tensor

from lvm_lightning.densities import DiagonalGaussian, NoisePrior, Proposal
from lvm_lightning.evaluation.coding import FINE, BernoulliPixels, Code, rounded
from lvm_lightning.model import LatentVariableModel
from lvm_lightning.support.bits import WORD, BitStack, Floats, Ints, noise_words

CELLS, UNITS = 16, 22
"""Each dimension of the prior's noise has 2^CELLS cells of equal mass; a proposal gives each some of 2^UNITS units."""
EDGES, CENTRES = (ndtri((np.arange(2**CELLS + more) + half) / 2**CELLS) for more, half in ((1, 0), (0, 0.5)))
"""Of the cells."""
PROPOSED = 2.0**-16
"""What the numbers of a proposal are multiples of."""
DECODED = 4096
"""Points that are decoded at a time."""


class Gaussians(NamedTuple):
    """q(ε|x) = N(mean, factor factorᵀ) of some images.

    Attributes:
        mean: ``(B, K)``.
        factor: lower triangular with a positive diagonal, ``(B, K, K)``.
    """

    mean: Floats
    factor: Floats


class Cells(NamedTuple):
    """Cells of the noise, and which units of a proposal they have.

    Attributes:
        number: which of the 2^CELLS, ``(*, K)``.
        start: the first of the units.
        size: their number.
    """

    number: Ints
    start: Ints
    size: Ints

    def of(self, samples: Ints) -> "Cells":
        """One sample ``(B,)`` of each image: ``(N, B, K) → (B, K)``."""
        return Cells(*(each[samples, np.arange(len(samples))] for each in self))


class BitsBack(Code):
    """Code whose expected length is −L_N, the importance-weighted bound of N samples; for N = 1 that is the ELBO.

    The prior's noise ε ~ N(0, I) is cut into cells of equal mass, and q(ε|x) gives each a number of units. One unit for
    each dimension is popped; the N samples are that unit moved on, around a circle, by N random distances. One sample j
    is popped with its normalised weight. What is pushed: the place of j's unit in its cell, the image, the cell, and j.
    The units give back what the place, whose cell has the mass q(ε_j|x), does not take, so that the length is

        log q(ε_j|x) − log p(x|ε_j) − log p(ε_j) − log 1/N + log w_j/Σ_n w_n = −log 1/N Σ_n w_n

    Args:
        model: p(x, z) in float64; its prior makes z of normal noise.
        propose: x ``(B, D)`` → q(z|x), diagonal Gaussians, in float64.
        pixels: how pixels are coded.
        samples: N.
        seed: of the distances.

    Reference:
        Townsend et al., Practical Lossless Compression with Latent Variables using Bits Back Coding, 2019, section 2;
        Ruan et al., Improving Lossless Compression Rates via Monte Carlo Bits-Back Coding, 2021 (coupled
        samples).
    """

    def __init__(
        self,
        model: LatentVariableModel,
        propose: Callable[[Tensor], Proposal],
        pixels: BernoulliPixels,
        samples: int,
        seed: int,
    ) -> None:
        self.model, self.prior, self.propose = model, cast(NoisePrior, model.prior), propose
        self.pixels, self.samples, self.seed = pixels, samples, seed

    def push(self, stack: BitStack, x: Tensor, block: int) -> Tensor:
        """Write images ``(B, D)``; the log-probability is log 1/N Σ_n w_n."""
        q, moves = self.gaussians(x), self._moves(block, len(x))
        units = stack.pop_uniform(np.full(moves[0].size, 2**UNITS)).reshape(moves[0].shape)
        moved = (units + moves) % 2**UNITS
        cells = cells_of(q, moved)
        log_w = self.log_weights(x, cells)
        samples = stack.pop_choices(_weights(log_w))
        chosen = cells.of(samples)
        unit = moved[samples, np.arange(len(x))]
        stack.push_uniform((unit - chosen.start).ravel(), chosen.size.ravel())
        self.pixels.push(stack, x, self.parameters(chosen.number))
        stack.push_uniform(chosen.number.ravel(), 2**CELLS)
        stack.push_uniform(samples, self.samples)
        return log_w.logsumexp(0) - math.log(self.samples)

    def pop(self, stack: BitStack, count: int, block: int) -> Tensor:
        """Read images ``(count, D)``: each step of :meth:`push` backwards."""
        moves = self._moves(block, count)
        samples = stack.pop_uniform(np.full(count, self.samples))
        number = stack.pop_uniform(np.full(moves[0].size, 2**CELLS)).reshape(moves[0].shape)
        x = self.pixels.pop(stack, self.parameters(number))
        q = self.gaussians(x)
        start, size = units_of(q, number)
        unit = start + stack.pop_uniform(size.ravel()).reshape(size.shape)
        units = (unit - moves[samples, np.arange(count)]) % 2**UNITS
        log_w = self.log_weights(x, cells_of(q, (units + moves) % 2**UNITS))
        stack.push_choices(samples, _weights(log_w))
        stack.push_uniform(units.ravel(), 2**UNITS)
        return x

    def gaussians(self, x: Tensor) -> Gaussians:
        """The proposals of images ``(B, D)``, carried to the prior's noise along their mean's tangent.

        For z = T(ε): the mean is T⁻¹(μ), the covariance J diag σ² Jᵀ with J = ∂T⁻¹/∂z at μ.
        """
        q = cast(DiagonalGaussian, self.propose(x))
        jacobian = torch.func.vmap(torch.func.jacrev(self.prior.noise_of))(q.mean)  # (B, K, K)
        scaled = jacobian * q.log_sigma.exp().unsqueeze(1)
        factor = rounded(torch.linalg.cholesky(scaled @ scaled.mT), PROPOSED)
        factor.diagonal(dim1=-2, dim2=-1).clamp_(min=PROPOSED)
        return Gaussians(rounded(self.prior.noise_of(q.mean), PROPOSED).numpy(), factor.numpy())

    def log_weights(self, x: Tensor, cells: Cells) -> Tensor:
        """log w = log P(x|cell) + log P(cell) − log Q(cell|x) of the samples, ``(N, B)``, nats."""
        N, B, K = cells.number.shape
        groups = [cells.number[n : n + max(1, DECODED // B)] for n in range(0, N, max(1, DECODED // B))]
        log_lik = torch.cat([self.pixels.log_prob(self.parameters(some), x) for some in groups])
        log_q = rounded(torch.from_numpy(np.log(cells.size)), FINE).sum(-1) - K * UNITS * math.log(2)
        log_w: Tensor = log_lik - K * CELLS * math.log(2) - log_q
        return log_w

    def parameters(self, number: Ints) -> Tensor:
        """The likelihood's parameters at the centres of cells, ``(*, K) → (*, P·D)``."""
        z = self.prior.transform(torch.from_numpy(CENTRES[number]))
        return self.pixels.parameters_of(self.model.decode(z))

    def _moves(self, block: int, count: int) -> Ints:
        """The random distances of a block, ``(N, count, K)``."""
        shape = (self.samples, count, self.prior.dim)
        noise = noise_words(math.prod(shape), self.seed, block) >> (WORD - UNITS)
        return noise.astype(np.int64).reshape(shape)


def cells_of(q: Gaussians, units: Ints) -> Cells:
    """The cells that have these units, ``(N, B, K)``, a dimension after the other, each given those before.

    No sum in it depends on how many samples are looked at together.
    """
    found = Cells(*(np.empty_like(units) for _ in Cells._fields))
    mean = np.broadcast_to(q.mean, units.shape).copy()
    for k, sigma in enumerate(np.diagonal(q.factor, axis1=-2, axis2=-1).T):
        index = _search(units[..., k], mean[..., k], sigma)
        found.number[..., k] = index
        found.start[..., k], found.size[..., k] = _units(index, mean[..., k], sigma)
        _condition(mean, q, k, index)
    return found


def units_of(q: Gaussians, index: Ints) -> tuple[Ints, Ints]:
    """The first unit of cells ``(B, K)`` and their numbers of units."""
    start, size, mean = np.empty_like(index), np.empty_like(index), q.mean.copy()
    for k, sigma in enumerate(np.diagonal(q.factor, axis1=-2, axis2=-1).T):
        start[:, k], size[:, k] = _units(index[:, k], mean[:, k], sigma)
        _condition(mean, q, k, index[:, k])
    return start, size


def _condition(mean: Floats, q: Gaussians, k: int, index: Ints) -> None:
    """Move the means of the dimensions behind k, given the cells that k has."""
    step = (CENTRES[index] - mean[..., k]) / q.factor[:, k, k]
    mean[..., k + 1 :] += step[..., None] * q.factor[:, k + 1 :, k]


def _units(index: Ints, mean: Floats, sigma: Floats) -> tuple[Ints, Ints]:
    start = _below(index, mean, sigma)
    return start, _below(index + 1, mean, sigma) - start


def _below(edge: Ints, mean: Floats, sigma: Floats) -> Ints:
    """Units of N(mean, σ²) below an edge: 2^UNITS Φ((edge − mean)/σ), whole."""
    return np.asarray(np.floor(2**UNITS * ndtr((EDGES[edge] - mean) / sigma)), dtype=np.int64)


def _search(units: Ints, mean: Floats, sigma: Floats) -> Ints:
    """The cells that have these units: those of the units' quantiles, moved on until it is so."""
    quantile = mean + sigma * ndtri((units + 0.5) / 2**UNITS)
    number: Ints = np.clip(2**CELLS * ndtr(quantile), 0, 2**CELLS - 1).astype(np.int64)
    while True:
        start, size = _units(number, mean, sigma)
        step = (units >= start + size).astype(np.int64) - (units < start)
        if not step.any():
            return number
        number += step


def _weights(log_w: Tensor) -> Floats:
    """Weights ``(B, N)``, the largest of each image 1."""
    return (log_w - log_w.max(0).values).exp().mT.contiguous().numpy()
