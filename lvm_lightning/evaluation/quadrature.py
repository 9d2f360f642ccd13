"""log p(x) by quadrature over a latent of one or two dimensions."""

from collections.abc import Callable

import torch
from torch import Tensor

from lvm_lightning.integration import normal_grid

CHUNK = 1024
"""Grid points a matrix product: its results stay in the processor's cache until they are summed."""


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
        self._chunks = [
            (decode(z_chunk.unsqueeze(1)), log_weight_chunk.unsqueeze(1))
            for z_chunk, log_weight_chunk in zip(
                z.to(device, torch.float32).split(CHUNK),
                log_weight.to(device, torch.float32).split(CHUNK),
                strict=True,
            )
        ]

    def log_marginal(self, x: Tensor) -> Tensor:
        """log p(x), ``(B, D) → (B,)``, nats."""
        total = x.new_full((len(x),), -torch.inf)
        for parameters, log_weight in self._chunks:
            log_joint = self._log_lik(parameters, x) + log_weight  # (M, B)
            total = torch.logaddexp(total, log_joint.logsumexp(0))
        return total
