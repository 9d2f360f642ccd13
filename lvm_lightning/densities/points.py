"""Points to integrate over z with: i.i.d., scrambled Sobol, and a quadrature grid.

Random points are uniform on the open cube (0, 1)^K, ``(S, B, K)`` in float64; a prior's ``icdf`` carries them
to z. They are drawn on the CPU from a generator that the caller seeds, so that a run sees the same points on
every device.
"""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.quasirandom import SobolEngine

Points = Literal["iid", "sobol"]

SOBOL_BITS = 30  # torch's SobolEngine writes its points with 30 binary digits


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
    u = torch.rand(samples, batch, dim, dtype=torch.float64, generator=generator)
    return u + 2.0**-54  # torch.rand may return 0, which the normal quantile sends to −∞


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
    u: Tensor = ((digits.long().unsqueeze(1) ^ shift).double() + 0.5) / 2**SOBOL_BITS
    return u


UNIFORM = {"iid": iid_uniform, "sobol": sobol_uniform}
"""What draws each kind of :data:`Points`."""


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
    log_density = -0.5 * (z.square().sum(-1) + dim * math.log(2 * math.pi))
    return z, log_density + dim * math.log(spacing)
