"""How the importance-weighted bound rises with the number of samples, and what second-order theory says of it."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from lvm_lightning.evaluation import Evaluator, Given, Measured, Quantity
from lvm_lightning.objectives.bounds import require_samples
from lvm_lightning.support.log_space import log_sum_exp


@dataclasses.dataclass(frozen=True)
class Tightness:
    """The importance-weighted bound at one N, its gap, and the gap's prediction, means over examples in nats.

    Attributes:
        samples: N.
        bound: L_N.
        stderr: its standard error over examples.
        gap: log p(x) − L_N, example by example, where log p(x) is known; None otherwise.
        gap_stderr: its standard error: smaller than the bound's, as both terms move with the example.
        predicted_gap: Var[w] / (2 N p(x)²).
    """

    samples: int
    bound: float
    stderr: float
    gap: float | None
    gap_stderr: float | None
    predicted_gap: float


def relative_variance(log_w: Tensor, log_p: Tensor) -> Tensor:
    """Var[w]/p(x)² = E (w/p(x) − 1)², ``(S, B)``, ``(B,)`` → ``(B,)``.

    An average over draws: where the weights are heavy, few draws carry it, and it comes out too small.
    """
    return (log_w - log_p).expm1().square().mean(0)


def tightness(log_w: Tensor, log_p: Tensor | None) -> list[Tightness]:
    """L_N for N = 1, 2, 4, … up to S, from groups of the same S weights.

    The second-order prediction, from log R_N = log p + (R_N/p − 1) − ½ (R_N/p − 1)² + …, R_N the mean of N weights:

        log p(x) − E log R_N ≈ Var[w] / (2 N p(x)²)

    It holds once Var[w]/p(x)² is small beside N.

    Args:
        log_w: log-weights of i.i.d. draws ``(S, B)``, nats.
        log_p: exact log p(x) ``(B,)``, or None: then the last L_N stands in for it in the prediction.

    Raises:
        ValueError: if ``log_w`` is not ``(S, B)`` with S, B ≥ 1.

    Reference:
        Domke & Sheldon, Importance Weighting and Variational Inference, 2018, theorem 3.
    """
    return rise([measure(log_w, log_p)], log_p)


class Rise(NamedTuple):
    """What some examples' weights say.

    Attributes:
        bounds: N = 1, 2, 4, … up to S → L_N, ``(B,)``, nats.
        variance: Var[w]/p(x)², ``(B,)``.
    """

    bounds: Mapping[int, Tensor]
    variance: Tensor


def measure(log_w: Tensor, log_p: Tensor | None) -> Rise:
    """The bound of each example for N = 1, 2, 4, …; log_w and log_p as for :func:`tightness`."""
    log_w = log_w.double()
    bounds = bounds_of(log_w, 2)
    best = bounds[max(bounds)] if log_p is None else log_p.double()
    return Rise(bounds, relative_variance(log_w, best))


def rise(parts: Sequence[Rise], log_p: Tensor | None) -> list[Tightness]:
    """Means over the examples of all parts, whose log p(x) is ``log_p``, ``(B,)``, or None."""
    variance = float(torch.cat([part.variance for part in parts]).mean())
    bounds = {n: torch.cat([part.bounds[n] for part in parts]) for n in parts[0].bounds}
    return [_row(n, bound, log_p, variance / (2 * n)) for n, bound in bounds.items()]


def _row(n: int, bound: Tensor, log_p: Tensor | None, predicted: float) -> Tightness:
    mean_of = partial(Quantity.mean_of, "L_N", kind="lower bound", split="test", samples=n)
    mean, gap = mean_of(bound), None if log_p is None else mean_of(log_p.double() - bound)
    return Tightness(n, mean.value, mean.stderr, gap.value if gap else None, gap.stderr if gap else None, predicted)


def powers(base: int, largest: int) -> list[int]:
    """1, base, base², … up to ``largest``."""
    found = [1]
    while found[-1] * base <= largest:
        found.append(found[-1] * base)
    return found


def bounds_of(log_w: Tensor, base: int) -> dict[int, Tensor]:
    """L_N ``(B,)`` for N = 1, base, base², … up to S, from groups of the same weights ``(S, B)``, nats."""
    require_samples(log_w)
    found, log_sums = {1: log_w.mean(0)}, log_w
    for n in powers(base, len(log_w))[1:]:
        groups = len(log_sums) // base
        log_sums = log_sum_exp(log_sums[: groups * base].view(groups, base, *log_w.shape[1:]), 1)
        found[n] = log_sums.mean(0) - math.log(n)
    return found


class Ladder(Evaluator):
    """Importance-weighted bounds L_N for N = 1, 4, 16, … from groups of the same draws.

    Args:
        largest: number of draws.
    """

    rows, purpose = None, "test"

    def __init__(self, largest: int) -> None:
        self.largest = largest

    def measure(self, given: Given) -> Iterator[Measured]:
        """A bound for each N."""
        for n, bound in bounds_of(given.terms(self.largest).log_w, 4).items():
            yield Measured(f"importance-weighted bound L_{n}", bound, "lower bound", n)
