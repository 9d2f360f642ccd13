"""Evaluators that come close to log p(x), or are it: quadrature, fitted proposals, and what follows from them."""

import math
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

from lvm_lightning.densities import Bernoulli, StandardNormal
from lvm_lightning.densities.points import prior_points
from lvm_lightning.evaluation import NATS, Evaluator, Given, Measured
from lvm_lightning.evaluation.fitted import FittedProposals
from lvm_lightning.evaluation.importance import ImportanceWeighted
from lvm_lightning.evaluation.quadrature import Quadrature, quadrature_of
from lvm_lightning.evaluation.standard import EXACT, TrainedBound
from lvm_lightning.model import LatentVariableModel

EXACT_ERROR = "error of the quadrature"


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
        yield Measured(EXACT, value, "exact", self._quadrature.points)
        yield Measured(EXACT_ERROR, error, "stochastic estimate", self._quadrature.points, NATS)


class FittedImportance(ImportanceWeighted):
    """L_S with proposals that are fitted to each example: for a model without an encoder whose K is above 2.

    Args:
        samples: S.
        pilots: CPU generator of the prior points that the fits start from.
    """

    PILOTS = 2**14
    purpose = "fitted"
    cure = "raise evaluation.samples, or use 'lvm-lightning anneal'"

    def __init__(self, samples: int, pilots: torch.Generator) -> None:
        super().__init__(samples, " (fitted proposals)")
        self._pilots = pilots
        self._fitted: FittedProposals | None = None

    def lacks(self, model: LatentVariableModel) -> str:
        """A standard normal prior."""
        return "" if isinstance(model.prior, StandardNormal) else "a standard normal prior"

    def measure(self, given: Given) -> Iterator[Measured]:
        """The bound, and how far its weights can be believed."""
        model, x = given.model, given.batch.x
        if self._fitted is None:
            pilots = prior_points(model.prior, "sobol", self.PILOTS, 1, self._pilots).squeeze(1).to(x)
            likelihood = model.likelihood
            self._fitted = FittedProposals(model.decode, likelihood.log_prob, likelihood.information, pilots)
        yield from self.bound(given.terms(self.samples, self._fitted(x)).log_w)


class WithoutLatent(Evaluator):
    """What the likelihood alone reaches, with the same parameters for every image: the training images' pixel means.

    Args:
        pixel_mean: ``(D,)``.
    """

    rows = None

    def __init__(self, pixel_mean: Tensor) -> None:
        self.pixel_mean = pixel_mean

    def measure(self, given: Given) -> Iterator[Measured]:
        """One measurement."""
        x, likelihood = given.batch.x, given.model.likelihood
        parameters = likelihood.parameters_of_mean(self.pixel_mean).unsqueeze(0).to(x)
        name = f"image-independent {type(likelihood).__name__}"
        yield Measured(name, likelihood.log_prob(parameters, x), "exact", 0)


class Gap(Evaluator):
    """How far the trained bound lies below the exact log p(x).

    Args:
        bound: its evaluator.
    """

    def __init__(self, bound: TrainedBound) -> None:
        self.bound = bound

    def derive(self, found: Mapping[str, Measured]) -> Iterable[Measured]:
        """The difference, example by example."""
        if EXACT in found:
            lower, jensen = found[self.bound.name], self.bound.objective.inner_samples == 1
            name = "KL(p(z) ‖ p(z|x))" if jensen else "log p(x) − bound"
            yield Measured(name, found[EXACT].values - lower.values, "stochastic estimate", lower.samples, NATS)


class GreyLevels(Evaluator):
    """The bound on the probability of 256-valued images that a density of dequantised ones gives.

        log P(grey levels) ≥ E_u log p(x) + D log Δ

    Args:
        bound: name of the bound on log p(x).
        bin_width: Δ, the width of a grey level on the scale of x.
        pixels: D.

    Reference:
        Theis et al., A note on the evaluation of generative models, 2016, eq. 3–6.
    """

    def __init__(self, bound: str, bin_width: float, pixels: int) -> None:
        self.bound, self.volume = bound, pixels * math.log(bin_width)

    def derive(self, found: Mapping[str, Measured]) -> Iterator[Measured]:
        """The bound."""
        lower = found[self.bound]
        name = f"log P(256 grey levels) {self.bound.removeprefix('log p(x) ')} + D log Δ"
        yield Measured(name, lower.values + self.volume, "lower bound", lower.samples, NATS)
