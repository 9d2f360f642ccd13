"""What every latent-variable LightningModule shares: optimiser, noise, and how a bound is raised, kept and reported."""

import math
from abc import ABC
from typing import Any

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics.aggregation import CatMetric

from lvm_lightning.data.loader import Batch
from lvm_lightning.data.protocol import Description, described, require, require_values
from lvm_lightning.evaluation import LOG_P, NATS, EvaluationSettings, Evaluator, Gathered, Measured, Quantity
from lvm_lightning.evaluation.evaluators import in_place, measure
from lvm_lightning.evaluation.quadrature import Exact, quadrature_of
from lvm_lightning.evaluation.report import FinishedBatches
from lvm_lightning.evaluation.standard import TrainedBound
from lvm_lightning.evaluation.tags import tags_of
from lvm_lightning.modules.inferring import InferringModule
from lvm_lightning.modules.optimizing import LRSchedulerCallable, OptimizerCallable, make_optimizer, tell_of_schedule
from lvm_lightning.objectives import Objective
from lvm_lightning.support.errors import NonFiniteError
from lvm_lightning.support.randomness import Purpose, generator_for
from lvm_lightning.support.values import REALS


class LatentVariableModule(InferringModule, ABC):
    """Abstract base: a model p(x, z), proposals q(z|x), and a bound to raise.

    Args:
        objective: the bound, its J·N samples, and its gradient's estimator.
        optimizer: parameters → optimiser.
        lr_scheduler: optimiser → learning-rate schedule, stepped once a training step; none keeps the rate.
    """

    SAMPLES = 5000
    """S of a test's L_S, unless the settings say otherwise."""
    IMAGES: int | None = None
    """How many examples a test is about, where its values are repeats."""

    def __init__(
        self, objective: Objective, optimizer: OptimizerCallable, lr_scheduler: LRSchedulerCallable | None
    ) -> None:
        super().__init__()
        self.objective, self.J, self.N = objective, objective.outer_samples, objective.inner_samples
        self.samples = self.J * self.N
        self._optimizer, self._lr_scheduler = optimizer, lr_scheduler
        self.settings = EvaluationSettings()
        self.data = Description(None, REALS)
        """What is known of the data, once they have been asked."""
        self.evaluation: list[Quantity] = []
        """What the last test measured."""
        self.validation: list[Quantity] = []
        """What the last validation measured."""
        self.per_example: dict[str, Tensor] = {}
        """The same for each test image, by name, ``(n,)``: for paired comparisons."""
        self.warnings: list[str] = []
        """What a reader of the last test should know before believing it."""
        self.finished: FinishedBatches | None = None
        """Where the results of finished test batches are kept, so that a test that was killed can go on."""
        self.logs_bound = True
        """Whether what the module logs goes to the loggers at once; a callback that hands it on says no."""
        self.training_steps: float = 0
        """Steps of the training, once there is one; infinite where it has no end."""
        self.noise_seed: int | None = None
        """Seed of all noise, where it is not the run's."""
        self.val_bound = CatMetric(nan_strategy="disable")  # keep_bound looks, and says more
        self._gathered, self._evaluators = Gathered(), list[Evaluator]()

    @property
    def units(self) -> dict[str, str]:
        """Units of log p(x), and of differences: nats for each image or data set, and of a density the scale of x."""
        nats = "nats" if self.data.shape is None else "nats per image"
        known = math.isfinite(self.data.support.high)
        scale = "[{:g}, {:g}]".format(*self.data.scale) if known else "the scale of the data"
        return {NATS: nats, LOG_P: f"{nats} (density on {scale})" if self.model.likelihood.density else nats}

    @property
    def datamodule(self) -> Any:
        """The trainer's data module, if it has one."""
        return getattr(self._trainer, "datamodule", None)

    @property
    def at_once(self) -> bool | None:
        """What ``log`` is told of the loggers: nothing, which lets Lightning decide, or that a callback hands it on."""
        return None if self.logs_bound else False

    def forget_callables(self) -> None:
        """Keep only plain hyper-parameters: a checkpoint with a function in it could not be read safely.

        The command line hands over plain descriptions of networks and optimisers; those stay.
        """
        self.remove_ignored_hparams([name for name, value in self.hparams.items() if callable(value)])

    def noise(self, purpose: Purpose, step: int) -> torch.Generator:
        """Generator of one step's noise, the same in every process and after a resume."""
        return generator_for(self.noise_seed, purpose, step)

    def full_precision(self) -> torch.autocast:
        """Context of all evaluation: float32, whatever precision trains."""
        return torch.autocast(self.device.type, enabled=False)

    def check_data(self, data: object) -> None:
        """Look at what a data module says of itself, and refuse it where the model gives its examples no probability.

        Raises:
            ValueError: naming what does not fit.
        """
        pixels, likelihood = self.hparams.get("data_dim"), self.model.likelihood
        names = {"model": type(self).__name__, "likelihood": type(likelihood).__name__}
        require(data, likelihood.support, pixels, **names)
        self.data = described(data, pixels)

    def setup(self, stage: str) -> None:
        """Refuse data that the model does not serve."""
        self.check_data(self.datamodule)

    def _on_before_batch_transfer(self, batch: Any, dataloader_idx: int = 0) -> Batch:
        """Any loader's batch, with labels or without, as the steps take it.

        The public hook, of which Lightning warns where it is overridden, stays free for a data module.
        """
        given = super()._on_before_batch_transfer(batch, dataloader_idx)
        return Batch.of(given, self.global_rank, self._trainer.world_size if self._trainer else 1)

    def on_train_batch_start(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Look at the values of an epoch's first batch: they may come from a loader that says nothing of them."""
        if batch_idx == 0:
            likelihood = self.model.likelihood
            pixels, name = self.hparams.get("data_dim"), type(likelihood).__name__
            require_values(batch.x, likelihood.support, pixels, likelihood=name)

    on_validation_batch_start = on_test_batch_start = on_train_batch_start

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimiser, and its schedule by the step."""
        steps = self.training_steps = self.trainer.estimated_stepping_batches
        optimizer, scheduler = self.make_optimizer(steps)
        if scheduler is None:
            return optimizer
        tell_of_schedule(optimizer, scheduler, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def make_optimizer(self, steps: float) -> tuple[Optimizer, LRScheduler | None]:
        """The optimiser and its schedule, for that many training steps; see :func:`make_optimizer`."""
        return make_optimizer(self.parameters(), self._optimizer, self._lr_scheduler, steps)

    def climb(self, objective: Tensor, bound: Tensor, penalty: Tensor | float = 0.0) -> dict[str, Tensor]:
        """What ``training_step`` returns: the loss is minus the mean of what is raised; an upper bound is lowered.

        Args:
            objective: the bound ``(B,)`` or its mean ``()``, or a surrogate with its value and an estimator's gradient.
            bound: the bound ``(B,)`` in nats, which is logged.
            penalty: what the loss takes besides.
        """
        mean = bound.detach().mean()
        if self.logs_bound and self._trainer is not None:
            self.log("train/bound", mean, prog_bar=True)
        downhill = objective.mean() if self.objective.bound.kind == "upper bound" else -objective.mean()
        return {"loss": downhill + penalty, "bound": mean}

    def keep_bound(self, values: Tensor, batch_idx: int) -> None:
        """Keep the bounds ``(B,)`` of a validation batch.

        Raises:
            NonFiniteError: if one of them is not finite.
        """
        wrong = (~values.isfinite()).nonzero()
        if len(wrong):
            raise NonFiniteError(
                f"val/bound: must be finite, got {float(values[wrong[0, 0]]):g} for image {int(wrong[0, 0])} of "
                f"validation batch {batch_idx} after step {self.trainer.global_step}; likely cause: training diverged, "
                "lower model.optimizer.lr or set trainer.gradient_clip_val; the last checkpoint stays as it was"
            )
        self.val_bound.update(values)

    def on_validation_epoch_end(self) -> None:
        """Log the validation bound's mean and standard error."""
        found = self.validated(self.gather(self.val_bound))
        self.validation = [bound := found.quantity("val", self.units, self.IMAGES)]
        self.log_dict({"val/bound": bound.value, "val/bound_stderr": bound.stderr}, logger=self.at_once)

    def validated(self, values: Tensor) -> Measured:
        """What a validation has measured of each image: the trained bound."""
        return Measured(TrainedBound(self.objective).name, values, self.objective.bound.kind, self.samples)

    def gather(self, metric: CatMetric) -> Tensor:
        """Values of all processes; the metric starts anew."""
        values = torch.as_tensor(metric.compute())
        metric.reset()
        return values

    def on_test_start(self) -> None:
        """Choose the evaluators; one of the settings takes the place of the test's own of the same class.

        Raises:
            ValueError: if the model lacks what one of the settings' evaluators needs.
        """
        given = self.settings.evaluators
        for evaluator in given:
            if lacking := evaluator.lacks(self.model):
                name = type(evaluator).__name__
                raise ValueError(
                    f"evaluation.evaluators: {name} needs {lacking}, got {type(self).__name__}; leave it out"
                )
        own = [e for e in self.evaluators() if not e.lacks(self.model)]
        self._gathered, self._evaluators = Gathered(), in_place(own, given)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """What the evaluators find of a batch: taken over from a test that was killed, or measured and kept."""
        name = f"batch{batch_idx}_rank{self.global_rank}of{self.trainer.world_size}"
        found = self.finished.recall(name) if self.finished is not None else None
        if found is None:
            found = self.measure(batch, batch_idx)
            if self.finished is not None:
                self.finished.keep(name, found)
        self._gathered.add(found, self.device)

    def log_marginal(self, x: Tensor) -> tuple[Tensor, Tensor] | None:
        """log p(x) and how far it may be off, ``(B, D) → (B,)`` each, nats, where there is an exact way; else None."""
        if Exact(self.settings.spacing).lacks(self.model):
            return None
        with self.full_precision():
            return quadrature_of(self.model, self.settings.spacing, self.device).measure(x)

    def measure(self, batch: Batch, number: int) -> list[Measured]:
        """The evaluators' measurements of a batch of that number."""
        return measure(self._evaluators, self.model, self.propose, batch, self.noise, number)

    def on_test_epoch_end(self) -> None:
        """Report all measurements, and what follows from them, as labelled quantities; :func:`tags_of` names them."""
        found = self._gathered.all()
        for evaluator in self._evaluators:
            found |= {derived.name: derived for derived in evaluator.derive(found)}
        self.warnings = [note for evaluator in self._evaluators for note in evaluator.notes(found)]
        scalars = [measured for measured in found.values() if measured.values.ndim == 1]
        self.evaluation = [measured.quantity("test", self.units, self.IMAGES) for measured in scalars]
        self.per_example = {m.name: m.values for m in scalars if not m.constant and self.IMAGES is None}
        self._evaluators = []  # a decoded grid takes 400 MB
        tags = tags_of(q.name for q in self.evaluation)
        for q in self.evaluation:
            tag = f"test/{tags[q.name]}"
            self.log_dict({tag: q.value, f"{tag}_stderr": q.stderr}, logger=self.at_once)
