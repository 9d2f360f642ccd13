"""One bar for a whole training, with the time that is left."""

import logging
import math
import time
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm

from lvm_lightning.support.progress import Bar


def steps_of(trainer: Trainer) -> int | None:
    """Steps of the whole training, whether its steps or its epochs are counted; None where neither has an end."""
    steps = trainer.estimated_stepping_batches
    return int(steps) if 0 < steps < math.inf else None


def wanted(trainer: Namespace) -> bool:
    """Whether a run shall have the bar below, by its trainer's settings: not where it has none, or the user's own."""
    callbacks = trainer.get("callbacks")
    own = callbacks if isinstance(callbacks, list) else [callbacks]
    return trainer.get("enable_progress_bar") is not False and not any(isinstance(c, ProgressBar) for c in own)


class BatchBar(Bar):
    """A bar that Lightning renames at each data loader; here there is one."""

    def set_description(self, desc: str | None = None, refresh: bool | None = True) -> None:
        """Without the loader's number."""
        super().set_description((desc or "").partition(" DataLoader")[0], refresh)


def _handlers() -> list[logging.Handler]:
    return [handler for name in ("lightning", "lightning.pytorch") for handler in logging.getLogger(name).handlers]


class BoundProgressBar(TQDMProgressBar):
    """One bar over all steps of a training, with the time left and the bound in nats; others for test and predict.

    Redrawn by the clock: fast steps pay little, slow ones are seen at once. A validation is told in the same bar. A
    resumed training starts where it stands. In a log the bar is a few lines, see :class:`.Bar`.

    Args:
        seconds: least time between two redraws; a bar's last state is always drawn.
    """

    def __init__(self, seconds: float = 0.5) -> None:
        super().__init__(refresh_rate=1)
        self.seconds, self._drawn = seconds, -math.inf

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Make room for what Lightning tells while a bar is drawn."""
        super().setup(trainer, pl_module, stage)
        for handler in _handlers():
            handler.addFilter(self._make_room)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Lightning's messages need no room any more."""
        for handler in _handlers():
            handler.removeFilter(self._make_room)

    def init_train_tqdm(self) -> Tqdm:
        """Over all steps, from the one that the training stands at."""
        return self._bar("fit", total=steps_of(self.trainer), initial=self.trainer.global_step)

    @property
    def test_description(self) -> str:
        """Before the bar of a test."""
        return "test"

    @property
    def predict_description(self) -> str:
        """Before that of predictions."""
        return "predict"

    @property
    def validation_description(self) -> str:
        """Before that of a validation alone."""
        return "validate"

    def init_sanity_tqdm(self) -> Tqdm:
        """None is seen."""
        return Tqdm(disable=True)

    def init_validation_tqdm(self) -> Tqdm:
        """None is seen within a training, whose own bar tells of it."""
        return self._bar(self.validation_description) if self.trainer.state.fn == "validate" else Tqdm(disable=True)

    def init_test_tqdm(self) -> Tqdm:
        """Over the batches."""
        return self._bar(self.test_description)

    def init_predict_tqdm(self) -> Tqdm:
        """Over the batches."""
        return self._bar(self.predict_description)

    def on_train_epoch_start(self, trainer: Trainer, *_: Any) -> None:
        """No new bar."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Show the step."""
        if self._should_update(trainer.global_step, self.train_progress_bar.total):
            self._show_step(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing new."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the last step."""
        self._show_step(trainer, pl_module)
        super().on_train_end(trainer, pl_module)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Show the batch, within a training in its bar."""
        if trainer.state.fn == "validate":
            super().on_validation_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)
        elif self._train_progress_bar is not None and self._should_update(batch_idx + 1, math.inf):
            of = self.total_val_batches_current_dataloader
            self.train_progress_bar.set_postfix_str(f"validation {batch_idx + 1}/{of}")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """End the line, so that what is told next gets one of its own."""
        if self._train_progress_bar is not None and not self.train_progress_bar.disable:
            self._show_step(trainer, pl_module)
        for bar in self._bars():
            bar.close()
        self.teardown(trainer, pl_module, "")

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """The logged bounds, two decimals and their unit; no version number."""
        found = super().get_metrics(trainer, pl_module).items()  # the version is no float
        return {
            name.removeprefix("train/"): f"{value:.2f} nats"
            for name, value in found
            if isinstance(value, float) and math.isfinite(value)
        }

    def _bars(self) -> list[Any]:
        bars = (self._train_progress_bar, self._val_progress_bar, self._test_progress_bar, self._predict_progress_bar)
        return [bar for bar in bars if bar is not None and not bar.disable]

    def _make_room(self, record: logging.LogRecord) -> bool:
        for bar in self._bars():
            bar.clear()
        return True

    def _bar(self, name: str, **options: Any) -> Bar:
        return BatchBar(desc=name, disable=self.is_disabled, **options)

    def _show_step(self, trainer: Trainer, pl_module: LightningModule) -> None:
        bar = self.train_progress_bar
        if not bar.disable:
            bar.n = trainer.global_step
            bar.set_postfix(self.get_metrics(trainer, pl_module))

    def _should_update(self, current: int, total: int | float | None) -> bool:
        now = time.monotonic()
        due = current == total or now - self._drawn >= self.seconds
        self._drawn = now if due else self._drawn
        return self.is_enabled and due
