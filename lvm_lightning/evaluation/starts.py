"""Where the chains of an annealed run start: a proposal, or the Gaussian that is closest to p(z|x)."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from lvm_lightning.densities import PriorProposal, Proposal
from lvm_lightning.densities.priors import standard_normal_log_prob
from lvm_lightning.evaluation.fitted import WIDEN, closest_gaussian
from lvm_lightning.evaluation.variational import widened
from lvm_lightning.model import LatentVariableModel
from lvm_lightning.support.randomness import Rows

DRAWN = 4096
"""Points that a proposal draws at a time."""


class Start(NamedTuple):
    """A distribution p₀ of u, coordinates of z, for each of B images.

    Attributes:
        log_base: log p₀(u), ``(C, B, K) → (C, B)``, nats.
        log_joint: log p(x, z) + log |det ∂z/∂u|, ``(C, B, K) → (C, B)``, nats.
        draw: number C of chains → u ~ p₀, ``(C, B, K)``.
        coordinates: z ``(*, B, K)`` → u.
    """

    log_base: Callable[[Tensor], Tensor]
    log_joint: Callable[[Tensor], Tensor]
    draw: Callable[[int], Tensor]
    coordinates: Callable[[Tensor], Tensor]


def from_proposal(model: LatentVariableModel, x: Tensor, q: Proposal, generator: Generator) -> Start:
    """p₀ = q(z|x), in z itself."""

    def draw(chains: int) -> Tensor:
        if isinstance(q, PriorProposal):
            return model.prior.sample(chains * len(x), generator).view(chains, len(x), -1)
        return torch.cat([drawn.z for drawn in q.draws(chains, Rows(0, len(x)), generator, DRAWN)]).detach()

    def log_joint(z: Tensor) -> Tensor:
        log_lik, log_prior = model.log_joint(x, z)
        return log_lik + log_prior

    return Start(q.stopped_log_prob, log_joint, draw, lambda z: z)


def from_fit(model: LatentVariableModel, x: Tensor, q: Proposal, generator: Generator) -> Start:
    """p₀ = N(0, I) of u = Lᵀ (z − m), N(m, (L Lᵀ)⁻¹) the Gaussian that is closest to p(z|x), a little widened.

    There p(z|x) is about as wide in all directions, so that a few temperatures and long steps do.
    """
    mean, factor = closest_gaussian(model, x, q, generator)
    factor = widened(factor, WIDEN)
    inverse = torch.linalg.inv(factor)
    log_volume = -factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def log_joint(u: Tensor) -> Tensor:
        z = mean + (u.transpose(0, 1) @ inverse).transpose(0, 1)  # = m + L⁻ᵀ u
        log_lik, log_prior = model.log_joint(x, z)
        return log_lik + log_prior + log_volume

    def draw(chains: int) -> Tensor:
        return torch.randn(chains, *mean.shape, generator=generator).to(mean)

    def coordinates(z: Tensor) -> Tensor:
        return ((z - mean).unsqueeze(-2) @ factor).squeeze(-2)

    return Start(standard_normal_log_prob, log_joint, draw, coordinates)
