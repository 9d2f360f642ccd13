"""The model without an encoder: its proposal is the prior."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.quasirandom import SobolEngine

from lvm_lightning.data.loader import Batch
from lvm_lightning.densities import Bernoulli, Points, PriorProposal, StandardNormal, prior_points
from lvm_lightning.evaluation import Evaluator, Given
from lvm_lightning.evaluation.fitted import FittedImportance
from lvm_lightning.evaluation.quadrature import Exact, GridQuadrature, posterior_grid
from lvm_lightning.evaluation.standard import Gap, TrainedBound, WithoutLatent
from lvm_lightning.model import DECODED, LatentVariableModel
from lvm_lightning.modules.base import LatentVariableModule
from lvm_lightning.modules.optimizing import (
    LRSchedulerCallable,
    OptimizerCallable,
    require_callables,
    start_output_bias,
)
from lvm_lightning.networks import MLP
from lvm_lightning.objectives import BoundArgument, Objective, iw_elbo
from lvm_lightning.support.argtypes import ClosedUnitInterval, PositiveInt
from lvm_lightning.support.portions import mean_in_portions
from lvm_lightning.support.randomness import Purpose
from lvm_lightning.support.skipping import Skipping

DecoderCallable = Callable[[int, int], nn.Module]
OutputBias = Literal["logit", "log", "zero"]


class PriorIWAE(LatentVariableModule):
    """Latent-variable model trained on the importance-weighted bound with the prior as proposal.

        log p(x) ≥ E[ 1/J Σ_j log 1/N Σ_n p(x|z_{j,n}) ],   z_{j,n} ~ p(z) = N(0, I_K)

    The log-weights are log p(x|z) + (log p(z) − log p(z)) = log p(x|z). J = 1 is the prior-IWAE, N = 1 the
    Jensen bound, whose gap KL(p(z) ‖ p(z|x)) training drives to 0: the decoder learns to ignore z.

    Args:
        latent_dim: number K of latent dimensions.
        outer_samples: J, the number of bounds that are averaged.
        inner_samples: N, the number of samples inside the logarithm.
        bound: what the N log-weights of an example become: a function of :mod:`lvm_lightning.objectives`, or your own.
        points: ``iid``, ``sobol`` for a freshly scrambled Sobol set each step, or ``lattice`` for a freshly shifted
            lattice; each way a lower bound.
        share_points: whether the batch shares its points. Each example's bound has the same expectation either
            way; shared, the decoder runs on J·N points instead of B·J·N, and all pairs take one matrix product.
        roulette: samples with less than this share of an example's weight enter the gradient at random, and count for
            more there (Russian roulette, unbiased), where points are not shared. 0 leaves out only what is negligible.
        output_bias: where the output bias starts: ``logit`` of the training images' pixel means, their ``log``
            (the teaching source's choice), or ``zero``.
        decoder: (K, D) → network z ``(*, K)`` → logits ``(*, D)``.
        data_dim: number D of pixels.
        optimizer: parameters → optimiser.
        lr_scheduler: optimiser → learning-rate schedule, stepped once a training step; none keeps the rate.

    Raises:
        ValueError: if there is no sample (J·N < 1), the data are not binary, or roulette meets shared points.

    Reference:
        Burda et al., Importance Weighted Autoencoders, 2016, eq. 8, with q(z|x) = p(z).
    """

    def __init__(
        self,
        latent_dim: PositiveInt = 2,
        outer_samples: PositiveInt = 1,
        inner_samples: PositiveInt = 128,
        bound: BoundArgument = iw_elbo,
        points: Points = "sobol",
        share_points: bool = True,
        roulette: ClosedUnitInterval = 0.0,
        output_bias: OutputBias = "logit",
        decoder: DecoderCallable = MLP,
        data_dim: PositiveInt = 784,
        optimizer: OptimizerCallable = lambda parameters: torch.optim.Adam(parameters, lr=1e-3, fused=True),
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__(Objective(outer_samples, inner_samples, bound), optimizer, lr_scheduler)
        require_callables(decoder=decoder, bound=bound)
        if points == "sobol" and latent_dim > SobolEngine.MAXDIM:
            raise ValueError(
                f"latent_dim: Sobol points have at most {SobolEngine.MAXDIM:,} dimensions, got {latent_dim:,}; "
                "set points to iid"
            )
        if roulette and share_points:
            raise ValueError(
                f"roulette: needs points of each image's own, got {roulette:g} with points that the batch shares; set "
                "share_points to false, or roulette to 0"
            )
        self.save_hyperparameters()
        self.forget_callables()
        self._posterior: GridQuadrature | FittedImportance | None = None
        self.points, self.share_points, self.output_bias, self.roulette = points, share_points, output_bias, roulette
        self.model = LatentVariableModel(StandardNormal(latent_dim), decoder(latent_dim, data_dim), Bernoulli())

    def setup(self, stage: str) -> None:
        """Check the data, and start the output bias from the training images' pixel means."""
        super().setup(stage)
        if stage == "fit" and self.output_bias != "zero":
            starts = {"logit": self.model.likelihood.parameters_of_mean, "log": lambda mean: (mean + 1e-6).log()}
            start_output_bias(self.model.decoder, self.output_bias, self.datamodule, starts[self.output_bias])

    def propose(self, x: Tensor) -> PriorProposal:
        """The prior, for every image."""
        return PriorProposal(self.model.prior, x)

    def training_points(self, batch: Batch, purpose: Purpose, step: int) -> Tensor:
        """z ~ p(z) for the training bound, ``(J, N, B, K)`` or shared ``(J, N, 1, K)``."""
        generator = self.noise(purpose, step)
        if self.share_points:
            z = prior_points(self.model.prior, self.points, self.samples, 1, generator).to(batch.x)
            return z.view(self.J, self.N, 1, -1)
        return self._own_points(self.points, batch, generator)

    def _own_points(self, points: Points, batch: Batch, generator: torch.Generator) -> Tensor:
        """z ~ p(z) for each image, ``(J, N, B, K)``: this process's rows of the global batch's points."""
        z = prior_points(self.model.prior, points, self.samples, batch.total, generator).to(batch.x)
        here = slice(batch.start, batch.start + len(batch.x))
        return z[:, here].reshape(self.J, self.N, len(batch.x), z.shape[-1])

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """One step up the bound: mean over J of the N-sample log-mean-exp of p(x|z), z ~ p(z)."""
        z = self.training_points(batch, "train", self.global_step)
        if self.share_points:
            return self.climb(*self._objective(z, batch.x))
        skipping = self.skipping(len(batch.x))
        objective, growth = partial(self._objective, skipping=skipping), skipping.growth if skipping else None
        return self.climb(*mean_in_portions(objective, [z, batch.x], [*self.parameters()], self.samples, growth))

    def _objective(self, z: Tensor, x: Tensor, skipping: Skipping | None = None) -> tuple[Tensor, Tensor]:
        """What is raised and what is reported, ``(B,)``: z ``(J, N, B, K)`` or shared ``(J, N, 1, K)``."""
        log_w = self.model.log_likelihood(x, z, skipping)  # = log p(x, z) − log p(z)
        bound = self.objective.bound_of(log_w)
        return bound, bound.detach()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The training bound on held-out images, with the same points at every validation."""
        z = self.training_points(batch, "val", batch_idx)
        self.keep_bound(self.objective.bound_of(self._log_weights(batch.x, z)), batch_idx)

    def _log_weights(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x|z) in float32, a few images at a time where each has points of its own."""
        with self.full_precision():
            if z.shape[-2] == 1:
                return self.model.log_likelihood(x, z)
            rows = max(1, DECODED // self.samples)
            groups = zip(x.split(rows), z.split(rows, dim=-2), strict=True)
            return torch.cat([self.model.log_likelihood(*group) for group in groups], dim=-1)

    def evaluators(self) -> list[Evaluator]:
        """log p(x) by quadrature or a close bound, the trained bound with i.i.d. points, and what no latent reaches."""
        bound = TrainedBound(self.objective, "i.i.d.", rows=None)
        exact = Exact(self.settings.spacing)
        samples = self.settings.samples or self.SAMPLES
        best = FittedImportance(samples, self.noise("pilots", 0)) if exact.lacks(self.model) else exact
        return [best, bound, Gap(bound), *WithoutLatent.of(self.datamodule)]

    def on_predict_start(self) -> None:
        """Choose what finds E[z|x], by what a test would find log p(x) with."""
        if Exact(self.settings.spacing).lacks(self.model):
            self._posterior = FittedImportance(self.settings.samples or self.SAMPLES, self.noise("pilots", 0))
        else:
            self._posterior = posterior_grid(self.model, self.settings.spacing, self.device)

    def on_predict_end(self) -> None:
        """Let go of what was decoded: a grid takes 400 MB."""
        self._posterior = None

    def encode(self, x: Any) -> Tensor:
        """E[z|x], ``(n, K)``: the prior as proposal says nothing of x. What finds it serves all examples."""
        self.on_predict_start()
        try:
            return super().encode(x)
        finally:
            self.on_predict_end()

    def code(self, batch: Batch) -> Tensor:
        """E[z|x] of a batch, ``(B, K)``."""
        return self._posterior_mean(batch, 0)[0]

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """For each image, the trained bound and the posterior mean of z: by quadrature where K ≤ 2, else by sampling.

        Returns:
            ``bound`` ``(B,)`` in nats, ``z_mean`` = E[z|x] and the estimate of its error ``z_mean_error``, ``(B, K)``
            each (from half of the grid's points, or a standard error), and ``label`` ``(B,)``.
        """
        log_w = self._log_weights(batch.x, self._own_points("iid", batch, self.noise("predict", batch_idx)))
        with self.full_precision():
            mean, error = self._posterior_mean(batch, batch_idx)
        bound = self.objective.bound_of(log_w)
        return {"bound": bound, "z_mean": mean, "z_mean_error": error, "label": batch.label}

    def _posterior_mean(self, batch: Batch, number: int) -> tuple[Tensor, Tensor]:
        """E[z|x] and its error, ``(B, K)`` each; sampled a few images at a time, with the noise of a test."""
        if isinstance(self._posterior, GridQuadrature):
            return self._posterior.posterior_mean(batch.x)
        assert self._posterior is not None, "chosen when predictions start"
        found = []
        for first, group in batch.groups(FittedImportance.rows or batch.total):
            noise = self.noise("fitted", (number << 32) + first)
            found.append(self._posterior.posterior_mean(Given(self.model, self.propose(group.x), group, noise)))
        means, errors = zip(*found, strict=True)
        return torch.cat(means), torch.cat(errors)
