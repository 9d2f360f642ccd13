"""The toy model whose every quantity has a closed form."""

import torch
from torch import Tensor, nn

from lvm_lightning.data.loader import Batch
from lvm_lightning.densities import Exponential, ExponentialPrior, Gaussian
from lvm_lightning.evaluation import Evaluator, closed_forms
from lvm_lightning.evaluation.closed_forms import ClosedForms, Problem
from lvm_lightning.evaluation.rise import Ladder
from lvm_lightning.model import LatentVariableModel
from lvm_lightning.modules.base import LatentVariableModule
from lvm_lightning.modules.optimizing import LRSchedulerCallable, OptimizerCallable, require_callables
from lvm_lightning.objectives import BoundArgument, Estimator, Objective, iw_elbo
from lvm_lightning.support.argtypes import PositiveFloat, PositiveInt

LARGEST_LOG_RATE = 300.0
"""|log θ| is cut here after each step: θ² and 1/θ² stay positive float64 numbers under any learning rate."""

REPEATS = 1000
"""Independent estimates of a bound in validation and test."""


class ExponentialPosterior(LatentVariableModule):
    """Variational inference in z ~ Exp(λ), x_i ~ N(z, σ²), with q_θ(z) = Exp(θ).

        ELBO(θ) = E_q[ Σ_i log N(x_i; z, σ²) + log p(z) − log q_θ(z) ],   z = e/θ, e ~ Exp(1)

    One data set of n observations is one example. Its log p(x), its posterior, the ELBO and the best θ* are closed
    forms (:mod:`lvm_lightning.evaluation.closed_forms`), which the estimates stand beside. Computed in float64.

    Args:
        rate: λ of the prior.
        sigma: σ of the observations.
        start: θ that training starts from.
        outer_samples: J, the number of bounds that are averaged.
        inner_samples: N, the number of samples inside the logarithm.
        bound: what the N log-weights become: a function of :mod:`lvm_lightning.objectives`, or your own.
        estimator: gradient estimator, which changes no value.
        optimizer: parameters → optimiser.
        lr_scheduler: optimiser → learning-rate schedule, stepped once a training step; none keeps the rate.

    Raises:
        ValueError: if there is no sample (J·N < 1).
    """

    SAMPLES, IMAGES = 4096, 1

    def __init__(
        self,
        rate: PositiveFloat = 1.0,
        sigma: PositiveFloat = 1.0,
        start: PositiveFloat = 1.0,
        outer_samples: PositiveInt = 128,
        inner_samples: PositiveInt = 1,
        bound: BoundArgument = iw_elbo,
        estimator: Estimator = "pathwise",
        optimizer: OptimizerCallable = lambda parameters: torch.optim.SGD(parameters, lr=1e-4),
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__(Objective(outer_samples, inner_samples, bound, estimator), optimizer, lr_scheduler)
        require_callables(bound=bound)
        self.save_hyperparameters()
        self.forget_callables()
        self.rate, self.sigma = rate, sigma
        self.log_rate = nn.Parameter(torch.tensor(start, dtype=torch.float64).log())
        # the mean of every observation is z itself
        self.model = LatentVariableModel(ExponentialPrior(rate), nn.Identity(), Gaussian(sigma))
        self.model.at_a_time = 2**23  # nothing is decoded: no activations to keep in the cache

    @property
    def theta(self) -> Tensor:
        """θ, ``()``."""
        return self.log_rate.detach().exp()

    def problem(self, x: Tensor) -> Problem:
        """What the closed forms depend on, for x ``(1, n)``."""
        return Problem.of(x[0], self.rate, self.sigma)

    def propose(self, x: Tensor) -> Exponential:
        """q_θ, the same for every example."""
        return Exponential(self.log_rate, len(x))

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """One step up the bound of log w = log p(x|z) + (log p(z) − log q_θ(z)), z ~ q_θ."""
        x = batch.x.double()
        noise = torch.randn(self.J, self.N, len(x), 1, dtype=x.dtype, generator=self.noise("train", self.global_step))
        draw = self.objective.draw(self.propose(x), noise.to(x))
        log_lik, log_prior = self.model.log_joint(x, draw.z)
        return self.climb(*self.objective.surrogate(draw, log_lik, log_prior))

    def on_train_batch_end(self, outputs: object, batch: Batch, batch_idx: int) -> None:
        """Keep θ a positive number, whatever the learning rate."""
        with torch.no_grad():
            self.log_rate.clamp_(-LARGEST_LOG_RATE, LARGEST_LOG_RATE)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The training bound, 1,000 times; its mean and standard error are over these repeats."""
        x = self.repeated(batch).x
        log_w = self.model.log_weights(x, self.propose(x), self.samples, self.noise("val", batch_idx))
        self.keep_bound(self.objective.bound_of(log_w.view(self.J, self.N, -1)), batch_idx)
        kl = closed_forms.kl(self.problem(batch.x), self.theta)
        self.log_dict({"val/theta": self.theta, "val/kl": kl}, batch_size=1, logger=self.at_once)

    def evaluators(self) -> list[Evaluator]:
        """The closed forms at θ, and bounds for N = 1, 4, 16, … from 1,000 repeats of the largest."""
        return [ClosedForms(), Ladder(self.settings.samples or self.SAMPLES)]

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """What the evaluators find of 1,000 repeats of the data set."""
        super().test_step(self.repeated(batch), batch_idx)

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """The importance-weighted bound of the largest N that ``test`` takes, and the surrogate's mean 1/θ.

        Returns:
            ``bound`` ``(1,)`` in nats, ``z_mean`` ``(1, 1)`` and ``label`` ``(1,)``.
        """
        x, samples = batch.x.double(), self.settings.samples or self.SAMPLES
        log_w = self.model.log_weights(x, self.propose(x), samples, self.noise("predict", batch_idx))
        return {"bound": iw_elbo(log_w), "z_mean": (1 / self.theta).view(1, 1), "label": batch.label}

    def log_marginal(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """log p(x), ``(B, n) → (B,)``, and that it is off by nothing."""
        rows = [closed_forms.log_marginal(Problem.of(row, self.rate, self.sigma)) for row in x]
        return torch.tensor(rows, dtype=torch.float64), torch.zeros(len(x), dtype=torch.float64)

    def repeated(self, batch: Batch) -> Batch:
        """The data set, 1,000 times."""
        return Batch(batch.x.double().expand(REPEATS, -1), batch.label.expand(REPEATS), 0, REPEATS)
