"""The Gaussian that is closest to p(z|x), found for each image by cubature.

Laplace's approximation sits at the mode and has the curvature there; in tens of dimensions the mode is not where the
mass is. The Gaussian with the least KL(q ‖ p(z|x)) is where the average slope over q is 0, and has the average
curvature. Both averages come from a few slopes of log p(x, z).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

LONGEST = 2.0
"""Longest step of the mean, in standard deviations of q."""
HALVINGS = 5
"""How often a rate is halved for an image whose new precision is not positive definite; then it keeps the old one."""


@dataclass(frozen=True)
class GaussianFit:
    """Steps towards the q = N(m, Λ⁻¹) with the least KL(q ‖ p(z|x)), for each of B images.

        at the optimum   E_q ∇ log p(x, z) = 0,   Λ = −E_q ∇∇ log p(x, z)

    With Λ = L Lᵀ and z = m + L⁻ᵀ u, the averages are over u = ±√K Q e_k, k = 1 … K, with Q a random rotation, new in
    each step. They have the mean and the variance of u ~ N(0, I), and by Stein's identity, g being the slope by u,

        E ∇_u ∇_u log p ≈ 1/(2 √K) Σ_k (g(√K Q e_k) − g(−√K Q e_k)) (Q e_k)ᵀ

    which is exact where log p(x, z) is quadratic. A step goes a share r of the way: Λ' = (1 − r) Λ + r Λ_new, and the
    mean by r of Newton's step.

    Args:
        log_joint: z ``(S, B, K)`` → log p(x, z), ``(S, B)`` in nats, differentiable.
        rates: r of each step; falling ones average the noise of the rotations.
        at_a_time: latent points that are decoded at a time.

    Reference:
        Opper & Archambeau, The Variational Gaussian Approximation Revisited, 2009, eq. 5 and 6 (the optimum);
        Arasaratnam & Haykin, Cubature Kalman Filters, 2009, section IV (the points); Genz & Monahan, Stochastic
        Integration Rules for Infinite Regions, 1998 (random rotations).
    """

    log_joint: Callable[[Tensor], Tensor]
    rates: Sequence[float] = (0.7, 0.7, 0.5, 0.35)
    at_a_time: int = 1024

    def __call__(self, mean: Tensor, factor: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """m ``(B, K)`` and L ``(B, K, K)``, lower triangular, after all steps from those given."""
        for rate in self.rates:
            mean, factor = self._step(mean, factor, rate, generator)
        return mean, factor

    def _step(self, mean: Tensor, factor: Tensor, rate: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        K = mean.shape[-1]
        rotation = torch.linalg.qr(torch.randn(K, K, generator=generator, dtype=torch.float64))[0].to(mean)
        offset = torch.linalg.solve_triangular(factor.mT, math.sqrt(K) * rotation.expand_as(factor), upper=True)
        up, down = (self._slopes(mean, factor, sign * offset) for sign in (1, -1))  # (B, K, K), a column for each k
        slope = (up + down).mean(-1, keepdim=True) / 2
        curvature = (down - up) @ rotation.mT / (2 * math.sqrt(K))
        root = _root((curvature + curvature.mT) / 2, rate)
        step = torch.cholesky_solve(slope, root)
        step = step * (LONGEST / step.norm(dim=1, keepdim=True)).clamp(max=1)
        moved = torch.linalg.solve_triangular(factor.mT, rate * step, upper=True).squeeze(-1)
        return mean + moved, factor @ root

    def _slopes(self, mean: Tensor, factor: Tensor, offset: Tensor) -> Tensor:
        """∇_u log p(x, z) at m + each column of the offset ``(B, K, K)``, a column each."""
        slopes = []
        for some in offset.movedim(-1, 0).split(max(1, self.at_a_time // max(1, len(mean)))):
            with torch.enable_grad():
                z = (mean + some).requires_grad_()
                slopes.append(torch.autograd.grad(self.log_joint(z).sum(), z)[0])
        by_u: Tensor = torch.linalg.solve_triangular(factor, torch.cat(slopes).movedim(0, -1), upper=False)
        return by_u


def _root(curvature: Tensor, rate: float) -> Tensor:
    """Cholesky factor of (1 − r) I + r A, ``(B, K, K)``; r is halved where that is not positive definite."""
    one = torch.eye(curvature.shape[-1]).to(curvature)
    root, open_ = one.expand_as(curvature), torch.ones(len(curvature), dtype=torch.bool, device=curvature.device)
    for halving in range(HALVINGS):
        share = rate / 2**halving
        found, failed = torch.linalg.cholesky_ex((1 - share) * one + share * curvature)
        now = open_ & (failed == 0) & found.isfinite().all(-1).all(-1)
        root, open_ = torch.where(now.view(-1, 1, 1), found, root), open_ & ~now
        if not bool(open_.any()):
            break
    return root


def widened(factor: Tensor, c: float) -> Tensor:
    """L' of Λ' = I + (Λ − I)/c², ``(B, K, K)``: c times as wide, but only where x says much of z."""
    one = torch.eye(factor.shape[-1]).to(factor)
    root: Tensor = torch.linalg.cholesky(factor @ factor.mT / c**2 + (1 - 1 / c**2) * one)
    return root
