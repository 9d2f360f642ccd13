"""The best state of a run, and always its last."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn


class RunCheckpoint(ModelCheckpoint):
    """Lightning's ModelCheckpoint for the best state, and ``last.ckpt`` at every validation and the last step.

    Lightning's own ``save_last`` renews ``last.ckpt`` only when a best checkpoint is saved: once the validation bound
    stops rising it is no longer the last state, and a run that goes on from it would repeat steps.
    """

    @property
    def state_key(self) -> str:
        """Its name in a checkpoint. Lightning asks for it at each hook; its own is put together from arguments."""
        return "RunCheckpoint"

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save after the last step: when training has ended Lightning counts a broken-off epoch as a whole one."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if trainer.global_step == trainer.max_steps:
            self._save_last(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save after the last epoch, which may have no validation."""
        super().on_train_epoch_end(trainer, pl_module)
        if trainer.current_epoch + 1 == trainer.max_epochs:
            self._save_last(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the best state if this is it, and the last one in any case."""
        super().on_validation_end(trainer, pl_module)
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._save_last(trainer)

    def _save_last(self, trainer: pl.Trainer) -> None:
        assert self.dirpath is not None
        trainer.save_checkpoint(Path(self.dirpath) / "last.ckpt")
