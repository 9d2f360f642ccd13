"""How a prior codes which cell a latent point is in: cells of equal mass, and local bits back for a flow."""

import math
from abc import ABC, abstractmethod

import numpy as np
import torch
from scipy.special import ndtri
from torch import Tensor

from lvm_lightning.densities import FlowPrior, Prior, StandardNormal
from lvm_lightning.evaluation.cells import UNITS, Gaussians, Grid
from lvm_lightning.evaluation.coding import rounded
from lvm_lightning.support.bits import BitStack, Floats, Ints


class LatentCode(ABC):
    """Abstract: cells of z, and how a prior codes which of them z is in.

    Attributes:
        grid: the cells of each dimension.
        borrowed: bits a dimension that it takes off the stack before it puts back more.
    """

    grid: Grid
    borrowed: int = 0

    @abstractmethod
    def log_mass(self, z: Tensor) -> Tensor:
        """Logarithm of the probability that is coded of the cell with the centre z, ``(*, K) → (*,)``, nats."""

    @abstractmethod
    def push(self, stack: BitStack, number: Ints) -> None:
        """Push the cells ``(B, K)``."""

    @abstractmethod
    def pop(self, stack: BitStack, shape: tuple[int, int]) -> Ints:
        """Pop cells ``(B, K)``."""

    def centres(self, number: Ints) -> Tensor:
        """The z of cells, ``(*, K)``, float64."""
        return torch.from_numpy(self.grid.centres[number])


class EqualMass(LatentCode):
    """Cells of equal mass of the standard normal: all are coded alike.

    Args:
        bits: logarithm of their number in each dimension, base 2.

    Reference:
        Townsend et al., Practical Lossless Compression with Latent Variables using Bits Back Coding, 2019, section 2.5.
    """

    def __init__(self, bits: int = 16) -> None:
        M, self.bits = 2**bits, bits
        self.grid = Grid(ndtri(np.arange(M + 1) / M), ndtri((np.arange(M) + 0.5) / M))

    def log_mass(self, z: Tensor) -> Tensor:
        """−K bits log 2."""
        return z.new_full(z.shape[:-1], -z.shape[-1] * self.bits * math.log(2))

    def push(self, stack: BitStack, number: Ints) -> None:
        """Push their numbers, all equally likely."""
        stack.push_uniform(number, 2**self.bits)

    def pop(self, stack: BitStack, shape: tuple[int, int]) -> Ints:
        """Pop numbers."""
        return stack.pop_uniform(np.full(shape, 2**self.bits))


class LocalBitsBack(LatentCode):
    """Cells of equal width, whose mass is the density of a flow: z = T(ε), ε ~ N(0, I).

    The noise of the cell's centre is popped from a narrow Gaussian around T⁻¹(z), in the shape that T carries to a
    round one of the width σ; z is pushed as σ away from T(ε), and ε by its own cells of equal mass:

        log N(ε; T⁻¹(z), σ² J Jᵀ) − log N(z; T(ε), σ² I) − log N(ε; 0, I) → −log p(z)   as σ → 0,   J = ∂T⁻¹/∂z

    Far out, where the noise has one cell for all that is farther still, z may be far from T(ε): it is pushed as it is.

    Args:
        prior: the flow, in float64.

    Reference:
        Ho, Lohn & Abbeel, Compression with Flows via Local Bits-Back Coding, 2019, section 3.
    """

    WIDTH, RANGE = 2.0**-13, 32.0
    """Of a cell, and the largest abs z of a centre."""
    SIGMA, REACH = 2.0**-9, 64
    """σ, and from how many of them on z is far away."""
    NOISE = 20
    """Cells of the noise, logarithm in base 2: they must be narrower than σ where they are widest."""
    STEP = 2.0**-24
    """What the numbers of the narrow Gaussians are multiples of."""
    borrowed = UNITS

    def __init__(self, prior: FlowPrior) -> None:
        self.prior, self.noise = prior, EqualMass(self.NOISE)
        M = round(2 * self.RANGE / self.WIDTH)
        edges = np.asarray((np.arange(M + 1) - M // 2) * self.WIDTH, dtype=np.float64)
        centres = edges[:-1] + self.WIDTH / 2
        edges[0], edges[-1] = -np.inf, np.inf
        self.grid = Grid(edges, centres)
        self.away = round(self.REACH * self.SIGMA / self.WIDTH)

    def log_mass(self, z: Tensor) -> Tensor:
        """log p(z) + K log WIDTH."""
        log_mass: Tensor = self.prior.log_prob(z) + z.shape[-1] * math.log(self.WIDTH)
        return log_mass

    def push(self, stack: BitStack, number: Ints) -> None:
        """Push the cells."""
        q = self._around(number)
        units = stack.pop_uniform(np.full(number.shape, 2**UNITS))
        noise = self.noise.grid.cells(q, units)
        stack.push_uniform(units - noise.start, noise.size)
        nearest, beside = self._back(noise.number)
        away = np.clip(number - nearest, -self.away, self.away)
        stack.push_uniform(number[abs(away) == self.away], len(self.grid.centres))
        stack.push_gaussian(away, self.away, beside, self.SIGMA / self.WIDTH)
        self.noise.push(stack, noise.number)

    def pop(self, stack: BitStack, shape: tuple[int, int]) -> Ints:
        """Pop cells: :meth:`push` backwards."""
        noise = self.noise.pop(stack, shape)
        nearest, beside = self._back(noise)
        away = stack.pop_gaussian(self.away, beside, self.SIGMA / self.WIDTH)
        number, far = nearest + away, abs(away) == self.away
        number[far] = stack.pop_uniform(np.full(far.sum(), len(self.grid.centres)))
        if number.min() < 0 or number.max() >= len(self.grid.centres):
            raise ValueError("a cell lies beyond the grid")
        cells = self.noise.grid.cells_of(self._around(number), noise)
        stack.push_uniform(cells.start + stack.pop_uniform(cells.size), 2**UNITS)
        return number

    def _around(self, number: Ints) -> Gaussians:
        """The narrow Gaussians of the noise of cells."""
        z = self.centres(number)
        jacobian = torch.func.vmap(torch.func.jacrev(self.prior.noise_of))(z)  # (B, K, K)
        factor = self.SIGMA * torch.linalg.cholesky(jacobian @ jacobian.mT)
        return Gaussians.of(self.prior.noise_of(z), factor, self.STEP)

    def _back(self, noise: Ints) -> tuple[Ints, Floats]:
        """The cell nearest to T(ε), and how far T(ε) is from its centre, in cells."""
        place = rounded(self.prior.transform(self.noise.centres(noise)), self.STEP).numpy() / self.WIDTH
        nearest = np.round(place - 0.5)
        return nearest.astype(np.int64) + len(self.grid.centres) // 2, place - 0.5 - nearest


def latent_code_of(prior: Prior) -> LatentCode | None:
    """How a prior codes cells of z, where there is a way."""
    if type(prior) is StandardNormal:
        return EqualMass()
    return LocalBitsBack(prior) if isinstance(prior, FlowPrior) else None
