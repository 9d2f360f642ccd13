"""Lightning's Trainer with the ranges of its numbers, safe checkpoints, and this package's way to stop."""

import os
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.plugins import CheckpointIO
from lightning.pytorch.profilers import PassThroughProfiler, Profiler
from lightning.pytorch.utilities import rank_zero_info

from lvm_lightning.command.checkpoints import SafeCheckpointIO
from lvm_lightning.command.meeting import MEETING
from lvm_lightning.command.runs import as_list
from lvm_lightning.support import PROGRAM, STOP, NonNegativeInt, OrUnlimited, PositiveFloat, PositiveInt
from lvm_lightning.support.processor import has_bfloat16

LEAST_CORES = 16
"""Processes that may share a CPU, however few cores it has."""
OTHER_WEIGHTS = ("64", "64-true", "bf16-true", "16-true")
"""Precisions whose weights are not float32."""


def require_batches(name: str, value: int | float | None, least: int) -> None:
    """Refuse what is neither a number of batches nor a share of them. Lightning finds 0 as an interval late.

    Raises:
        ValueError: naming the argument.
    """
    share = isinstance(value, float) and 0 <= value <= 1 and (value > 0 or least == 0)
    if not (value is None or share or (isinstance(value, int) and value >= least)):
        raise ValueError(
            f"trainer.{name}: must be a whole number of batches, {least} or more, or a share of them from 0.0 to 1.0, "
            f"got {value}"
        )


def require_time(value: Any) -> None:
    """Refuse a time that is no time.

    Raises:
        ValueError: naming the argument.
    """
    try:
        told = "less than 0" if (Timer(value)._duration or 0) < 0 else ""
    except (OverflowError, TypeError, MisconfigurationException) as error:
        told = str(error)
    if told:
        raise ValueError(
            f"trainer.max_time: must be DD:HH:MM:SS or parts of it by name, 0 or more, got {value} ({told})"
        )


def precision_here(asked: Any, accelerator: Any) -> Any:
    """The precision that is asked for, or float32 for a processor on which bfloat16 would take 100 times as long."""
    on_processor = accelerator == "cpu" or (accelerator == "auto" and not torch.accelerator.is_available())
    if asked not in ("bf16-mixed", "bf16") or not on_processor or has_bfloat16("cpu"):
        return asked
    rank_zero_info(
        f"{PROGRAM}: note: trainer.precision {asked}: this processor has no bfloat16 products, and they would take 100 "
        "times as long; the networks compute in float32"
    )
    return "32-true"


def require_work(subcommand: str, settings: Namespace) -> None:
    """Refuse a subcommand that would end with nothing done.

    Raises:
        ValueError: naming the argument.
    """
    split = {"fit": "train", "validate": "val"}.get(subcommand, subcommand)
    if settings.get(f"limit_{split}_batches") == 0:
        raise ValueError(f"trainer.limit_{split}_batches: must be above 0 for {subcommand}, got 0; leave it out")


class NoProfiler(PassThroughProfiler):
    """Records nothing, in one empty context: Lightning enters it forty times a step, and its own is made anew."""

    _nothing = nullcontext()

    def profile(self, action_name: str) -> AbstractContextManager[None]:  # type: ignore[override]
        """The empty context."""
        return self._nothing


class Trainer(pl.Trainer):
    """Lightning's Trainer, its numbers with their ranges.

    Numbers are spelled out with their ranges, so that a wrong one is refused before anything starts; Lightning finds
    some of them late and others never. The limits also because ``typing`` may hand out Lightning's
    ``Union[int, float]`` with its members swapped, whichever some other library made first; then 1 on the command line
    would be 1.0, all batches. (No restricted type for them: it would take 1.0 for the whole number 1.)
    Checkpoints are written and read by :class:`SafeCheckpointIO`; :data:`.STOP` is what SIGTERM and Ctrl-C do.
    """

    def __init__(
        self,
        *,
        num_nodes: PositiveInt = 1,
        max_epochs: OrUnlimited | None = None,
        min_epochs: NonNegativeInt | None = None,
        max_steps: OrUnlimited = -1,
        min_steps: NonNegativeInt | None = None,
        limit_train_batches: int | float | None = None,
        limit_val_batches: int | float | None = None,
        limit_test_batches: int | float | None = None,
        limit_predict_batches: int | float | None = None,
        overfit_batches: int | float = 0.0,
        val_check_interval: int | float | None = None,
        check_val_every_n_epoch: PositiveInt | None = 1,
        log_every_n_steps: PositiveInt | None = None,
        accumulate_grad_batches: PositiveInt = 1,
        gradient_clip_val: PositiveFloat | None = None,
        gradient_clip_algorithm: Literal["norm", "value"] | None = None,
        max_time: str | timedelta | dict[str, int] | None = None,
        num_sanity_val_steps: OrUnlimited | None = None,
        profiler: Profiler | Literal["simple", "advanced", "pytorch"] | None = None,
        **kwargs: Any,
    ) -> None:
        given = {name: value for name, value in locals().items() if name not in ("self", "kwargs", "__class__")}
        for name, value in given.items():
            if name.startswith("limit_") or name in ("overfit_batches", "val_check_interval"):
                require_batches(name, value, least=1 if name == "val_check_interval" else 0)
        require_time(max_time)
        if str(kwargs.get("precision")) in OTHER_WEIGHTS:
            raise ValueError(
                "trainer.precision: must be 32-true, bf16-mixed or 16-mixed, as all evaluation is in float32, got "
                f"{kwargs['precision']}"
            )
        kwargs["precision"] = precision_here(kwargs.get("precision"), kwargs.get("accelerator", "auto"))
        plugins = as_list(kwargs.get("plugins"))
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            kwargs["plugins"] = [*plugins, SafeCheckpointIO()]
        if not torch.cuda.is_available():  # torch would ask the driver for a GPU at each step of Adam, for 0.15 ms
            os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)
        given["profiler"] = NoProfiler() if profiler is None else profiler
        super().__init__(**given, **kwargs)
        most = max(LEAST_CORES, os.cpu_count() or 0)
        if isinstance(self.accelerator, CPUAccelerator) and self.num_devices > most:
            raise ValueError(f"trainer.devices: must be at most {most} processes of this CPU, got {self.num_devices}")

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        """Meet the other processes first: torch, which connects them, waits for half an hour for one that has ended."""
        MEETING.ready(self)
        return super()._run(*args, **kwargs)

    def _run_stage(self) -> Any:
        """Take SIGTERM and Ctrl-C over again.

        Lightning has just put its own handler for SIGTERM in place. That one exits with status 0, saves nothing, and
        with several processes starts a broadcast from inside the handler, in the middle of whatever else they send.
        """
        STOP.install()
        return super()._run_stage()
