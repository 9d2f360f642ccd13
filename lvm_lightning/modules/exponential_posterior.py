"""The toy model whose every quantity has a closed form."""

import torch
from torch import Tensor, nn

from lvm_lightning.data.loader import Batch
from lvm_lightning.densities.likelihoods import Gaussian
from lvm_lightning.densities.priors import ExponentialPrior
from lvm_lightning.densities.proposals import Exponential, Proposal
from lvm_lightning.evaluation import closed_forms as exponential
from lvm_lightning.evaluation.closed_forms import Problem
from lvm_lightning.evaluation.quantity import Kind, Quantity
from lvm_lightning.evaluation.rise import powers
from lvm_lightning.modules.base import LatentVariableModule, LRSchedulerCallable, OptimizerCallable
from lvm_lightning.objectives.bounds import iw_elbo, nested_iw_elbo
from lvm_lightning.objectives.estimators import Estimator, Objective
from lvm_lightning.support.argtypes import NonNegativeFloat, PositiveFloat, PositiveInt

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
        alpha: order of the Rényi bound, 0 ≤ α < 1; 0 is the importance-weighted bound.
        estimator: gradient estimator, which changes no value.
        test_samples: largest N of the importance-weighted bounds that ``test`` measures.
        optimizer: parameters → optimiser.
        lr_scheduler: optimiser → learning-rate schedule, stepped once a training step; none keeps the rate.

    Raises:
        ValueError: if there is no sample (J·N < 1) or α is outside [0, 1).
    """

    likelihood: Gaussian

    def __init__(
        self,
        rate: PositiveFloat = 1.0,
        sigma: PositiveFloat = 1.0,
        start: PositiveFloat = 1.0,
        outer_samples: PositiveInt = 128,
        inner_samples: PositiveInt = 1,
        alpha: NonNegativeFloat = 0.0,
        estimator: Estimator = "pathwise",
        test_samples: PositiveInt = 4096,
        optimizer: OptimizerCallable = lambda parameters: torch.optim.SGD(parameters, lr=1e-4),
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__(optimizer, lr_scheduler)
        self.objective = Objective(outer_samples, inner_samples, alpha, estimator)
        self.save_hyperparameters()
        self.forget_callables()
        self.J, self.N, self.test_samples = outer_samples, inner_samples, test_samples
        self.rate, self.sigma = rate, sigma
        self.prior, self.likelihood = ExponentialPrior(rate), Gaussian(sigma)
        self.log_rate = nn.Parameter(torch.tensor(start, dtype=torch.float64).log())

    @property
    def samples(self) -> int:
        """J·N."""
        return self.J * self.N

    @property
    def unit(self) -> str:
        """Nats for the whole data set."""
        return "nats"

    @property
    def latent_dtype(self) -> torch.dtype:
        """float64."""
        return torch.float64

    @property
    def theta(self) -> Tensor:
        """θ, ``()``."""
        return self.log_rate.detach().exp()

    def decode(self, z: Tensor) -> Tensor:
        """The mean of every observation is z itself."""
        return z

    def problem(self, x: Tensor) -> Problem:
        """What the closed forms depend on, for x ``(1, n)``."""
        return Problem.of(x[0], self.rate, self.sigma)

    def log_joint(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """log p(x|z) and log p(z): x ``(B, n)``, z ``(*S, B, 1)`` → ``(*S, B)`` each, nats."""
        means = self.decode(z).expand(*z.shape[:-1], x.shape[-1])
        return self.likelihood.log_prob(means, x.double()), self.prior.log_prob(z)

    def simulate(self, like: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """n observations of one z for each row of ``like`` ``(B, n)``, and the z ``(B, 1)``."""
        z = self.sample_prior(len(like), generator)
        return self.likelihood.sample(z.expand(like.shape), generator), z

    def proposal(self, x: Tensor) -> Proposal:
        """q_θ."""
        return Exponential(self.log_rate, len(x))

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """One step up the bound of log w = log p(x|z) + (log p(z) − log q_θ(z)), z ~ q_θ."""
        noise = self._noise((self.J, self.N, len(batch.x)), self.noise("train", self.global_step))
        draw = self.objective.draw(Exponential(self.log_rate, len(batch.x)), noise)
        log_lik, log_prior = self.log_joint(batch.x.double(), draw.z)
        bound = self.objective.bound((log_lik + (log_prior - draw.log_q)).detach())
        return self.maximise(self.objective.surrogate(draw, log_lik, log_prior), bound)

    def on_train_batch_end(self, outputs: object, batch: Batch, batch_idx: int) -> None:
        """Keep θ a positive number, whatever the learning rate."""
        with torch.no_grad():
            self.log_rate.clamp_(-LARGEST_LOG_RATE, LARGEST_LOG_RATE)

    def draw_log_weights(self, batch: Batch, samples: int, generator: torch.Generator) -> Tensor:
        """log w at S draws from q_θ for each row of x, ``(S, B)``, float64."""
        z, log_q = Exponential(self.log_rate, len(batch.x)).rsample(self._noise((samples, len(batch.x)), generator))
        log_lik, log_prior = self.log_joint(batch.x.double(), z)
        return log_lik + (log_prior - log_q)

    def log_marginal(self, x: Tensor) -> Tensor:
        """log p(x), exact: ``(B, n) → (B,)``."""
        rows = [exponential.log_marginal(Problem.of(row, self.rate, self.sigma)) for row in x]
        return torch.tensor(rows, dtype=torch.float64)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The training bound, 1,000 times; its mean and standard error are over these repeats."""
        log_w = self.draw_log_weights(self._repeated(batch), self.samples, self.noise("val", batch_idx))
        self.keep_bound(self.objective.bound(log_w.view(self.J, self.N, -1)), batch_idx)
        problem = self.problem(batch.x)
        self.log_dict({"val/theta": self.theta, "val/kl": exponential.kl(problem, self.theta)}, batch_size=1)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """The closed forms at θ, and bounds for N = 1, 4, 16, … from 1,000 repeats of the largest."""
        problem, theta = self.problem(batch.x), self.theta
        exact: list[tuple[str, float, Kind, str]] = [
            ("θ", float(theta), "parameter", "1/unit of x"),
            ("θ*, the ELBO's maximum", exponential.best_rate(problem), "exact", "1/unit of x"),
            ("ELBO(θ)", float(exponential.elbo(problem, theta)), "exact", "nats"),
            ("log p(x)", exponential.log_marginal(problem), "exact", "nats"),
            ("KL(q_θ(z) ‖ p(z|x)) = log p(x) − ELBO(θ)", float(exponential.kl(problem, theta)), "exact", "nats"),
        ]
        quantities = [Quantity(name, value, 0.0, unit, kind, "test", 0, 1) for name, value, kind, unit in exact]
        log_w = self.draw_log_weights(self._repeated(batch), self.test_samples, self.noise("test", batch_idx))
        for n in powers(4, self.test_samples):
            outer = self.test_samples // n
            bounds = nested_iw_elbo(log_w[: outer * n].view(outer, n, -1))
            name = f"importance-weighted bound L_{n}"
            quantities.append(
                Quantity.mean_of(name, bounds, kind="lower bound", split="test", samples=n, unit="nats", images=1)
            )
        self._measured = quantities

    def on_test_epoch_end(self) -> None:
        """Report what the test measured."""
        self.report(self._measured)

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """The importance-weighted bound L_{test_samples}, and the surrogate's mean 1/θ.

        Returns:
            ``bound`` ``(1,)`` in nats, ``z_mean`` ``(1, 1)`` and ``label`` ``(1,)``.
        """
        log_w = self.draw_log_weights(batch, self.test_samples, self.noise("predict", batch_idx))
        return {"bound": iw_elbo(log_w), "z_mean": (1 / self.theta).view(1, 1), "label": batch.label}

    def _repeated(self, batch: Batch) -> Batch:
        return Batch(batch.x.expand(REPEATS, -1), batch.label.expand(REPEATS), 0, REPEATS)

    def _noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.randn(*shape, 1, dtype=torch.float64, generator=generator).to(self.device)
