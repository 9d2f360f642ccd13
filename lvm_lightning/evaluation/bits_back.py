"""Bits back: a code whose length is an importance-weighted bound, for a model with Gaussian proposals."""

import math
from collections.abc import Callable
from typing import cast

import numpy as np
import torch
from torch import Tensor

from lvm_lightning.densities import DiagonalGaussian, Proposal
from lvm_lightning.evaluation.cells import UNITS, Cells, Gaussians
from lvm_lightning.evaluation.coding import FINE, BernoulliPixels, Code, rounded
from lvm_lightning.evaluation.latent_codes import LatentCode
from lvm_lightning.model import LatentVariableModel
from lvm_lightning.support.bits import WORD, BitStack, Floats, Ints, noise_words

DECODED = 4096
"""Points that are decoded at a time."""


class BitsBack(Code):
    """Code whose expected length is −L_N, the importance-weighted bound of N samples; for N = 1 that is the ELBO.

    Each dimension of z is cut into cells, and q(z|x) gives each a number of units. One unit for each dimension is
    popped; the N samples are that unit moved on, around a circle, by N random distances. One sample j is popped with
    its normalised weight. What is pushed: the place of j's unit in its cell, the image, the cell, and j. The units give
    back what the place, whose cell has the mass q(z_j|x), does not take, so that the length is

        log q(z_j|x) − log p(x|z_j) − log p(z_j) − log 1/N + log w_j/Σ_n w_n = −log 1/N Σ_n w_n

    Args:
        model: p(x, z) in float64.
        propose: x ``(B, D)`` → q(z|x), diagonal Gaussians, in float64.
        pixels: how pixels are coded.
        latents: how cells of z are coded.
        samples: N.
        seed: of the distances.

    Reference:
        Townsend et al., Practical Lossless Compression with Latent Variables using Bits Back Coding, 2019, section 2;
        Ruan et al., Improving Lossless Compression Rates via Monte Carlo Bits-Back Coding, 2021 (coupled importance
        sampling).
    """

    def __init__(
        self,
        model: LatentVariableModel,
        propose: Callable[[Tensor], Proposal],
        pixels: BernoulliPixels,
        latents: LatentCode,
        samples: int,
        seed: int,
    ) -> None:
        self.model, self.propose, self.pixels, self.latents = model, propose, pixels, latents
        self.samples, self.seed = samples, seed
        self.borrowed = model.prior.dim * (UNITS + latents.borrowed) + math.ceil(math.log2(samples))

    def push(self, stack: BitStack, x: Tensor, block: int) -> Tensor:
        """Write images ``(B, D)``; the log-probability is log 1/N Σ_n w_n."""
        q, moves = self.gaussians(x), self._moves(block, len(x))
        units = stack.pop_uniform(np.full(moves[0].shape, 2**UNITS))
        moved = (units + moves) % 2**UNITS
        cells = self.latents.grid.cells(q, moved)
        log_w = self.log_weights(x, cells)
        samples = stack.pop_choices(_weights(log_w))
        chosen = cells.of(samples)
        unit = moved[samples, np.arange(len(x))]
        stack.push_uniform(unit - chosen.start, chosen.size)
        self.pixels.push(stack, x, self.parameters(self.latents.centres(chosen.number)))
        self.latents.push(stack, chosen.number)
        stack.push_uniform(samples, self.samples)
        return log_w.logsumexp(0) - math.log(self.samples)

    def pop(self, stack: BitStack, count: int, block: int) -> Tensor:
        """Read images ``(count, D)``: each step of :meth:`push` backwards."""
        moves = self._moves(block, count)
        samples = stack.pop_uniform(np.full(count, self.samples))
        number = self.latents.pop(stack, (count, self.model.prior.dim))
        x = self.pixels.pop(stack, self.parameters(self.latents.centres(number)))
        q = self.gaussians(x)
        chosen = self.latents.grid.cells_of(q, number)
        unit = chosen.start + stack.pop_uniform(chosen.size)
        units = (unit - moves[samples, np.arange(count)]) % 2**UNITS
        log_w = self.log_weights(x, self.latents.grid.cells(q, (units + moves) % 2**UNITS))
        stack.push_choices(samples, _weights(log_w))
        stack.push_uniform(units, 2**UNITS)
        return x

    def gaussians(self, x: Tensor) -> Gaussians:
        """q(z|x) of images ``(B, D)``."""
        q = cast(DiagonalGaussian, self.propose(x))
        return Gaussians.of(q.mean, q.log_sigma.exp().diag_embed())

    def log_weights(self, x: Tensor, cells: Cells) -> Tensor:
        """log w = log P(x|cell) + log P(cell) − log Q(cell|x) of the samples, ``(N, B)``, nats."""
        _, B, K = cells.number.shape
        z = self.latents.centres(cells.number)
        log_lik = torch.cat([self.pixels.log_prob(self.parameters(some), x) for some in z.split(max(1, DECODED // B))])
        log_q = rounded(torch.from_numpy(np.log(cells.size)), FINE).sum(-1) - K * UNITS * math.log(2)
        log_w: Tensor = log_lik + (rounded(self.latents.log_mass(z), FINE) - log_q)
        return log_w

    def parameters(self, z: Tensor) -> Tensor:
        """The likelihood's parameters, ``(*, K) → (*, P·D)``."""
        return self.pixels.parameters_of(self.model.decode(z))

    def _moves(self, block: int, count: int) -> Ints:
        """The random distances of a block, ``(N, count, K)``."""
        shape = (self.samples, count, self.model.prior.dim)
        noise = noise_words(math.prod(shape), self.seed, block) >> (WORD - UNITS)
        return noise.astype(np.int64).reshape(shape)


def _weights(log_w: Tensor) -> Floats:
    """Weights ``(B, N)``, the largest of each image 1."""
    return (log_w - log_w.max(0).values).exp().mT.contiguous().numpy()
