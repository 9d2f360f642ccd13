"""The best state of a run, and always its last."""

import signal
import time
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from lvm_lightning.callbacks.run_folder import has_stepped, run_folder
from lvm_lightning.support import STOP, NonNegativeFloat, OrUnlimited

LAST = "last.ckpt"


def has_stopped(stopping: EarlyStopping) -> bool:
    """Whether early stopping had ended the run that is resumed: a checkpoint has its counts, not its decision."""
    threshold = stopping.stopping_threshold
    reached = threshold is not None and bool(stopping.monitor_op(stopping.best_score, torch.tensor(threshold)))
    return reached or stopping.wait_count >= stopping.patience


class RunCheckpoint(ModelCheckpoint):
    """Lightning's ModelCheckpoint for the best state, and ``last.ckpt``, from which a run goes on bit for bit.

    ``last.ckpt`` is written at every validation, at the last step, each ``last_every_seconds``, and when the process is
    asked to stop (``STOP``). Lightning's own ``save_last`` renews it only when a best checkpoint is saved: once the
    validation bound stops rising it is no longer the last state, and a run that goes on from it would repeat steps.

    Args:
        mode: whether the monitored quantity is best where it is smallest or largest.
        save_top_k: how many of the best states are kept; -1 keeps all.
        last_every_seconds: longest time between two ``last.ckpt``: what a power cut may cost.
        **kwargs: those of ModelCheckpoint. What follows a validation is decided in it, and not at the end of the epoch,
            which a run that stops in between would not reach: Lightning decides that by the interval of validations.

    Raises:
        Stopped: after the step, or the validation, in which SIGTERM or Ctrl-C came, once the state is saved.
    """

    def __init__(
        self,
        *,
        mode: Literal["min", "max"] = "min",
        save_top_k: OrUnlimited = 1,
        last_every_seconds: NonNegativeFloat = 60.0,
        **kwargs: Any,
    ) -> None:
        kwargs["save_on_train_epoch_end"] = bool(kwargs.get("save_on_train_epoch_end"))
        super().__init__(mode=mode, save_top_k=save_top_k, **kwargs)
        self.last_every_seconds = last_every_seconds

    @cached_property
    def state_key(self) -> str:
        """Lightning's, put together once: it asks for the name at each hook."""
        return super().state_key

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let early stopping look at a validation when it ends, too."""
        super().setup(trainer, pl_module, stage)
        for stopping in trainer.early_stopping_callbacks:
            if stopping.monitor.startswith("val/"):
                stopping._check_on_train_epoch_end = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Parts that a killed run left behind go, also where no step is left."""
        super().on_fit_start(trainer, pl_module)
        figures = run_folder(trainer) / "figures"
        if trainer.is_global_zero and self.dirpath is not None:
            for part in [*Path(self.dirpath).glob("*.part"), *figures.glob("*.part")]:
                part.unlink(missing_ok=True)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on a signal waits for the end of the step."""
        super().on_train_start(trainer, pl_module)
        self._saved_at = time.monotonic()
        trainer.should_stop |= any(map(has_stopped, trainer.early_stopping_callbacks))
        STOP.deferring = True

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *step: Any) -> None:
        """Save after the last step, when it is time, and when asked to stop.

        When training has ended, Lightning counts a broken-off epoch as a whole one: so it is now or never.
        """
        super().on_train_batch_end(trainer, pl_module, *step)
        late = time.monotonic() - self._saved_at > self.last_every_seconds
        stopping, late = self._agreed(trainer, STOP.received is not None, late)
        due = stopping or late or trainer.global_step == trainer.max_steps
        if due and has_stepped(trainer) and not self._goes_on_at_once(trainer):
            self._save_last(trainer)
            self._raise_if(stopping and not self._over(trainer))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save after the last epoch, which may have no validation."""
        super().on_train_epoch_end(trainer, pl_module)
        if trainer.current_epoch + 1 == trainer.max_epochs:
            self._save_last(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the best state if this is it, and the last one in any case."""
        super().on_validation_end(trainer, pl_module)
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking and has_stepped(trainer):
            self._save_last(trainer)
            (stopping,) = self._agreed(trainer, STOP.received is not None)
            self._raise_if(stopping and not self._over(trainer))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A signal that came too late to stop the training stops what would follow, once the curve is written."""
        super().on_fit_end(trainer, pl_module)
        STOP.deferring = False
        self._raise_if(STOP.received is not None)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Nothing waits for the end of a step any more."""
        super().on_exception(trainer, pl_module, exception)
        STOP.deferring = False

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint's best state, wherever the run's folder lies now.

        Lightning forgets the best score where the path has changed, and would take the next state for the best.
        """
        best = {self._here(path): score for path, score in state_dict["best_k_models"].items()}
        if self.dirpath is not None and all(Path(path).exists() for path in best):
            one = ("best_model_path", "kth_best_model_path", "last_model_path")
            paths = {name: self._here(state_dict[name]) for name in one}
            state_dict = {**state_dict, **paths, "best_k_models": best, "dirpath": self.dirpath}
        super().load_state_dict(state_dict)

    def _here(self, path: str) -> str:
        return str(Path(self.dirpath or "") / Path(path).name) if path else path

    def _over(self, trainer: Trainer) -> bool:
        """Whether no step is left."""
        epochs = trainer.current_epoch + trainer.is_last_batch
        return trainer.should_stop or trainer.global_step == trainer.max_steps or epochs == trainer.max_epochs

    def _goes_on_at_once(self, trainer: Trainer) -> bool:
        """Whether a validation, which saves, follows this step; a checkpoint from before it would leave it out."""
        loop = trainer.fit_loop.epoch_loop
        fetcher = trainer.fit_loop._data_fetcher
        return fetcher is not None and not loop.val_loop.skip and loop._should_check_val_fx(fetcher)

    def _agreed(self, trainer: Trainer, *flags: bool) -> list[bool]:
        """What at least one process says: a signal may reach one alone, and clocks differ."""
        if trainer.world_size == 1:
            return list(flags)
        said = torch.tensor(flags, dtype=torch.int32, device=trainer.strategy.root_device)
        return [bool(flag) for flag in cast(Tensor, trainer.strategy.reduce(said, reduce_op="max")).tolist()]

    def _raise_if(self, stopping: bool) -> None:
        if stopping:
            STOP.end(STOP.received or signal.SIGTERM, agreed=True)  # none where another process was asked

    def _save_last(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(self._here(LAST))
        self._saved_at = time.monotonic()
