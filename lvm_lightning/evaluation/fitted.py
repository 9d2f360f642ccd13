"""Evaluators with proposals that are fitted to each image."""

from abc import abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor

from lvm_lightning.densities import ExponentialPrior, StandardNormal, prior_points
from lvm_lightning.evaluation import Given, Measured
from lvm_lightning.evaluation.fitting import BestPilots, FittedProposals, Mixture
from lvm_lightning.evaluation.standard import ImportanceWeighted
from lvm_lightning.model import LatentVariableModel
from lvm_lightning.support import PositiveFloat, PositiveInt
from lvm_lightning.support.log_space import normalised_weights


class Fitted(ImportanceWeighted):
    """Abstract: L_S with proposals that are fitted to each example."""

    purpose, note = "fitted", " (fitted proposals)"
    cure = "raise evaluation.samples, or use 'lvm-lightning anneal'"

    @abstractmethod
    def proposals(self, given: Given) -> Mixture:
        """q(z|x) of the examples."""

    def measure(self, given: Given) -> Iterator[Measured]:
        """The bound, and how far its weights can be believed."""
        yield from self.bound(given.terms(self.samples, self.proposals(given)).log_w)

    def posterior_mean(self, given: Given) -> tuple[Tensor, Tensor]:
        """E[z|x] by self-normalised importance sampling, and its standard error, ``(B, K)`` each.

            m = Σ_s v_s z_s,   error² = Σ_s v_s² (z_s − m)²,   v_s = w_s / Σ_s w_s

        Reference:
            Owen, Monte Carlo theory, methods and examples, 2013, eq. 9.9.
        """
        model, x = given.model, given.batch.x
        drawn = list(self.proposals(given).draws(self.samples, given.batch.rows, given.generator, model.at_a_time))
        log_w = torch.cat([sum(model.log_joint(x, part.z), -part.log_q) for part in drawn])
        z, v = torch.cat([part.z for part in drawn]).double(), normalised_weights(log_w.double(), 0).unsqueeze(-1)
        mean = (v * z).sum(0)
        return mean.to(x), (v * (z - mean)).square().sum(0).sqrt().to(x)


class FittedImportance(Fitted):
    """L_S for a model without an encoder whose K is above 2: the fits start from the best of many prior points.

    Args:
        samples: S.
        pilots: CPU generator of the prior points that the fits start from.
    """

    PILOTS = 2**14

    def __init__(self, samples: int, pilots: torch.Generator) -> None:
        super().__init__(samples)
        self._pilots = pilots
        self._fitted: FittedProposals | None = None

    def lacks(self, model: LatentVariableModel) -> str:
        """A standard normal prior."""
        return "" if isinstance(model.prior, StandardNormal) else "a standard normal prior"

    def proposals(self, given: Given) -> Mixture:
        """q(z|x) of the examples; the pilot points are decoded once, for all batches."""
        model, x = given.model, given.batch.x
        if self._fitted is None:
            pilots = prior_points(model.prior, "sobol", self.PILOTS, 1, self._pilots).squeeze(1).to(x)
            starts = BestPilots(model.decode, model.likelihood, pilots)
            self._fitted = FittedProposals(model.decode, model.likelihood, starts)
        return self._fitted(x)


class FittedFromEncoder(Fitted):
    """L_S for a model with an encoder: the fit starts from where q(z|x) lies.

    Args:
        samples: S.
        steps: of the ascent.
        widen: what the standard deviations of Laplace's approximation are multiplied by.
    """

    SIZE, SHAPE = Fitted.SIZE + Fitted.note, Fitted.SHAPE + Fitted.note  # the encoder's own stand beside them
    cure = "raise evaluation.evaluators.samples, or use 'lvm-lightning anneal'"

    def __init__(self, samples: PositiveInt = 500, steps: PositiveInt = 6, widen: PositiveFloat = 1.1) -> None:
        super().__init__(samples)
        self.steps, self.wide = steps, widen

    def lacks(self, model: LatentVariableModel) -> str:
        """A prior of all real numbers."""
        return "a prior of all real numbers" if isinstance(model.prior, ExponentialPrior) else ""

    def proposals(self, given: Given) -> Mixture:
        """q(z|x) of the examples."""
        model = given.model

        def starts(_: Tensor) -> Tensor:
            return given.q.location.unsqueeze(0)

        fit = FittedProposals(model.decode, model.likelihood, starts, model.prior.log_prob, self.steps, self.wide)
        return fit(given.batch.x)
