"""Annealed importance sampling with Hamiltonian transitions, and the sandwich that it puts log p(x) in.

    f_β(z) = p₀(z) (p(x, z)/p₀(z))^β,   0 = β_0 < β_1 < … < β_T = 1

A chain starts at z ~ p₀ (the prior, or an encoder's q(z|x)), takes log w += (β_t − β_{t−1}) log p(x, z)/p₀(z), and then
one Hamiltonian Monte Carlo transition that leaves f_{β_t} invariant. E w = p(x), so that log 1/C Σ_c w_c of C chains is
a stochastic lower bound on log p(x). Run backwards from an exact posterior sample, which data simulated from the model
come with, the same steps give E 1/w = 1/p(x), and a stochastic upper bound.
"""

import dataclasses
import math
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

TARGET_ACCEPTANCE = 0.65
ADAPTATION = 0.2
"""How fast a step size follows the acceptance: at 0.05 it lagged behind the sharpening density, and cost nats."""


class Point(NamedTuple):
    """Latent points, and what a transition needs to know at them.

    Attributes:
        z: ``(C, B, K)``.
        base: log p₀(z), ``(C, B)``.
        ratio: log p(x, z) − log p₀(z), ``(C, B)``.
        base_slope: its gradient, ``(C, B, K)``.
        ratio_slope: its gradient, ``(C, B, K)``.
    """

    z: Tensor
    base: Tensor
    ratio: Tensor
    base_slope: Tensor
    ratio_slope: Tensor

    def log_density(self, beta: float) -> Tensor:
        """log f_β(z), up to its constant."""
        return self.base + beta * self.ratio

    def slope(self, beta: float) -> Tensor:
        """∇ log f_β(z)."""
        return self.base_slope + beta * self.ratio_slope


@dataclasses.dataclass(frozen=True)
class Path:
    """The densities that a run goes through.

    Attributes:
        log_base: log p₀(z), ``(C, B, K) → (C, B)``, nats.
        log_ratio: log p(x, z) − log p₀(z); for the prior as p₀ it is log p(x|z).
        betas: β_0 = 0 … β_T = 1.
        leapfrog: leapfrog steps a transition.
        tick: is told of each transition how many chains have made it.
    """

    log_base: Callable[[Tensor], Tensor]
    log_ratio: Callable[[Tensor], Tensor]
    betas: list[float]
    leapfrog: int = 5
    tick: Callable[[int], object] = lambda chains: None

    def at(self, z: Tensor) -> Point:
        """Densities and gradients at z; only z's gradient is taken, not the model's."""
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            base, ratio = self.log_base(z), self.log_ratio(z)
            (base_slope,) = torch.autograd.grad(base.sum(), z)
            (ratio_slope,) = torch.autograd.grad(ratio.sum(), z)
        return Point(z.detach(), base.detach(), ratio.detach(), base_slope, ratio_slope)


def sigmoid_schedule(steps: int, steepness: float = 4.0) -> list[float]:
    """β_t = (σ(δ(2t/T − 1)) − σ(−δ)) / (σ(δ) − σ(−δ)), t = 0 … T: slow where f changes fast, near both ends.

    Reference:
        Wu et al., On the Quantitative Analysis of Decoder-Based Generative Models, 2017, section 5.
    """
    if steps < 1:
        raise ValueError(f"steps: must be at least 1, got {steps}")
    s = (steepness * (2 * torch.arange(steps + 1, dtype=torch.float64) / steps - 1)).sigmoid()
    return [float(beta) for beta in (s - s[0]) / (s[-1] - s[0])]


def transition(path: Path, point: Point, beta: float, step: Tensor, generator: torch.Generator) -> tuple[Point, Tensor]:
    """One Hamiltonian Monte Carlo transition with unit mass that leaves f_β invariant.

    Args:
        path: the densities.
        point: where the chains are.
        beta: β.
        step: leapfrog step size of each example, ``(B,)``.
        generator: CPU generator of the momenta and of the acceptances.

    Returns:
        Where the chains are next, and the acceptance probabilities ``(C, B)``.

    Reference:
        Neal, MCMC using Hamiltonian dynamics, 2011, section 3.2.
    """
    start = point
    momentum = torch.randn(point.z.shape, generator=generator, dtype=point.z.dtype).to(point.z)
    kinetic = 0.5 * momentum.square().sum(-1)
    eps = step.unsqueeze(-1)
    for _ in range(path.leapfrog):
        momentum = momentum + 0.5 * eps * point.slope(beta)
        point = path.at(point.z + eps * momentum)
        momentum = momentum + 0.5 * eps * point.slope(beta)
    log_accept = point.log_density(beta) - start.log_density(beta) + kinetic - 0.5 * momentum.square().sum(-1)
    accept = log_accept.nan_to_num(nan=-math.inf).clamp(max=0).exp()  # a diverged path is refused
    taken = torch.rand(accept.shape, generator=generator, dtype=accept.dtype).to(accept) < accept
    path.tick(len(accept))
    where = {2: taken, 3: taken.unsqueeze(-1)}  # for (C, B) and (C, B, K)
    return Point(*(torch.where(where[a.ndim], a, b) for a, b in zip(point, start, strict=True))), accept


def tune(path: Path, z: Tensor, generator: torch.Generator, start: float = 0.2) -> Tensor:
    """Step sizes from a pilot run: at each β each example's step moves towards 65 % acceptance.

    Args:
        path: the densities.
        z: starting points from p₀, ``(C, B, K)``.
        generator: CPU generator.
        start: first step size.

    Returns:
        Step sizes ``(T, B)``. The run that is reported holds them fixed: adapting would break its invariance.
    """
    point, steps = path.at(z), [torch.full(z.shape[1:2], start, dtype=z.dtype, device=z.device)]
    for beta in path.betas[1:]:
        point, accept = transition(path, point, beta, steps[-1], generator)
        steps.append(steps[-1] * (2 * ADAPTATION * (accept.mean(0) - TARGET_ACCEPTANCE)).exp())
    return torch.stack(steps[1:])


def forward(path: Path, z: Tensor, steps: Tensor, generator: torch.Generator, order: int = 1) -> Tensor:
    """Log-weights ``(C, B)`` of chains that start at z ~ p₀ and end near the posterior; E w = p(x).

    The T weights have a transition at β_1 … β_{T−1} between them; order −1 runs through both from the end.

    Reference:
        Neal, Annealed Importance Sampling, 2001, eq. 11.
    """
    rises = [after - before for before, after in pairwise(path.betas)][::order]
    transitions = list(zip(path.betas[1:-1], steps[:-1], strict=True))[::order]
    point = path.at(z)
    log_w = (rises[0] * point.ratio).double()
    for rise, (beta, step) in zip(rises[1:], transitions, strict=True):
        point, _ = transition(path, point, beta, step, generator)
        log_w += rise * point.ratio
    return log_w


def backward(path: Path, z: Tensor, steps: Tensor, generator: torch.Generator) -> Tensor:
    """Log-weights ``(C, B)`` of chains that start at exact posterior samples z and end near p₀; E 1/w = 1/p(x).

    Reference:
        Grosse et al., Sandwiching the marginal likelihood using bidirectional Monte Carlo, 2015, eq. 7.
    """
    return forward(path, z, steps, generator, order=-1)


def lower_bound(log_w: Tensor) -> Tensor:
    """log 1/C Σ_c w_c of forward chains, ``(C, B) → (B,)``: at most log p(x) in expectation, nats."""
    return log_w.logsumexp(0) - math.log(len(log_w))


def upper_bound(log_w: Tensor) -> Tensor:
    """−log 1/C Σ_c 1/w_c of backward chains, ``(C, B) → (B,)``: at least log p(x) in expectation, nats."""
    return math.log(len(log_w)) - (-log_w).logsumexp(0)
