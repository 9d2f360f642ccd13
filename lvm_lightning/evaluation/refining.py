"""A lattice that is made finer for each image where its posterior is, until log p(x) is known well enough.

A sharp posterior is narrower than a grid that all images share, and lies on few of its points. So an image for which
the shared grid is too coarse gets further points, the centres of the cells that carry its weight, and again the centres
of those: some hundred points, where a finer grid for all would have hundreds of thousands.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from lvm_lightning.densities.priors import standard_normal_log_prob
from lvm_lightning.support.log_space import share

REACH = 10.0
"""Cells are refined around points with at least e^−10 of the largest weight; all that the others carry is an error."""
FIRST_REACH = 14.0
"""What REACH is for a first lattice, between whose points a sharp posterior may lie."""
AT_A_TIME = 1024
"""Points that are decoded at a time."""
AXIS = 2**20
"""More than a lattice has points along an axis: K coordinates become one number."""
LogJoint = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Points z ``(m, K)``, and n pairs: which point and which image each is of → log p(x, z) of the pairs, ``(n,)``."""
CENTRES = {1: [[2]], 2: [[1, 1], [1, -1]]}
"""Coordinates of a lattice in that of its points and the centres of its cells: the sum of a centre's is odd."""


def rule_error(sums: Tensor, log_p: Tensor) -> Tensor:
    """How far a trapezoidal sum may be off, from the sums over its cosets of twice the spacing, ``(C, B)``, ``(B,)``.

        δ = max_c |log S_c − log p|,   error = min(2 δ, (4 δ)²)

    The rule's error falls at least as fast as exp(−a/h) with the spacing h, so that at half the spacing it is less than
    its square. One coset may agree with the whole by chance, by where the posterior lies between the points; that all
    do is rare.

    Reference:
        Trefethen & Weideman, The Exponentially Convergent Trapezoidal Rule, 2014, theorem 5.1.
    """
    distance = (sums - log_p).abs().amax(0)
    return (2 * distance).minimum((4 * distance).square())


@dataclass(frozen=True)
class Lattice:
    """Points z = Σ_k i_k b_k of several images, i whole numbers, and log p(x, z) there.

    Attributes:
        basis: the vectors b_k, ``(K, K)``, float64.
        image: which image each point belongs to, ``(n,)``.
        index: i, ``(n, K)``.
        log_joint: log p(x, z), ``(n,)``, float64.
    """

    basis: Tensor
    image: Tensor
    index: Tensor
    log_joint: Tensor

    @classmethod
    def none(cls, basis: Tensor) -> "Lattice":
        """No points."""
        integer = torch.zeros(0, len(basis), dtype=torch.int64, device=basis.device)
        return cls(basis, integer[:, 0], integer, basis.new_zeros(0))

    @classmethod
    def joined(cls, parts: "Sequence[Lattice]") -> "Lattice":
        """The points of all parts, which have one basis."""
        columns = zip(*((part.image, part.index, part.log_joint) for part in parts), strict=True)
        return cls(parts[0].basis, *(torch.cat(column) for column in columns))

    def kept(self, which: Tensor) -> "Lattice":
        """Some of the points."""
        return Lattice(self.basis, self.image[which], self.index[which], self.log_joint[which])

    def log_sum(self, images: int) -> Tensor:
        """log of the trapezoidal sum over each image's points, ``(images,)``; −∞ for an image that has none."""
        volume = float(torch.linalg.det(self.basis).abs().log())
        largest = _largest(self.log_joint, self.image, images)
        shares = share(self.log_joint - largest[self.image])
        return largest + shares.new_zeros(images).index_add(0, self.image, shares).log() + volume

    def heavy(self, images: int, reach: float = REACH) -> "Lattice":
        """The points that have at least e^−reach of the largest weight of their image."""
        return self.kept(self.log_joint > _largest(self.log_joint, self.image, images)[self.image] - reach)

    def cosets(self) -> "list[Lattice]":
        """The 2^K lattices of twice the spacing that this one consists of."""
        parity = (self.index % 2 * 2 ** torch.arange(self.index.shape[-1]).to(self.index)).sum(-1)
        return [self.kept(parity == c) for c in range(2 ** self.index.shape[-1])]

    def denser(self) -> "Lattice":
        """The same points on the lattice that has the centres of the cells too."""
        change = torch.tensor(CENTRES[self.index.shape[-1]], device=self.index.device)
        basis = torch.linalg.solve(change.double(), self.basis)
        return replace(self, basis=basis, index=self.index @ change)

    def centres(self, log_joint: "LogJoint") -> "Lattice":
        """Of a :meth:`denser` lattice, the centres of the cells around its points."""
        K = self.index.shape[-1]
        steps = torch.cat([torch.eye(K), -torch.eye(K)]).to(self.index)
        number, index = self.image.repeat_interleave(2 * K), (self.index.unsqueeze(1) + steps).view(-1, K)
        for column in index.unbind(-1):
            number = number * AXIS + column + AXIS // 2
        number = number.unique()
        image, columns = number // AXIS**K, list[Tensor]()
        rest, which = (number % AXIS**K).unique(return_inverse=True)  # a point of several images is decoded once
        for _ in range(K):
            columns.insert(0, rest % AXIS - AXIS // 2)
            rest = rest // AXIS
        index = torch.stack(columns, -1)
        return Lattice(self.basis, image, index[which], log_joint(index.double() @ self.basis, which, image))


@dataclass(frozen=True)
class Refinement:
    """log ∫ p(x|z) N(z; 0, I) dz by lattices that become denser where an image's posterior is.

    Args:
        decode: z ``(m, 1, K)`` → the likelihood's parameters ``(m, 1, P·D)``.
        log_lik: parameters ``(m, 1, P·D)``, x ``(B, D)`` → ``(m, B)`` in nats.
        tolerance: nats; an image whose error is below is done.
        steps: how often the centres of the cells are added, at most.
    """

    decode: Callable[[Tensor], Tensor]
    log_lik: Callable[[Tensor, Tensor], Tensor]
    tolerance: float = 3e-3
    steps: int = 8

    def measure(self, x: Tensor, lattice: Lattice, missed: Tensor) -> tuple[Tensor, Tensor]:
        """log p(x), and how far it may be off, ``(B,)`` each, nats.

        Args:
            x: ``(B, D)``.
            lattice: points of a first lattice that carry an image's weight, some for each image.
            missed: what the others carry, nats ``(B,)``.
        """
        B, K = len(x), lattice.index.shape[-1]
        log_p, error = missed.new_full((B,), -torch.inf), missed.new_full((B,), torch.inf)
        for _ in range(self.steps):
            old = lattice.denser()
            new = old.centres(partial(self._log_joint, x))
            lattice = Lattice.joined([old, new])
            sums = torch.stack([coset.log_sum(B) for coset in lattice.cosets()])
            total = sums.logsumexp(0)
            rule = rule_error(sums + K * math.log(2), total)
            better = rule + missed < error  # an image that has no points any more is done
            log_p, error = log_p.where(~better, total), error.where(~better, rule + missed)
            lattice = lattice.kept((rule > self.tolerance)[lattice.image])
            if not len(lattice.image):
                break
            heavy = lattice.heavy(B)
            missed = missed + left_out(heavy.log_sum(B), lattice.log_sum(B))
            lattice = heavy
        return log_p, error

    def _log_joint(self, x: Tensor, z: Tensor, which: Tensor, image: Tensor) -> Tensor:
        """log p(x_image, z_which), float64 ``(n,)``, of points ``(m, K)``; see :data:`LogJoint`."""
        values, order = torch.empty(len(image), dtype=torch.float64, device=x.device), which.argsort()
        of_each = torch.bincount(which, minlength=len(z)).split(AT_A_TIME)
        pairs_of = order.split([int(count.sum()) for count in of_each])
        for first, (points, pairs) in enumerate(zip(z.float().split(AT_A_TIME), pairs_of, strict=True)):
            row, (images, column) = which[pairs] - first * AT_A_TIME, image[pairs].unique(return_inverse=True)
            log_lik = self.log_lik(self.decode(points.unsqueeze(1)), x[images])  # of all: a product is cheap
            values[pairs] = (log_lik[row, column] + standard_normal_log_prob(points)[row]).double()
        return values


def left_out(kept: Tensor, log_p: Tensor) -> Tensor:
    """log p − log of the sum that is kept of it, at least 0, and 0 where nothing was to be kept: ``(B,)``, nats."""
    return (log_p - kept).nan_to_num(nan=0.0).clamp(min=0)


def _largest(values: Tensor, image: Tensor, images: int) -> Tensor:
    return values.new_full((images,), -torch.inf).scatter_reduce(0, image, values, "amax")
