"""What ``validate`` leaves behind."""

from typing import cast

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from lvm_lightning.callbacks.board import log_bound
from lvm_lightning.evaluation import table
from lvm_lightning.evaluation.layout import Screen
from lvm_lightning.modules.base import LatentVariableModule


class ValidationReport(Callback):
    """Print what ``validate`` has measured, and log it at the number of steps that the weights were trained for.

    A validation of a training is not printed: the loggers and the progress bar have it.
    """

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep Lightning from logging it at step 0."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            cast(LatentVariableModule, pl_module).logs_bound = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print and log."""
        if trainer.state.fn != TrainerFn.VALIDATING:
            return
        module = cast(LatentVariableModule, pl_module)
        module.logs_bound = True
        found = {name: float(value) for name, value in trainer.callback_metrics.items()}
        log_bound(trainer, "val", {name[4:]: value for name, value in found.items() if name.startswith("val/")})
        if trainer.is_global_zero:
            print(f"\n{table(module.validation, Screen.here())}\n")
