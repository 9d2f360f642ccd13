"""What runs leave and how they go on: their checkpoints, and the configuration of a run in its folder."""

import importlib
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import yaml
from jsonargparse import Namespace
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.utilities.rank_zero import _get_rank
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn

from lvm_lightning.callbacks.run_checkpoint import LAST
from lvm_lightning.callbacks.run_folder import run_folder
from lvm_lightning.command.checkpoints import SETTINGS, read_checkpoint, run_of, settings_of
from lvm_lightning.support import PROGRAM, UserError, free_bytes, replacing

CHECKPOINTS, OTHER_FILES = 3, 20_000_000
"""Checkpoints that a run may have at a time, each with two moments of every weight; bytes of everything else."""
SECONDS_TO_END = 5
"""How long another process of a failed run has to end by itself."""


def newest_checkpoint(settings: Namespace, name: str) -> Path:
    """``last`` or ``best`` of the newest run under the configured logger's folder.

    Raises:
        UserError: if no run there has that checkpoint.
    """
    folder = folder_of_runs(settings)
    newest = max(folder.glob(f"*/checkpoints/{name}.ckpt"), key=lambda path: path.stat().st_mtime, default=None)
    if newest is None:
        raise UserError(
            f"ckpt_path: no run under {folder} has a {name!r} checkpoint; run '{PROGRAM} fit' or give a path"
        )
    return newest


def continue_run_folder(settings: Namespace, checkpoint: Path) -> None:
    """Point the logger at the folder of the checkpoint's run, so that its results lie together."""
    run = run_of(checkpoint)
    logger = logger_arguments(settings)
    if checkpoint.parent.name == "checkpoints" and "version" in logger:
        logger.save_dir, logger.version = str(run.parent.parent), run.name
        logger["project" if "project" in logger else "name"] = run.parent.name


def require_room(folder: Path, weights: int) -> None:
    """Refuse to start where the disk has no room for the run's checkpoints.

    Args:
        folder: where the run goes.
        weights: bytes of the model's parameters.

    Raises:
        OSError: naming the folder.
    """
    need, free = CHECKPOINTS * 3 * weights + OTHER_FILES, free_bytes(folder)
    if free < need:
        raise OSError(
            f"{folder}: the disk has {free / 1e6:,.0f} MB left, a run needs about {need / 1e6:,.0f} MB; free some, or "
            "name another folder as --trainer.logger.save_dir"
        )


def logger_arguments(settings: Namespace) -> Namespace:
    """Arguments of the configured logger, empty where there is none."""
    logger = as_list(settings.trainer.get("logger"))
    arguments = logger[0].get("init_args") if logger and isinstance(logger[0], Namespace) else None
    return cast(Namespace, arguments or Namespace())


def folder_of_runs(settings: Namespace) -> Path:
    """Where the configured logger puts its runs; W&B's names that folder by its project."""
    logger = logger_arguments(settings)
    name = logger.get("name") or ""
    if "project" in logger:
        name = logger.project or os.environ.get("WANDB_PROJECT", "lightning_logs")
    return Path(logger.get("save_dir") or ".") / name


def numbers_runs(settings: Namespace) -> bool:
    """Whether the logger numbers its runs, as TensorBoard's and the CSV one do; others name a run when it starts."""
    logger = as_list(settings.trainer.get("logger"))
    if not logger or not isinstance(logger[0], Namespace):
        return False
    module, _, name = logger[0].class_path.rpartition(".")
    return issubclass(getattr(importlib.import_module(module), name), TensorBoardLogger | CSVLogger)


def as_list(value: Any) -> list[Any]:
    """None is no entry; a single value is one entry."""
    return value if isinstance(value, list) else [] if value is None else [value]


def how_to_go_on(trainer: Trainer, subcommand: str) -> str:
    """The command that goes on from the last checkpoint, or from the finished batches of a test."""
    if subcommand == "test":
        return "run the same command again; a test goes on from its finished batches"
    if subcommand != "fit":
        return ""
    folder = getattr(trainer.checkpoint_callback, "dirpath", None)
    last = Path(folder or ".") / LAST
    if folder is None or not last.exists():
        return "nothing had been saved yet"
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    saved = [
        callback.folder for callback in callbacks if isinstance(callback, SaveRunConfig) and hasattr(callback, "folder")
    ]
    config = next(iter(saved), run_of(last)) / "config.yaml"
    where = f"--config {shlex.quote(str(config))} --ckpt_path {shlex.quote(str(last))}"
    if trainer.state.fn == TrainerFn.TESTING:
        return f"the training is done; go on with: {PROGRAM} test {where}"
    return f"saved after step {read_checkpoint(last)['global_step']:,}; go on with: {PROGRAM} fit {where}"


def process_rank() -> int:
    """Number of this process, as its launcher gave it."""
    return _get_rank() or 0


def started_by_lightning(trainer: Trainer) -> bool:
    """Whether this is a process that the main one started: that one answers for both."""
    environment = getattr(trainer.strategy, "cluster_environment", None)
    return isinstance(environment, LightningEnvironment) and trainer.local_rank > 0


def end_the_others(trainer: Trainer) -> None:
    """See to it that no process that Lightning started outlives the one that started it.

    They end by themselves, unless they wait for one that has failed: where they wait, no signal is looked at. After a
    run that has ended well they may still have something to write.
    """
    for process in getattr(trainer.strategy.launcher, "procs", []):
        if isinstance(process, subprocess.Popen):
            try:
                process.wait(SECONDS_TO_END if sys.exception() else None)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class SaveRunConfig(SaveConfigCallback):
    """Save the resolved configuration beside a training run, and in its checkpoints what a resumed run must share.

    Evaluating a run leaves its ``config.yaml`` alone. The saved file names no checkpoint and no version: whoever trains
    with it starts a new run.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Save when training starts."""
        self.folder: Path = run_folder(trainer)
        plain = self.parser.dump(self.config, skip_none=False, skip_validation=True)
        self._settings = settings_of(yaml.safe_load(plain))
        if stage == "fit":
            super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the file, in one step. Lightning asks one process."""
        config = self.config.clone()
        config["ckpt_path"] = None
        logger = logger_arguments(config)
        for name in {"version", "id"} & set(vars(logger)):
            logger[name] = None
        with replacing(self.folder / self.config_filename) as file:
            file.write(self.parser.dump(config, skip_none=False).encode())

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the settings that the steps depend on, as plain values."""
        checkpoint[SETTINGS] = self._settings
