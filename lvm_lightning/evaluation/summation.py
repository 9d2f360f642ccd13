"""log p(x) of a finite mixture: a sum, and so exact."""

from collections.abc import Iterator
from typing import cast

from torch import Tensor

from lvm_lightning.densities import LatentPoints
from lvm_lightning.evaluation import Evaluator, Given, Measured
from lvm_lightning.evaluation.standard import SUM
from lvm_lightning.model import LatentVariableModel
from lvm_lightning.objectives import iw_elbo


def log_likelihoods(model: LatentVariableModel, x: Tensor) -> Tensor:
    """log p(x|z_m) at the points of the prior: x ``(B, D)`` → ``(M, B)``, nats."""
    return model.log_likelihood(x, cast(LatentPoints, model.prior).points.unsqueeze(1))


def log_marginal(model: LatentVariableModel, x: Tensor) -> Tensor:
    """log p(x) = log 1/M Σ_m p(x|z_m), ``(B, D) → (B,)``, nats, exact but for rounding."""
    return iw_elbo(log_likelihoods(model, x).double())


def posterior_mean(model: LatentVariableModel, x: Tensor) -> Tensor:
    """E[z|x] = Σ_m P(z_m|x) z_m, ``(B, D) → (B, K)``."""
    posterior = log_likelihoods(model, x).double().softmax(0).to(x)
    return posterior.mT @ cast(LatentPoints, model.prior).points


class Summation(Evaluator):
    """log p(x) of a model whose prior is a finite number of points."""

    def lacks(self, model: LatentVariableModel) -> str:
        """Such a prior."""
        return "" if isinstance(model.prior, LatentPoints) else "a prior of finitely many points"

    def measure(self, given: Given) -> Iterator[Measured]:
        """One measurement."""
        yield Measured(SUM, log_marginal(given.model, given.batch.x), "exact", 0)
