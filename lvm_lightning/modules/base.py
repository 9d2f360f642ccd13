"""What every latent-variable LightningModule shares: optimiser, noise, and how a bound is kept and reported."""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics.aggregation import CatMetric

from lvm_lightning.evaluation.quantity import Quantity
from lvm_lightning.likelihoods import Bernoulli
from lvm_lightning.randomness import Purpose, generator_for

OptimizerCallable = Callable[[Iterable[Parameter]], Optimizer]
LRSchedulerCallable = Callable[[Optimizer], LRScheduler]


class LatentVariableModule(pl.LightningModule, ABC):
    """Abstract base: a decoder p(x|z), a prior p(z), and a bound to raise.

    Args:
        optimizer: parameters → optimiser.
        lr_scheduler: optimiser → learning-rate schedule, stepped once a training step; none keeps the rate.
    """

    likelihood: Bernoulli
    evaluation: list[Quantity]
    """What the last test measured."""

    def __init__(self, optimizer: OptimizerCallable, lr_scheduler: LRSchedulerCallable | None) -> None:
        super().__init__()
        self._optimizer, self._lr_scheduler = optimizer, lr_scheduler
        self.evaluation = []
        self.val_bound = CatMetric(nan_strategy="error")

    @abstractmethod
    def decode(self, z: Tensor) -> Tensor:
        """Parameters of p(x|z), ``(*, K) → (*, D)``."""

    @abstractmethod
    def sample_prior(self, count: int, generator: torch.Generator) -> Tensor:
        """z ~ p(z), ``(count, K)``, on the module's device."""

    def forget_callables(self) -> None:
        """Keep only plain hyper-parameters: a checkpoint with a function in it could not be read safely.

        The command line hands over plain descriptions of networks and optimisers; those stay.
        """
        self.remove_ignored_hparams([name for name, value in self.hparams.items() if callable(value)])

    def setup(self, stage: str) -> None:
        """Refuse data that the likelihood gives no probability to."""
        values = getattr(getattr(self.trainer, "datamodule", None), "values", self.likelihood.support)
        if values != self.likelihood.support:
            raise ValueError(
                f"data: a {type(self.likelihood).__name__} likelihood needs {self.likelihood.support} images, got "
                f"{values} ones; set data.binarisation to static, dynamic or threshold"
            )

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimiser, and its schedule by the step.

        Raises:
            ValueError: if the schedule is shorter than the training: torch would stop it in the middle.
        """
        optimizer = self._optimizer(self.parameters())
        if self._lr_scheduler is None:
            return optimizer
        scheduler = self._lr_scheduler(optimizer)
        scheduled, steps = getattr(scheduler, "total_steps", math.inf), self.trainer.estimated_stepping_batches
        if scheduled < steps:
            raise ValueError(
                f"model.lr_scheduler: its total_steps must be at least the {steps:,} training steps, got "
                f"{scheduled:,}; set both to the same number"
            )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def noise(self, purpose: Purpose, step: int) -> torch.Generator:
        """Generator of one step's noise, the same in every process and after a resume."""
        return generator_for(torch.initial_seed(), purpose, step)

    def full_precision(self) -> torch.autocast:
        """Context of all evaluation: float32, whatever precision trains."""
        return torch.autocast(self.device.type, enabled=False)

    def maximise(self, bound: Tensor) -> dict[str, Tensor]:
        """What ``training_step`` returns for a bound ``(B,)``: the loss is minus its mean, and nothing else."""
        return {"loss": -bound.mean(), "bound": bound.detach().mean()}

    def on_validation_epoch_end(self) -> None:
        """Log the validation bound's mean and standard error."""
        bound = Quantity.mean_of(
            "bound", self.gather(self.val_bound), kind="lower bound", split="val", samples=self.samples
        )
        self.log_dict({"val/bound": bound.value, "val/bound_stderr": bound.stderr})

    @property
    @abstractmethod
    def samples(self) -> int:
        """Latent points an image that the trained bound takes."""

    def gather(self, metric: CatMetric) -> Tensor:
        """Per-image values of all processes; the metric starts anew."""
        values = torch.as_tensor(metric.compute())
        metric.reset()
        return values

    def report(self, quantities: list[Quantity]) -> None:
        """Keep a test's quantities and log them as ``test/<name>``."""
        self.evaluation = quantities
        for q in quantities:
            tag = "test/" + re.sub(r"[^A-Za-z0-9]+", "_", q.name).strip("_")
            self.log_dict({tag: q.value, f"{tag}_stderr": q.stderr})
