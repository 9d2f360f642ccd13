"""Proposals that are fitted to each image of a test: an ascent to the modes of p(z|x), and the curvature there.

Samples of the prior find a posterior in K dimensions only when they are many, and those of an encoder's q(z|x) miss
what lies outside of it: their bound is far below log p(x). Where p(x|z) is smooth in z, an ascent from the best of some
thousand prior points, or from where the encoder puts an image, finds modes of p(z|x), and the curvature there says how
wide they are.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from lvm_lightning.densities import Likelihood, Proposal
from lvm_lightning.densities.priors import standard_normal_log_prob
from lvm_lightning.densities.proposals import Drawn
from lvm_lightning.support.log_space import log_sum_exp
from lvm_lightning.support.randomness import Rows

LONGEST = 0.5
"""Longest step of a test's ascents in standard deviations of the prior: further away a quadratic form says little."""


@dataclass(frozen=True)
class Mixture(Proposal):
    """q(z) = Σ_r π_r N(z; m_r, Λ_r⁻¹) for each of B images, Λ_r = L_r L_rᵀ.

    Args:
        log_weight: log π_r, ``(R, B)``.
        mean: m_r, ``(R, B, K)``.
        factor: L_r, lower triangular, ``(R, B, K, K)``.
    """

    log_weight: Tensor
    mean: Tensor
    factor: Tensor

    @classmethod
    def of_one(cls, mean: Tensor, factor: Tensor) -> "Mixture":
        """N(m, (L Lᵀ)⁻¹): m ``(B, K)``, L ``(B, K, K)``."""
        return cls(torch.zeros_like(mean[:, 0]).unsqueeze(0), mean.unsqueeze(0), factor.unsqueeze(0))

    @property
    def location(self) -> Tensor:
        """The mean, Σ_r π_r m_r."""
        return (self.log_weight.exp().unsqueeze(-1) * self.mean).sum(0)

    def draws(self, samples: int, rows: Rows, generator: torch.Generator, size: int) -> Iterator[Drawn]:
        """z of the mixture and log q(z), some draws after the others."""
        B, K = self.mean.shape[1:]
        noise = torch.randn(samples, rows.total, K, generator=generator)[:, rows.start : rows.start + B].to(self.mean)
        uniform = torch.rand(samples, rows.total, generator=generator)[:, rows.start : rows.start + B].to(self.mean)
        count = max(1, size // rows.total)
        for start in range(0, samples, count):
            part = slice(start, start + count)
            z = self.sample(noise[part], uniform[part])
            yield Drawn(part, slice(None), z, self.log_prob(z))

    def sample(self, noise: Tensor, uniform: Tensor) -> Tensor:
        """z ~ q, ``(S, B, K)``, from standard-normal noise ``(S, B, K)`` and uniform numbers ``(S, B)`` in [0, 1)."""
        below = self.log_weight.exp().cumsum(0)[:-1].unsqueeze(1)  # (R − 1, 1, B)
        part = (uniform >= below).sum(0).unsqueeze(-1)
        columns, z = noise.movedim(0, -1), noise.new_zeros(())  # (B, K, S)
        for r, (mean, factor) in enumerate(zip(self.mean, self.factor, strict=True)):
            # z = m + L⁻ᵀ ε has the covariance (L Lᵀ)⁻¹
            offset = torch.linalg.solve_triangular(factor.mT, columns, upper=True).movedim(-1, 0)
            z = torch.where(part == r, mean + offset, z)
        return z

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z), ``(S, B, K) → (S, B)``, nats."""
        parts = []
        for log_weight, mean, factor in zip(self.log_weight, self.mean, self.factor, strict=True):
            scaled = ((z - mean).transpose(0, 1) @ factor).transpose(0, 1)  # Lᵀ (z − m)
            constant = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1) - 0.5 * z.shape[-1] * math.log(2 * math.pi)
            parts.append(log_weight + constant - 0.5 * scaled.square().sum(-1))
        return log_sum_exp(torch.stack(parts), 0)


@dataclass(frozen=True)
class BestPilots:
    """The R pilot points with the largest p(x|z) of each image: x ``(B, D) → (R, B, K)``.

    Args:
        decode: z ``(n, K)`` → the likelihood's parameters ``(n, P·D)``.
        likelihood: p(x|z).
        pilots: prior points ``(M, K)``, decoded once for all images.
        modes: R.
    """

    decode: Callable[[Tensor], Tensor]
    likelihood: Likelihood
    pilots: Tensor
    modes: int = 4

    @cached_property
    def _decoded(self) -> Tensor:
        return torch.cat([self.decode(part) for part in self.pilots.split(1024)])

    def __call__(self, x: Tensor) -> Tensor:
        """Them, ``(R, B, K)``."""
        log_lik = self.likelihood.log_prob(self._decoded.unsqueeze(1), x)
        return self.pilots[log_lik.topk(min(self.modes, len(self.pilots)), dim=0).indices]


@dataclass(frozen=True)
class FittedProposals:
    """For each image a mixture of Gaussians at modes of p(z|x), and the prior.

        q(z|x) = π_0 N(z; 0, I) + Σ_r π_r N(z; m_r, c² H_r⁻¹),   H_r = Jᵀ F J + I

    with J the Jacobian of the decoder at m_r and F the Fisher information of the likelihood's parameters. m_r is where
    a damped Gauss–Newton ascent of log p(x|z) + log p(z) ends, and π_r is in proportion to Laplace's approximation of
    the probability around it, a tenth shared evenly. H_r has the curvature of a standard normal prior whatever the
    prior is.

    Whatever the ascent does, q is a density from which z is drawn, so that importance weights p(x, z)/q(z|x) give a
    lower bound on log p(x); under a standard normal prior its part keeps the weights below p(x|z)/π_0.

    Args:
        decode: z ``(n, K)`` → the likelihood's parameters ``(n, P·D)``, differentiable twice.
        likelihood: p(x|z), and what x tells of its parameters.
        starts: x ``(B, D)`` → where the R ascents of each image start, ``(R, B, K)``.
        log_prior: log p(z), ``(R, B, K) → (R, B)``, differentiable, up to a constant.
        steps: of each ascent.
        widen: c.
        prior_weight: π_0.
        longest: step of the ascents, in standard deviations of the prior.

    Reference:
        Tierney & Kadane, Accurate Approximations for Posterior Moments and Marginal Densities, 1986, eq. 2.4 (Laplace);
        Marquardt, An Algorithm for Least-Squares Estimation of Nonlinear Parameters, 1963 (damping); Owen & Zhou, Safe
        and Effective Importance Sampling, 2000, section 3 (the prior's part).
    """

    decode: Callable[[Tensor], Tensor]
    likelihood: Likelihood
    starts: Callable[[Tensor], Tensor]
    log_prior: Callable[[Tensor], Tensor] = standard_normal_log_prob
    steps: int = 12
    widen: float = 1.2
    prior_weight: float = 0.05
    longest: float = LONGEST

    def __call__(self, x: Tensor) -> Mixture:
        """The mixtures of images ``(B, D)``: R modes and N(0, I). It takes memory for 4 R B K P·D numbers."""
        mode, factor, log_joint = self._modes(x)
        log_mass = log_joint - factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)  # (R, B), up to a constant
        weight = (1 - self.prior_weight) * (0.9 * log_mass.softmax(0) + 0.1 / len(mode))
        log_weight = torch.cat([weight, torch.full_like(weight[:1], self.prior_weight)]).log()
        mean, prior = torch.cat([mode, torch.zeros_like(mode[:1])]), torch.eye(mode.shape[-1]).to(mode)
        return Mixture(log_weight, mean, torch.cat([factor / self.widen, prior.expand_as(factor[:1])]))

    def laplace(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Laplace's approximations N(m_r, H_r⁻¹): m ``(R, B, K)`` and the Cholesky factors of H, ``(R, B, K, K)``."""
        return self._modes(x)[:2]

    def _modes(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with torch.inference_mode(False), torch.no_grad():  # derivatives need ordinary tensors
            x = x.clone()
            mode, precision, log_joint = self._ascend(x, self.starts(x).clone())
        return mode, torch.linalg.cholesky(precision), log_joint

    def _ascend(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Where the ascents end, ``(R, B, K)``, H ``(R, B, K, K)`` and log p(x, z) there, ``(R, B)``."""
        damping, height = torch.ones_like(z[..., 0]), self._log_joint(x, z)
        slope, curvature = self._derivatives(x, z)
        for _ in range(self.steps):
            size = curvature.diagonal(dim1=-2, dim2=-1).mean(-1)
            damped = curvature + torch.diag_embed((damping * size).unsqueeze(-1).expand_as(z))
            step = torch.linalg.solve(damped, slope)
            step = step * (self.longest / step.norm(dim=-1, keepdim=True)).clamp(max=1)
            reached = self._log_joint(x, z + step)
            better = reached > height
            z, height = torch.where(better.unsqueeze(-1), z + step, z), torch.where(better, reached, height)
            damping = torch.where(better, 0.3 * damping, 4 * damping).clamp(1e-4, 1e4)
            slope, curvature = self._derivatives(x, z)
        return z, curvature, height

    def _log_joint(self, x: Tensor, z: Tensor) -> Tensor:
        parameters = self.decode(z.flatten(0, 1)).unflatten(0, z.shape[:-1])
        return self.likelihood.log_prob(parameters, x) + self.log_prior(z)

    def _derivatives(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """∇ log p(x, z), ``(R, B, K)``, and H ``(R, B, K, K)``."""
        with torch.enable_grad():
            points = z.flatten(0, 1).detach().requires_grad_()
            parameters = self.decode(points)
            # Jᵀ u is linear in u, and its derivative by u is J: K passes, where one a parameter would be 784.
            u = torch.zeros_like(parameters, requires_grad=True)
            (product,) = torch.autograd.grad(parameters, points, u, create_graph=True)
            columns = [torch.autograd.grad(column.sum(), u, retain_graph=True)[0] for column in product.unbind(-1)]
            leaf = parameters.unflatten(0, z.shape[:-1]).detach().requires_grad_()
            (cotangent,) = torch.autograd.grad(self.likelihood.log_prob(leaf, x).sum(), leaf)
            of_prior = z.detach().requires_grad_()
            (prior_slope,) = torch.autograd.grad(self.log_prior(of_prior).sum(), of_prior)
        parameters, jacobian = parameters.detach(), torch.stack(columns, -1)  # (R B, P·D) and (R B, P·D, K)
        slope = (cotangent.flatten(0, 1).unsqueeze(-2) @ jacobian).squeeze(-2).view_as(z) + prior_slope
        curvature = jacobian.mT @ (self.likelihood.information(parameters).unsqueeze(-1) * jacobian)
        return slope, curvature.unflatten(0, z.shape[:-1]) + torch.eye(z.shape[-1]).to(z)
