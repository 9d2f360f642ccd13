"""log p(x) by quadrature over a latent of one or two dimensions."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy.integrate import quad_vec
from torch import Tensor

from lvm_lightning.densities import Bernoulli, StandardNormal, normal_grid
from lvm_lightning.evaluation import NATS, Evaluator, Given, Measured
from lvm_lightning.evaluation.refining import FIRST_REACH, Lattice, Refinement, left_out, rule_error
from lvm_lightning.evaluation.standard import EXACT
from lvm_lightning.model import LatentVariableModel
from lvm_lightning.support.log_space import log_sum_exp, normalised_weights, share

CHUNK = 1024
"""Grid points a matrix product: its results stay in the processor's cache until they are summed."""
BEYOND = (4, 8.0)
"""Outside of a grid, how many times coarser another goes on, and up to which norm."""
Chunk = tuple[Tensor, Tensor, Tensor]
"""Parameters ``(m, 1, P·D)`` at some points, the points' log-weights ``(m, 1)``, and the points ``(m, K)``."""


@dataclass
class GridQuadrature:
    """log p(x) = log ∫ p(x|z) N(z; 0, I) dz by the trapezoidal rule, exact up to the rule's error.

    The grid is decoded once, at construction, and serves any number of batches. Beyond its radius, where few posteriors
    reach, a grid four times coarser goes on to norm 8.

    Args:
        decode: z ``(M, 1, K)`` → the likelihood's parameters ``(M, 1, D)``.
        log_lik: parameters ``(M, 1, D)``, x ``(B, D)`` → ``(M, B)`` in nats.
        dim: number K of latent dimensions, 1 or 2.
        spacing: distance of neighbouring grid points.
        radius: largest norm of a grid point.
        device: where to compute, in float32.
        tolerance: nats; an image whose error is larger gets finer grids around its posterior.

    Raises:
        ValueError: if ``dim`` is not 1 or 2.
    """

    decode: Callable[[Tensor], Tensor]
    log_lik: Callable[[Tensor, Tensor], Tensor]
    dim: int
    spacing: float = 0.05
    radius: float = 5.0
    device: torch.device | None = None
    tolerance: float = 3e-3

    def __post_init__(self) -> None:
        near = normal_grid(self.dim, self.spacing, self.radius)
        parity = (near[0] / self.spacing).round().long() % 2
        coset = (parity * 2 ** torch.arange(self.dim)).sum(-1)  # each has every other point along each axis
        far = normal_grid(self.dim, BEYOND[0] * self.spacing, BEYOND[1])
        self._cosets = [self._decoded(near, coset == c) for c in range(2**self.dim)]
        self._refinement = Refinement(self.decode, self.log_lik, self.tolerance)
        self._wide = BEYOND[0] * self.spacing
        outside = far[0].norm(dim=-1) > self.radius
        self._beyond, self._inner = self._decoded(far, outside), self._decoded(far, ~outside)
        self.points = sum(len(z) for part in (*self._cosets, self._beyond) for _, _, z in part)

    def _decoded(self, grid: tuple[Tensor, Tensor], which: Tensor) -> list[Chunk]:
        """Some points of a grid, in chunks, with what is decoded from them."""
        chunks = (t[which].to(self.device, torch.float32).unsqueeze(1).split(CHUNK) for t in grid)
        return [(self.decode(z), log_weight, z.squeeze(1)) for z, log_weight in zip(*chunks, strict=True) if len(z)]

    def measure(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """log p(x), and how far it may be off, ``(B, D) → (B,)`` each, nats.

        The error is that of the rule (:func:`rule_error`) and all of the mass beyond the radius. Where it is above the
        tolerance, both are measured again on finer grids: a sharp posterior can be narrower than the one of all images.
        """
        largest, near = x.new_full((len(x),), -torch.inf), list[tuple[Tensor, Lattice]]()
        for coset in self._cosets:  # of the later ones less is kept, as the largest weight is nearly known
            near.append(self._sum(coset, x, self.spacing, largest))
        beyond = self._sum(self._beyond, x, self._wide)
        sums, outside = torch.stack([log_sum for log_sum, _ in near]), beyond[0]
        log_p = torch.logaddexp(sums.logsumexp(0), outside)
        each = torch.logaddexp(sums + self.dim * math.log(2), outside)
        error = rule_error(each, log_p) + share(outside - log_p)
        coarse, is_outside = error > self.tolerance, outside - log_p > math.log(self.tolerance)
        if bool((inside := coarse & ~is_outside).any()):
            log_p, error = self._refined(x, near, inside, log_p, error)
        if bool((beside := coarse & is_outside).any()):
            log_p, error = self._refined(x, [self._sum(self._inner, x, self._wide), beyond], beside, log_p, error)
        return log_p, error

    def _refined(
        self, x: Tensor, parts: list[tuple[Tensor, Lattice]], which: Tensor, log_p: Tensor, error: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The same with some images measured again on denser lattices, from what the parts of a grid say of them."""
        log_sum = torch.stack([log_sum for log_sum, _ in parts]).double().logsumexp(0)
        lattice = Lattice.joined([lattice for _, lattice in parts])
        heavy = lattice.kept(which[lattice.image]).heavy(len(x), FIRST_REACH)
        value, off = self._refinement.measure(x, heavy, left_out(heavy.log_sum(len(x)), log_sum))
        better = off < error
        return torch.where(better, value.to(x), log_p), torch.where(better, off.to(x), error)

    def posterior_mean(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """E[z|x], and how far the mean over one coset of the points lies from it at most, ``(B, D) → (B, K)`` each.

        A posterior that is narrower than the grid has its weight on a point of one coset alone: there the others'
        means are points beside it, and the difference as large as the error can be.
        """
        parts = [self._mean(part, x) for part in (*self._cosets, self._beyond) if part]
        log_sums, means = (torch.stack(found) for found in zip(*parts, strict=True))
        mean = (log_sums.softmax(0).unsqueeze(-1) * means).sum(0)
        return mean, (means[: 2**self.dim] - mean).abs().amax(0)

    def _mean(self, chunks: list[Chunk], x: Tensor) -> tuple[Tensor, Tensor]:
        """log Σ_m w_m, ``(B,)``, and Σ_m w_m z_m / Σ_m w_m, ``(B, K)``, w_m = exp(log weight + log p(x|z_m))."""
        total, mean = x.new_full((len(x),), -torch.inf), x.new_zeros(len(x), self.dim)
        for parameters, log_weight, z in chunks:
            log_w = self.log_lik(parameters, x) + log_weight
            log_sum, here = log_sum_exp(log_w, 0), normalised_weights(log_w, 0).mT @ z
            total = torch.logaddexp(total, log_sum)
            mean = mean + (here - mean) * share(log_sum - total).unsqueeze(-1)
        return total, mean

    def _sum(
        self, chunks: list[Chunk], x: Tensor, spacing: float, largest: Tensor | None = None
    ) -> tuple[Tensor, Lattice]:
        """log Σ_m exp(log weight + log p(x|z_m)) over some chunks, ``(B,)``, and the points that carry each image's.

        ``largest`` is the largest of each image's logarithms so far, ``(B,)``; it is raised in place.
        """
        total = x.new_full((len(x),), -torch.inf)
        largest = total.clone() if largest is None else largest
        basis = spacing * torch.eye(self.dim, dtype=torch.float64, device=x.device)
        parts = [Lattice.none(basis)]
        for parameters, log_weight, z in chunks:
            log_w = self.log_lik(parameters, x) + log_weight
            total = torch.logaddexp(total, log_sum_exp(log_w, 0))
            torch.maximum(largest, log_w.detach().amax(0), out=largest)
            point, image = (log_w > largest - FIRST_REACH).nonzero(as_tuple=True)
            index = (z[point].double() / spacing).round().long()
            log_joint = log_w[point, image].double() - self.dim * math.log(spacing)
            parts.append(Lattice(basis, image, index, log_joint))
        return total, Lattice.joined(parts)


@dataclass
class AdaptiveQuadrature:
    """log p(x) = log ∫ p(x|z) N(z; 0, 1) dz for K = 1 by adaptive Gauss–Kronrod quadrature over [−10, 10].

    Args:
        decode: z ``(M, 1, 1)`` → the likelihood's parameters.
        log_lik: parameters, x ``(B, D)`` → ``(M, B)`` in nats.
        device: where to compute the integrand, in float32.

    Attributes:
        points: how often the last integral evaluated its integrand.
    """

    decode: Callable[[Tensor], Tensor]
    log_lik: Callable[[Tensor, Tensor], Tensor]
    device: torch.device | None = None
    points = 0
    LIMIT = 10.0

    def measure(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """log p(x), and the rule's estimate of its error, ``(B, D) → (B,)`` each, nats; ``points`` counts the calls."""
        shift = self._log_joint(torch.linspace(-self.LIMIT, self.LIMIT, 2001), x).amax(0)  # (B,)

        def integrand(z: float) -> object:
            return (self._log_joint(torch.tensor([z]), x)[0] - shift).double().exp().cpu().numpy()

        edges = np.linspace(-self.LIMIT, self.LIMIT, 64 + 1)  # of intervals narrow enough to find every peak
        options = {"epsrel": 1e-5, "norm": "max", "points": edges[1:-1], "limit": 2000, "full_output": True}
        integral, error, info = quad_vec(integrand, -self.LIMIT, self.LIMIT, epsabs=0, **options)
        self.points = info.neval
        value = torch.from_numpy(integral).to(x.device)
        return value.log() + shift.double(), (error / value).log1p()

    def _log_joint(self, z: Tensor, x: Tensor) -> Tensor:
        z = z.to(self.device, torch.float32).view(-1, 1, 1)
        log_prior = -0.5 * (z.view(-1, 1).square() + math.log(2 * math.pi))
        return self.log_lik(self.decode(z), x) + log_prior


Quadrature = AdaptiveQuadrature | GridQuadrature


def quadrature_of(model: LatentVariableModel, spacing: float, device: torch.device) -> Quadrature:
    """What integrates p(x|z) p(z) over z: adaptive for K = 1, for K = 2 a grid that is decoded once."""
    if model.prior.dim == 1:
        return AdaptiveQuadrature(model.decode, model.likelihood.log_prob, device)
    return GridQuadrature(model.decode, model.likelihood.log_prob, model.prior.dim, spacing=spacing, device=device)


def posterior_grid(model: LatentVariableModel, spacing: float, device: torch.device) -> GridQuadrature:
    """What integrates z p(z|x) over z: a grid twice as fine as that of log p(x), which no refinement helps.

    For K = 1 it reaches further and is 100 times as fine.
    """
    parts, radius = (100, AdaptiveQuadrature.LIMIT) if model.prior.dim == 1 else (2, GridQuadrature.radius)
    return GridQuadrature(
        model.decode, model.likelihood.log_prob, model.prior.dim, spacing / parts, radius, device=device
    )


class Exact(Evaluator):
    """log p(x) by quadrature over one or two latent dimensions, and how far it may be off.

    Args:
        spacing: distance of the grid points where K = 2; a sharper posterior needs a finer grid.
    """

    rows = None

    def __init__(self, spacing: float) -> None:
        self.spacing = spacing
        self._quadrature: Quadrature | None = None

    def lacks(self, model: LatentVariableModel) -> str:
        """A standard normal prior of at most two dimensions, and a Bernoulli likelihood."""
        served = isinstance(model.prior, StandardNormal) and isinstance(model.likelihood, Bernoulli)
        return "" if served and model.prior.dim <= 2 else "a standard normal prior of K ≤ 2 and a Bernoulli likelihood"

    def measure(self, given: Given) -> Iterator[Measured]:
        """log p(x) and the quadrature's error; the grid is decoded once, for all batches."""
        x = given.batch.x
        self._quadrature = self._quadrature or quadrature_of(given.model, self.spacing, x.device)
        value, error = self._quadrature.measure(x)
        yield Measured(EXACT, value, "exact", 0)
        yield Measured("error of the quadrature", error, "stochastic estimate", 0, NATS)
