"""What importance weights say of log p(x), and how far they can be believed."""

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from lvm_lightning.evaluation import Evaluator, Measured
from lvm_lightning.objectives import iw_elbo

HEAVY = 0.7
"""Pareto shape above which an importance-sampling estimate of feasible size cannot be trusted (Vehtari et al. 2024)."""

TAIL = 25
"""Samples that a tail shape needs."""


class ImportanceWeighted(Evaluator):
    """Abstract: the importance-weighted bound L_S, and how far its weights can be believed.

    Below 25 samples there is nothing to say of the weights.

    Args:
        samples: number S of weights of each image.
        note: what else its name says, such as ``(fitted proposals)``.

    Attributes:
        cure: what a reader can do about heavy weights.
    """

    SHAPE = "Pareto k of the weights"
    cure: str

    def __init__(self, samples: int, note: str = "") -> None:
        self.samples, self.name = samples, f"log p(x) ≥ L_{samples}{note}"

    def bound(self, log_w: Tensor) -> Iterator[Measured]:
        """L_S of log w ``(S, B)`` for each example, and what the weights say of themselves."""
        S = self.samples
        yield Measured(self.name, iw_elbo(log_w.double()), "lower bound", S)
        if S >= TAIL:
            size = effective_sample_size(log_w)
            yield Measured("effective sample size", size, "stochastic estimate", S, f"of {S:,} samples")
            yield Measured(self.SHAPE, pareto_shape(log_w), "stochastic estimate", S, "none")

    def notes(self, found: Mapping[str, Measured]) -> list[str]:
        """A line for the reader of L_S where more than one image in a hundred has heavy weights."""
        heavy = float((found[self.SHAPE].values > HEAVY).double().mean()) if self.SHAPE in found else 0.0
        if heavy <= 0.01:
            return []
        return [
            f"the importance weights of {heavy:.0%} of the images have Pareto k > {HEAVY}: there L_{self.samples} is "
            f"still a lower bound, but may lie far below log p(x); {self.cure}"
        ]


def effective_sample_size(log_w: Tensor) -> Tensor:
    """(Σ w)² / Σ w², ``(S, B) → (B,)``: between 1 and S.

    Reference:
        Kong, A note on importance sampling using standardized weights, 1992.
    """
    log_w = log_w.double()
    return (2 * log_w.logsumexp(0) - (2 * log_w).logsumexp(0)).exp()


def pareto_shape(log_w: Tensor) -> Tensor:
    """Shape k̂ of a generalised Pareto distribution fitted to the largest weights, ``(S, B) → (B,)``.

    The largest M = min(S/5, 3 √S) weights above the next one are fitted by Zhang & Stephens' empirical-Bayes estimate,
    with the weakly informative prior that pulls k̂ to ½ by ten observations. k̂ ≥ ½: the weights have no variance;
    k̂ > 0.7: the estimate cannot be believed at any feasible S.

    Raises:
        ValueError: if there are fewer than 25 weights, of which 5 make a tail.

    Reference:
        Vehtari et al., Pareto Smoothed Importance Sampling, 2024, section 3; Zhang & Stephens, A new and efficient
        estimation method for the generalized Pareto distribution, 2009, eq. 6–8.
    """
    S = len(log_w)
    if S < TAIL:
        raise ValueError(f"log_w: a tail needs at least {TAIL} weights, got {S}")
    M = int(min(0.2 * S, 3 * math.sqrt(S)))
    largest = log_w.double().topk(M + 1, dim=0).values  # falling
    # Rounding makes ties of nearly equal weights: they then have no tail, and k̂ goes to its prior.
    excess = (largest[:M].flip(0) - largest[0]).exp() - (largest[M] - largest[0]).exp()  # (M, B), rising
    excess = excess.clamp_min(1e-300)
    m = 30 + int(math.sqrt(M))
    j = torch.arange(1, m + 1, dtype=torch.float64, device=log_w.device)
    quartile = excess[int(M / 4 + 0.5) - 1]
    b = (1 - (m / (j - 0.5)).sqrt()).unsqueeze(1) / (3 * quartile) + 1 / excess[-1]  # (m, B)
    k = (-b.unsqueeze(1) * excess).log1p().mean(1)  # (m, B)
    log_lik = M * ((-b / k).log() - k - 1)
    weight = log_lik.nan_to_num(nan=-math.inf).softmax(0)
    b_hat = (weight * b).sum(0)
    k_hat = (-b_hat * excess).log1p().mean(0)
    return (M * k_hat + 5) / (M + 10)
