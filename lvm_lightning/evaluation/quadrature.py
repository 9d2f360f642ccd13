"""log p(x) by quadrature over a latent of one or two dimensions."""

import math
from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from scipy.integrate import quad_vec
from torch import Tensor

from lvm_lightning.densities.points import normal_grid
from lvm_lightning.objectives.bounds import log_sum_exp

CHUNK = 1024
"""Grid points a matrix product: its results stay in the processor's cache until they are summed."""


class Quadrature(Protocol):
    """log p(x), and how far it may be off."""

    points: int

    def measure(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """log p(x) and its error, both ``(B, D) → (B,)``, nats."""
        ...


class GridQuadrature:
    """log p(x) = log ∫ p(x|z) N(z; 0, I) dz by the trapezoidal rule, exact up to the rule's error.

    The grid is decoded once, at construction, and serves any number of batches.

    Args:
        decode: z ``(M, 1, K)`` → the likelihood's parameters ``(M, 1, D)``.
        log_lik: parameters ``(M, 1, D)``, x ``(B, D)`` → ``(M, B)`` in nats.
        dim: number K of latent dimensions, 1 or 2.
        spacing: distance of neighbouring grid points.
        radius: largest norm of a grid point.
        device: where to compute, in float32.

    Raises:
        ValueError: if ``dim`` is not 1 or 2.
    """

    def __init__(
        self,
        decode: Callable[[Tensor], Tensor],
        log_lik: Callable[[Tensor, Tensor], Tensor],
        dim: int,
        *,
        spacing: float = 0.05,
        radius: float = 5.0,
        device: torch.device | None = None,
    ) -> None:
        z, log_weight = normal_grid(dim, spacing, radius)
        self.points = len(z)
        self._log_lik = log_lik
        even = (z / spacing).round().sum(-1) % 2 == 0  # every other point, as on a chessboard
        self._even, self._odd = (
            [
                (decode(z_chunk.unsqueeze(1)), log_weight_chunk.unsqueeze(1))
                for z_chunk, log_weight_chunk in zip(
                    z[half].to(device, torch.float32).split(CHUNK),
                    log_weight[half].to(device, torch.float32).split(CHUNK),
                    strict=True,
                )
            ]
            for half in (even, ~even)
        )

    def log_marginal(self, x: Tensor) -> Tensor:
        """log p(x), ``(B, D) → (B,)``, nats."""
        return self.measure(x)[0]

    def measure(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """log p(x), and how much it differs from the sum over every other grid point, ``(B,)`` each, nats.

        The rule's error falls faster than any power of the spacing, so that the error of half the points, which the
        difference shows, is an estimate of the whole grid's from above. It matters: a sharp posterior of a trained
        model can be narrower than the grid.
        """
        even, odd = self._log_sum(self._even, x), self._log_sum(self._odd, x)
        log_p = torch.logaddexp(even, odd)
        return log_p, (log_p - (even + math.log(2))).abs()

    def _log_sum(self, chunks: list[tuple[Tensor, Tensor]], x: Tensor) -> Tensor:
        """log Σ_m exp(log weight + log p(x|z_m)) over the points of some chunks, ``(B,)``."""
        total = x.new_full((len(x),), -torch.inf)
        for parameters, log_weight in chunks:
            total = torch.logaddexp(total, log_sum_exp(self._log_lik(parameters, x) + log_weight, 0))
        return total


class AdaptiveQuadrature:
    """log p(x) = log ∫ p(x|z) N(z; 0, 1) dz for K = 1 by adaptive Gauss–Kronrod quadrature over [−10, 10].

    Args:
        decode: z ``(M, 1, 1)`` → the likelihood's parameters.
        log_lik: parameters, x ``(B, D)`` → ``(M, B)`` in nats.
        device: where to compute the integrand, in float32.
        tolerance: relative error that is aimed at.
    """

    LIMIT = 10.0
    INTERVALS = 64
    """Intervals that it starts from, narrow enough to find every peak."""

    def __init__(
        self,
        decode: Callable[[Tensor], Tensor],
        log_lik: Callable[[Tensor, Tensor], Tensor],
        *,
        device: torch.device | None = None,
        tolerance: float = 1e-5,
    ) -> None:
        self._decode, self._log_lik, self._device, self._tolerance = decode, log_lik, device, tolerance
        self.points = 0

    def measure(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """log p(x), and the rule's estimate of its error, ``(B, D) → (B,)`` each, nats; ``points`` counts the calls."""
        first = torch.linspace(-self.LIMIT, self.LIMIT, 2001)
        shift = self._log_joint(first, x).max(0).values  # (B,)
        self.points = 0

        def integrand(z: float) -> npt.NDArray[np.float64]:
            self.points += 1
            ratio: npt.NDArray[np.float64] = (
                (self._log_joint(torch.tensor([z]), x)[0] - shift).double().exp().cpu().numpy()
            )
            return ratio

        edges = np.linspace(-self.LIMIT, self.LIMIT, self.INTERVALS + 1)
        options = {"epsrel": self._tolerance, "norm": "max", "points": edges[1:-1], "limit": 2000}
        integral, error = quad_vec(integrand, -self.LIMIT, self.LIMIT, epsabs=0, **options)
        value = torch.from_numpy(integral).to(x.device)
        return value.log() + shift.double(), (error / value).log1p()

    def _log_joint(self, z: Tensor, x: Tensor) -> Tensor:
        z = z.to(self._device, torch.float32).view(-1, 1, 1)
        log_prior = -0.5 * (z.view(-1, 1).square() + math.log(2 * math.pi))
        return self._log_lik(self._decode(z), x) + log_prior
