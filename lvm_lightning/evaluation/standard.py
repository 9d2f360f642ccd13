"""The evaluators of models with an encoder or without: the trained bound, importance weights, posterior means."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor

from lvm_lightning.densities import Bernoulli
from lvm_lightning.densities.likelihoods import CUT
from lvm_lightning.evaluation import NATS, Evaluator, Given, Measured
from lvm_lightning.evaluation.diagnostics import TAIL, active_units, effective_sample_size, heavy, pareto_shape
from lvm_lightning.objectives import Objective, elbo, iw_elbo

EXACT, SUM = "log p(x) by quadrature", "log p(x) by summation"
"""Where log p(x) is known exactly, its name."""
AT_LEAST = "log p(x) ≥ "
"""What the names of lower bounds on log p(x) begin with."""
POSTERIOR_MEAN = "E_q[z]"
MEAN_SAMPLES = 1024
"""Samples for the mean of a q(z|x) that has none in closed form: their noise is a tenth of what makes a unit active."""


def best_known(found: Mapping[str, Measured]) -> Measured:
    """What a test leads with: log p(x) itself, or the first lower bound on it, as evaluators begin with the best."""
    exact = found.get(EXACT) or found.get(SUM)
    return exact or next(measured for name, measured in found.items() if name.startswith(AT_LEAST))


class TrainedBound(Evaluator):
    """The bound that was trained, with new samples.

    Args:
        objective: the bound, J and N.
        note: what else its name says, such as ``i.i.d.``.
        rows: how many examples it takes at a time.
    """

    purpose = "test"

    def __init__(self, objective: Objective, note: str = "", rows: int | None = Evaluator.rows) -> None:
        self.objective, self.rows, self.J, self.N = objective, rows, objective.outer_samples, objective.inner_samples
        # pooled, all samples are inside one logarithm
        axes = f"J=1, N={self.J * self.N}" if objective.decoder_bound == "pooled" else f"J={self.J}, N={self.N}"
        self.name = f"{objective.bound.title} ({axes}{note and ', '}{note})"

    def measure(self, given: Given) -> Iterator[Measured]:
        """One measurement."""
        log_w = given.terms(self.J * self.N).log_w.view(self.J, self.N, -1)
        yield Measured(self.name, self.objective.bound_of(log_w), self.objective.bound.kind, self.J * self.N)


class ImportanceWeighted(Evaluator):
    """Abstract: the importance-weighted bound L_S, and how far its weights can be believed.

    Below 25 samples there is nothing to say of the weights.

    Args:
        samples: number S of weights of each image.
        widen: what L_S multiplies the standard deviations of q(z|x) by: a wider proposal has lighter weights where q is
            too narrow.

    Attributes:
        note: what else its name says, such as ``(fitted proposals)``.
        cure: what a reader can do about heavy weights.
    """

    SIZE, SHAPE = "effective sample size", "Pareto k of the weights"
    note = ""
    cure: str

    def __init__(self, samples: int, widen: float = 1.0) -> None:
        self.samples, self.widen, self.name = samples, widen, f"{AT_LEAST}L_{samples}{self.note}"

    def bound(self, log_w: Tensor) -> Iterator[Measured]:
        """L_S of log w ``(S, B)`` for each example, and what the weights say of themselves."""
        S = self.samples
        yield Measured(self.name, iw_elbo(log_w.double()), "lower bound", S)
        if S >= TAIL:
            size = effective_sample_size(log_w)
            yield Measured(self.SIZE, size, "stochastic estimate", S, f"of {S:,} samples")
            yield Measured(self.SHAPE, pareto_shape(log_w), "stochastic estimate", S, "none")

    def notes(self, found: Mapping[str, Measured]) -> list[str]:
        """A line for the reader of L_S where more than one image in a hundred has heavy weights.

        Nearly equal weights can have a heavy tail that carries nothing: where half of the samples count, it is no harm.
        """
        if self.SHAPE not in found:
            return []
        few, most = found[self.SIZE].values < self.samples / 2, heavy(self.samples)
        share = float(((found[self.SHAPE].values > most) & few).double().mean())
        if share <= 0.01:
            return []
        return [
            f"the importance weights of {share:.0%} of the images have Pareto k > {most:.2g}: there L_{self.samples} "
            f"is still a lower bound, but may lie far below log p(x); {self.cure}"
        ]


class ImportanceSampling(ImportanceWeighted):
    """ELBO, its two parts, and the importance-weighted bound L_S with how far its weights can be believed."""

    purpose = "test"
    cure = "raise evaluation.samples, widen the proposal with evaluation.widen, or use 'lvm-lightning anneal'"

    def measure(self, given: Given) -> Iterator[Measured]:
        """All of them, from the same S draws."""
        S, terms = self.samples, given.terms(self.samples)
        yield Measured("ELBO", elbo(terms.log_w), "lower bound", S)
        yield Measured("E_q log p(x|z)", terms.log_lik.mean(0), "stochastic estimate", S)
        yield Measured("KL(q(z|x) ‖ p(z))", (terms.log_q - terms.log_prior).mean(0), "stochastic estimate", S, NATS)
        log_w = terms.log_w if self.widen == 1 else given.terms(S, given.q.widened(self.widen)).log_w
        yield from self.bound(log_w)

    def derive(self, found: Mapping[str, Measured]) -> Iterator[Measured]:
        """How far the ELBO lies below the best that is known of log p(x)."""
        best, known = best_known(found), EXACT in found
        name = "log p(x) − ELBO" if known else f"log p(x) − ELBO ≥ {best.name.removeprefix(AT_LEAST)} − ELBO"
        kind = "stochastic estimate" if known else best.kind
        yield Measured(name, best.values - found["ELBO"].values, kind, self.samples, NATS)


class PosteriorMeans(Evaluator):
    """E_q[z] of each example, and the number of active units, which depends on how many examples there are."""

    purpose = "test"

    def measure(self, given: Given) -> Iterator[Measured]:
        """A vector for each example."""
        exact = given.q.kl_per_dimension() is not None  # the proposals whose location is their mean
        mean = given.q.location if exact else self._estimate(given)
        yield Measured(POSTERIOR_MEAN, mean, "exact" if exact else "stochastic estimate", 0 if exact else MEAN_SAMPLES)

    def _estimate(self, given: Given) -> Tensor:
        """From samples: their noise adds at most 0.001 of q's variance to that over images."""
        rows = given.batch.rows
        parts = [drawn.z.sum(0) for drawn in given.q.draws(MEAN_SAMPLES, rows, given.generator, 64 * rows.total)]
        return cast(Tensor, sum(parts)) / MEAN_SAMPLES

    def derive(self, found: Mapping[str, Measured]) -> Iterator[Measured]:
        """The number of active units."""
        mean = found[POSTERIOR_MEAN]
        active, (n, K) = torch.tensor([float(active_units(mean.values))]), mean.values.shape
        yield Measured("active units", active, mean.kind, mean.samples, f"of {K} latent dimensions", n, constant=True)


class WithoutLatent(Evaluator):
    """What the likelihood alone reaches, with the same parameters for every image: the training images' pixel means.

    Args:
        pixel_mean: ``(D,)``.
    """

    rows, UNSEEN = None, "pixels with a value that no training image has"

    def __init__(self, pixel_mean: Tensor) -> None:
        self.pixel_mean = pixel_mean

    @classmethod
    def of(cls, data: Any) -> "list[WithoutLatent]":
        """That of a data module that knows its pixel means; none for another."""
        return [cls(data.pixel_mean())] if hasattr(data, "pixel_mean") else []

    def measure(self, given: Given) -> Iterator[Measured]:
        """One measurement, and the number of pixels of each image whose value no training image has, ``(B, 1)``."""
        x, likelihood, mean = given.batch.x, given.model.likelihood, self.pixel_mean.to(given.batch.x)
        parameters = likelihood.parameters_of_mean(self.pixel_mean).unsqueeze(0).to(x)
        yield Measured(f"image-independent {type(likelihood).__name__}", likelihood.log_prob(parameters, x), "exact", 0)
        if isinstance(likelihood, Bernoulli):
            unseen = ((mean == 0) & (x > 0)) | ((mean == 1) & (x < 1))
            yield Measured(self.UNSEEN, unseen.sum(-1, keepdim=True), "exact", 0, "pixels")

    def notes(self, found: Mapping[str, Measured]) -> list[str]:
        """A line where a mean of 0 or 1 would give a test image the probability 0."""
        pixels = found[self.UNSEEN].values if self.UNSEEN in found else torch.zeros(1)
        if not bool(pixels.any()):
            return []
        return [
            f"{int(pixels.bool().sum()):,} of the {len(pixels):,} images have a pixel on that is never on in training, "
            "or off that always is: the image-independent Bernoulli's value for them is finite only because it cuts "
            f"pixel means at {CUT:g} and 1 − {CUT:g}; each of these {int(pixels.sum()):,} pixels costs "
            f"{-math.log(CUT):.1f} nats"
        ]


class Gap(Evaluator):
    """How far the trained bound lies below the exact log p(x).

    Args:
        bound: its evaluator.
    """

    def __init__(self, bound: TrainedBound) -> None:
        self.bound = bound

    def derive(self, found: Mapping[str, Measured]) -> Iterator[Measured]:
        """The difference, example by example."""
        if EXACT in found:
            lower, jensen = found[self.bound.name], self.bound.objective.inner_samples == 1
            name = "KL(p(z) ‖ p(z|x))" if jensen else "log p(x) − bound"
            yield Measured(name, found[EXACT].values - lower.values, "stochastic estimate", lower.samples, NATS)


class GreyLevels(Evaluator):
    """The bound on the probability of 256-valued images that a density of dequantised ones gives.

        log P(grey levels) ≥ E_u log p(x) + D log Δ

    log p(x) is the best that is known of it.

    Args:
        bin_width: Δ, the width of a grey level on the scale of x.
        pixels: D.

    Reference:
        Theis et al., A note on the evaluation of generative models, 2016, eq. 3–6.
    """

    def __init__(self, bin_width: float, pixels: int) -> None:
        self.volume = pixels * math.log(bin_width)

    def derive(self, found: Mapping[str, Measured]) -> Iterator[Measured]:
        """The bound."""
        lower = best_known(found)
        name = f"log P(256 grey levels) ≥ {lower.name.removeprefix(AT_LEAST)} + D log Δ"
        yield Measured(name, lower.values + self.volume, "lower bound", lower.samples, NATS)
