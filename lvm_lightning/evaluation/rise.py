"""How the importance-weighted bound rises with the number of samples, and what second-order theory says of it."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lvm_lightning.evaluation.quantity import Quantity
from lvm_lightning.objectives.bounds import nested_iw_elbo


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
    return ((log_w - log_p).exp() - 1).square().mean(0)


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
        samples: N = 1, 2, 4, … up to S.
        bound: the bound at each N, ``(P, B)``, nats.
        variance: Var[w]/p(x)², ``(B,)``.
    """

    samples: list[int]
    bound: Tensor
    variance: Tensor


def measure(log_w: Tensor, log_p: Tensor | None) -> Rise:
    """The bound of each example for N = 1, 2, 4, …; log_w and log_p as for :func:`tightness`."""
    log_w = log_w.double()
    S = len(log_w)
    samples = powers(2, S)
    bounds = [nested_iw_elbo(log_w[: S // n * n].view(S // n, n, *log_w.shape[1:])) for n in samples]
    return Rise(samples, torch.stack(bounds), relative_variance(log_w, bounds[-1] if log_p is None else log_p.double()))


def rise(parts: Sequence[Rise], log_p: Tensor | None) -> list[Tightness]:
    """Means over the examples of all parts, whose log p(x) is ``log_p``, ``(B,)``, or None."""
    variance = float(torch.cat([part.variance for part in parts]).mean())
    bound = torch.cat([part.bound for part in parts], -1)
    return [_row(n, values, log_p, variance / (2 * n)) for n, values in zip(parts[0].samples, bound, strict=True)]


def _row(n: int, bound: Tensor, log_p: Tensor | None, predicted: float) -> Tightness:
    def mean_of(values: Tensor) -> Quantity:
        return Quantity.mean_of("L_N", values, kind="lower bound", split="test", samples=n)

    value = mean_of(bound)
    gap = mean_of(log_p.double() - bound) if log_p is not None else None
    return Tightness(n, value.value, value.stderr, gap.value if gap else None, gap.stderr if gap else None, predicted)


def powers(base: int, largest: int) -> list[int]:
    """1, base, base², … up to ``largest``."""
    found = [1]
    while found[-1] * base <= largest:
        found.append(found[-1] * base)
    return found
