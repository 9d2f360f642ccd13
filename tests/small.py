"""A small data set, and what runs a module on it."""

import os
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers.logger import Logger
from torch import Tensor

from lvm_lightning.data import StaticMNIST
from lvm_lightning.data.loader import Batch, ImageSet

D, B = 12, 5


class SmallImages(StaticMNIST):
    """StaticMNIST's loaders over 4 × 3 images whose digits are three noisy patterns."""

    image_shape = (4, 3)

    def setup(self, stage: str | None = None) -> None:
        pattern = torch.randint(2, (3, D), generator=torch.Generator().manual_seed(1))
        for split, n in [("train", 600), ("val", 100), ("test", 103)]:
            generator = torch.Generator().manual_seed(n)
            label = torch.randint(3, (n,), generator=generator)
            flip = torch.rand(n, D, generator=generator) < 0.1
            self.splits[split] = ImageSet((pattern[label] ^ flip).to(torch.uint8), label.to(torch.uint8))


class LostImages(SmallImages):
    """Images that cannot be read, in some processes.

    Args:
        ranks: numbers of these processes.
    """

    def __init__(self, ranks: list[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ranks = ranks

    def prepare_data(self) -> None:
        if (rank := int(os.environ["SLURM_PROCID"])) in self.ranks:
            raise OSError(5, "cannot be read", f"images of process {rank}")


def small_trainer(folder: Path, **options: Any) -> pl.Trainer:
    quiet: dict[str, Any] = {
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "logger": False,
        "accelerator": "cpu",
    }
    return pl.Trainer(default_root_dir=folder, enable_checkpointing=False, log_every_n_steps=1, **(quiet | options))


def images(n: int = B) -> Tensor:
    return torch.randint(2, (n, D), generator=torch.Generator().manual_seed(2)).float()


def batch_of(x: Tensor) -> Batch:
    return Batch.of(x)


class SignalAt(pl.Callback):
    """Send the process a signal when a step, or the validation after it, begins.

    Args:
        step: the step, from 1.
        number: the signal.
        validating: whether to wait for the validation.
        rank: the process that gets it.
    """

    def __init__(self, step: int, number: int = 15, validating: bool = False, rank: int = 0) -> None:
        self.step, self.number, self.validating, self.rank = step, number, validating, rank
        self.sent = False

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, i: int) -> None:
        if not self.validating and trainer.global_step + 1 == self.step:
            self._send(trainer)

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, i: int, j: int = 0
    ) -> None:
        if self.validating and trainer.global_step == self.step:
            self._send(trainer)

    def _send(self, trainer: pl.Trainer) -> None:
        if not self.sent and trainer.global_rank == self.rank:
            self.sent = True
            os.kill(os.getpid(), self.number)


class WaitFor(pl.Callback):
    """Wait, before a step or a test's first batch, until a file is there.

    Args:
        file: the file.
        step: the step, from 1.
    """

    def __init__(self, file: str, step: int = 1) -> None:
        self.file, self.step = Path(file), step

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, i: int) -> None:
        if trainer.global_step + 1 >= self.step:
            self._wait()

    def on_test_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, i: int, j: int = 0
    ) -> None:
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + 60
        while not self.file.exists() and time.monotonic() < deadline:
            time.sleep(0.01)


class NamedRuns(Logger):
    """A logger that works as W&B's does: it has a folder for all runs, and names a run when it starts.

    Args:
        name: what the run is called.
        save_dir: folder of all runs.
        version: the run's own name, chosen at random where it is not given.
        project: folder in it.
    """

    def __init__(
        self, name: str | None = None, save_dir: str = ".", version: str | None = None, project: str | None = None
    ) -> None:
        super().__init__()
        self._save_dir, self._version, self._project = save_dir, version, project or "lightning_logs"

    name = property(lambda self: self._project)
    version = property(lambda self: self._version)
    save_dir = property(lambda self: self._save_dir)

    @property
    def experiment(self) -> None:
        """Starting names the run."""
        self._version = self._version or uuid.uuid4().hex[:8]

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        pass

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        pass
