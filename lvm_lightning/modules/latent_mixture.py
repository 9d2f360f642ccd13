"""The model without an encoder whose latent takes finitely many values: log p(x) is a sum."""

from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lvm_lightning.data.loader import Batch
from lvm_lightning.densities import Bernoulli, LatentPoints, PriorProposal, StandardNormal, prior_points
from lvm_lightning.evaluation import Evaluator, Measured
from lvm_lightning.evaluation.standard import SUM, WithoutLatent
from lvm_lightning.evaluation.summation import Summation, log_likelihoods, log_marginal, posterior_mean
from lvm_lightning.model import LatentVariableModel
from lvm_lightning.modules.base import LatentVariableModule
from lvm_lightning.modules.optimizing import LRSchedulerCallable, OptimizerCallable, require_callables
from lvm_lightning.modules.prior_iwae import DecoderCallable
from lvm_lightning.networks import MLP
from lvm_lightning.objectives import Objective, iw_elbo
from lvm_lightning.support import PROGRAM
from lvm_lightning.support.argtypes import PositiveInt


class LatentMixture(LatentVariableModule):
    """Mixture of M components that a decoder makes of M trained points.

        log p(x) = log 1/M Σ_m p(x|z_m)

    Nothing is bounded: that is log p(x) itself. The points start as Sobol points of N(0, I). With the decoder of a
    :class:`.PriorIWAE`, whose L_N it is at the start for one set of points and N = M (``fit --weights_from``), training
    moves the points to where the images are.

    Args:
        latent_dim: number K of latent dimensions.
        components: number M of points.
        train_decoder: whether the decoder is trained too.
        decoder: (K, D) → network z ``(*, K)`` → logits ``(*, D)``.
        data_dim: number D of pixels.
        optimizer: parameters → optimiser.
        lr_scheduler: optimiser → learning-rate schedule, stepped once a training step; none keeps the rate.

    Raises:
        ValueError: if the data are not binary.

    Reference:
        Correia et al., Continuous Mixtures of Tractable Probabilistic Models, 2023, section "Latent optimisation".
    """

    def __init__(
        self,
        latent_dim: PositiveInt = 2,
        components: PositiveInt = 1024,
        train_decoder: bool = False,
        decoder: DecoderCallable = MLP,
        data_dim: PositiveInt = 784,
        optimizer: OptimizerCallable = lambda parameters: torch.optim.Adam(parameters, lr=1e-2, fused=True),
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__(Objective(1, components, iw_elbo), optimizer, lr_scheduler)
        require_callables(decoder=decoder)
        self.save_hyperparameters()
        self.forget_callables()
        self.train_decoder = train_decoder
        start = prior_points(StandardNormal(latent_dim), "sobol", components, 1, self.noise("pilots", 0))
        prior = LatentPoints(start.squeeze(1).to(torch.get_default_dtype()))
        self.model = LatentVariableModel(prior, decoder(latent_dim, data_dim), Bernoulli())
        self.model.decoder.requires_grad_(train_decoder)
        self._has_weights = train_decoder

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Take weights, as any module does."""
        self._has_weights = True
        return super().load_state_dict(*args, **kwargs)

    def on_fit_start(self) -> None:
        """Say so where the decoder is neither trained nor read from a checkpoint."""
        if not self._has_weights:
            rank_zero_info(
                f"{PROGRAM}: note: weights_from: none is given, and the points are trained under a decoder of random "
                "weights; give a run's, or set model.train_decoder to true"
            )

    def propose(self, x: Tensor) -> PriorProposal:
        """The prior, for every image."""
        return PriorProposal(self.model.prior, x)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """One step up log p(x)."""
        log_p = self.objective.bound_of(log_likelihoods(self.model, batch.x).unsqueeze(0))
        return self.climb(log_p, log_p.detach())

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """log p(x) of held-out images."""
        self.keep_bound(self._exact(batch.x), batch_idx)

    def validated(self, values: Tensor) -> Measured:
        """The same, which is no bound."""
        return Measured(SUM, values, "exact", 0)

    def _exact(self, x: Tensor) -> Tensor:
        with self.full_precision():
            return log_marginal(self.model, x)

    def log_marginal(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """log p(x), and 0 for what it may be off, ``(B, D) → (B,)`` each, nats."""
        log_p = self._exact(x)
        return log_p, torch.zeros_like(log_p)

    def evaluators(self) -> list[Evaluator]:
        """log p(x), and what no latent reaches."""
        return [Summation(), *WithoutLatent.of(self.datamodule)]

    def code(self, batch: Batch) -> Tensor:
        """E[z|x], ``(B, K)``."""
        return posterior_mean(self.model, batch.x)

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """For each image ``log_p`` ``(B,)`` in nats, E[z|x] as ``z_mean`` ``(B, K)``, and ``label`` ``(B,)``."""
        with self.full_precision():
            mean = posterior_mean(self.model, batch.x)
        return {"log_p": self._exact(batch.x), "z_mean": mean, "label": batch.label}
