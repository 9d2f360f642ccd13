"""The configuration of a run, saved beside it and in its checkpoints."""

from functools import cached_property
from typing import Any

import lightning.pytorch as pl
import yaml
from lightning.pytorch.cli import SaveConfigCallback

from lvm_lightning.callbacks.run_folder import run_folder
from lvm_lightning.command.checkpoints import SETTINGS, settings_of
from lvm_lightning.command.runs import logger_arguments
from lvm_lightning.support.files import replacing


class SaveRunConfig(SaveConfigCallback):
    """Save the resolved configuration beside a training run, and in its checkpoints what a resumed run must share.

    Evaluating a run leaves its ``config.yaml`` alone. The saved file names no checkpoint and no version: whoever trains
    with it starts a new run.
    """

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Save when training starts."""
        self._folder = run_folder(trainer)
        if stage == "fit":
            super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Write the file, in one step. Lightning asks one process."""
        config = self.config.clone()
        config["ckpt_path"] = None
        if "version" in (logger := logger_arguments(config)):
            logger.version = None
        with replacing(self._folder / self.config_filename) as file:
            file.write(self.parser.dump(config, skip_none=False).encode())

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the settings that the steps depend on, as plain values."""
        checkpoint[SETTINGS] = self._settings

    @cached_property
    def _settings(self) -> dict[str, Any]:
        return settings_of(yaml.safe_load(self.parser.dump(self.config, skip_none=False, skip_validation=True)))
