"""Points to integrate over z with: i.i.d., scrambled Sobol, shifted lattices, the prior as proposal, a quadrature grid.

Random points are uniform on the open cube (0, 1)^K, ``(S, B, K)`` in float64; a prior's ``icdf`` carries them
to z. They are drawn on the CPU from a generator that the caller seeds, so that a run sees the same points on
every device.
"""

import math
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor
from torch.quasirandom import SobolEngine

from lvm_lightning.densities.priors import NoisePrior, Prior, StandardNormal
from lvm_lightning.densities.proposals import Drawn, Proposal
from lvm_lightning.support.randomness import Rows

Points = Literal["iid", "sobol", "lattice"]

SOBOL_BITS = 30  # torch's SobolEngine writes its points with 30 binary digits
MULTIPLIERS, COORDINATES = 256, 2**27
"""How many lattices of a size are compared, and how many coordinates all of them may have, which takes a second."""
SHARED_FROM, SHARED_BY = 1024, 50
"""From so many draws on, so many neighbouring examples share them, and each is decoded once for all of them."""


def iid_uniform(samples: int, batch: int, dim: int, generator: torch.Generator) -> Tensor:
    """Independent uniform points.

    Args:
        samples: number S of points an example.
        batch: number B of examples; 1 when the batch shares its points.
        dim: number K of dimensions.
        generator: CPU generator to draw from.

    Returns:
        ``(S, B, K)`` in (0, 1), float64.
    """
    # torch.rand may return 0, which the normal quantile sends to −∞
    return torch.rand(samples, batch, dim, dtype=torch.float64, generator=generator) + 2.0**-54


def sobol_uniform(samples: int, batch: int, dim: int, generator: torch.Generator) -> Tensor:
    """Scrambled Sobol points: a fresh linear matrix scramble, and a random digital shift for each example.

    Every single point is uniform on the cube, so that an average over the set is unbiased and its logarithm
    stays a lower bound by Jensen's inequality; the points of one example are not independent.

    Args:
        samples: number S of points an example, best a power of two.
        batch: number B of examples; 1 when the batch shares its points.
        dim: number K of dimensions.
        generator: CPU generator to draw the scrambles from.

    Returns:
        ``(S, B, K)`` in (0, 1), float64.

    Reference:
        Matoušek, On the L2-discrepancy for anchored boxes, 1998 (the scramble);
        Owen, Randomized QMC and point picking, 2000 (the digital shift).
    """
    seed = int(torch.randint(2**62, (), generator=generator))
    digits = SobolEngine(dim, scramble=True, seed=seed).draw(samples, dtype=torch.float64) * 2**SOBOL_BITS
    shift = torch.randint(2**SOBOL_BITS, (1, batch, dim), generator=generator)
    return (torch.bitwise_xor(digits.long().unsqueeze(1), shift).double() + 0.5) / 2.0**SOBOL_BITS


@lru_cache(maxsize=8)
def korobov(samples: int, dim: int) -> Tensor:
    """Generating vector (1, a, a², …) mod S of a lattice, ``(K,)``, with a good multiplier a.

    Of some random multipliers it takes that with the smallest

        1/S Σ_k Π_j (1 + 2π² γ B₂({k aʲ/S})),   B₂(u) = u² − u + 1/6,   γ = 1/K

    which is, less 1, the square of the worst error over a ball of smooth periodic functions.

    Args:
        samples: number S of points.
        dim: number K of dimensions.

    Reference:
        Korobov, The approximate computation of multiple integrals, 1959 (the form); Dick et al., High-dimensional
        integration: the quasi-Monte Carlo way, 2013, eq. 5.10 (the error).
    """
    k = torch.arange(samples)
    coprime = torch.tensor([a for a in range(1, samples // 2 + 1) if math.gcd(a, samples) == 1] or [1])
    order = torch.randperm(len(coprime), generator=torch.Generator().manual_seed(0))  # equal steps would share factors

    def vector(a: int) -> Tensor:
        return torch.tensor([pow(a, j, samples) for j in range(dim)])

    def error(a: int) -> float:
        u = (k.unsqueeze(1) * vector(a) % samples).double() / samples
        return float((1 + 2 * math.pi**2 / dim * (u * (u - 1) + 1 / 6)).prod(1).mean())

    tried = max(1, min(MULTIPLIERS, COORDINATES // (samples * dim)))
    return vector(min(coprime[order[:tried]].tolist(), key=error))


def lattice_uniform(samples: int, batch: int, dim: int, generator: torch.Generator) -> Tensor:
    """Points of a lattice, shifted at random on the torus, for each example on its own.

        u_k = {k g/S + shift},   k = 0, …, S − 1

    Every single point is uniform on the cube, as with :func:`sobol_uniform`.

    Args:
        samples: number S of points an example.
        batch: number B of examples; 1 when the batch shares its points.
        dim: number K of dimensions.
        generator: CPU generator to draw the shifts from.

    Returns:
        ``(S, B, K)`` in (0, 1), float64.

    Reference:
        Cranley & Patterson, Randomization of number theoretic methods for multiple integration, 1976; Martinez &
        Williams, Quasi Monte Carlo methods enable extremely low-dimensional deep generative models, 2026
        (arXiv 2601.18676), who train so, with K ≤ 3.
    """
    steps = torch.arange(samples).unsqueeze(1) * korobov(samples, dim) % samples
    shift = torch.rand(1, batch, dim, dtype=torch.float64, generator=generator)
    return (steps.double().unsqueeze(1) / samples + shift).remainder(1).clamp(2.0**-54, 1 - 2.0**-53)


UNIFORM = {"iid": iid_uniform, "sobol": sobol_uniform, "lattice": lattice_uniform}
"""What draws each kind of :data:`Points`."""


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


def normal_grid(dim: int, spacing: float = 0.05, radius: float = 5.0) -> tuple[Tensor, Tensor]:
    """Trapezoidal rule for expectations under N(0, I_K): E f(z) ≈ Σ_m exp(log_weight_m) f(z_m).

    A square lattice of the given spacing h inside a ball of the given radius, each point with the weight
    h^K N(z_m; 0, I). On smooth integrands that are wider than h the rule's error falls faster than any power
    of h (here f is a likelihood times a Gaussian); the ball leaves out prior mass exp(−radius²/2) for K = 2.

    Args:
        dim: number K of dimensions, 1 or 2.
        spacing: distance h of neighbouring points.
        radius: largest norm ‖z‖ of a point.

    Returns:
        Points ``(M, K)`` and log-weights ``(M,)``, float64.

    Raises:
        ValueError: if ``dim`` is not 1 or 2: the number of points grows as (2 radius / h)^K.

    Reference:
        Trefethen & Weideman, The Exponentially Convergent Trapezoidal Rule, 2014, theorem 5.1.
    """
    if dim not in (1, 2):
        raise ValueError(f"dim: quadrature serves 1 or 2 latent dimensions, got {dim}; use importance sampling")
    half = math.floor(radius / spacing)
    axis = torch.arange(-half, half + 1, dtype=torch.float64) * spacing
    z = torch.cartesian_prod(*[axis] * dim).reshape(-1, dim)  # (M, K)
    z = z[z.norm(dim=-1) <= radius]
    return z, -0.5 * (z.square().sum(-1) + dim * math.log(2 * math.pi)) + dim * math.log(spacing)
