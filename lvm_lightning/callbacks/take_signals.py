"""SIGTERM and Ctrl-C stay ours while Lightning runs."""

import lightning.pytorch as pl

from lvm_lightning.signals import StopSignals


class TakeSignals(pl.Callback):
    """Take the signals over again at the start of each stage.

    Lightning has put its own handler for SIGTERM in place by then. That one exits with status 0, saves nothing, and
    with several processes starts a broadcast from inside the handler, in the middle of whatever else they are sending.

    Args:
        stop: what a signal does.
    """

    def __init__(self, stop: StopSignals) -> None:
        self.stop = stop

    def on_sanity_check_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Before the first stage of ``fit``."""
        self.stop.install()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Before training."""
        self.stop.install()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Before ``validate``."""
        self.stop.install()

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Before ``test``."""
        self.stop.install()

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Before ``predict``."""
        self.stop.install()
