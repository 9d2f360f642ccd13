"""What the command says: how to go on, what happened to the machine, and what of Lightning's talk is left out."""

import contextlib
import logging
import shlex
import traceback
from collections.abc import Iterator
from pathlib import Path

import lightning.pytorch as pl
from jsonargparse import Namespace
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.utilities.rank_zero import _get_rank
from lightning.pytorch.trainer.states import TrainerFn

from lvm_lightning.callbacks.run_checkpoint import LAST
from lvm_lightning.command.checkpoints import read_checkpoint, run_of
from lvm_lightning.support import PROGRAM


def with_key(message: str, settings: Namespace) -> str:
    """A message whose first word is an argument of the model or of the data, with the argument's whole key.

    A class names its own argument, ``inner_samples: must be …``: it does not know under which key it was configured.
    """
    name = message.partition(":")[0]
    chosen = Namespace({group: settings.get(group) for group in ("model", "data")})
    keys = [key.replace("init_args.", "") for key in chosen.keys(branches=True)]
    found = [key for key in keys if "." in key and key.rpartition(".")[2] == name]
    return min(found, key=lambda key: key.count("."), default=name) + message.removeprefix(name)


def first_told(error: BaseException) -> str:
    """What a class said that refused its arguments: jsonargparse tells it among all else that it tried."""
    while error.__cause__ is not None and _raised_in(error).startswith("jsonargparse"):
        error = error.__cause__
    return str(error)


def _raised_in(error: BaseException) -> str:
    """Name of the module that raised an error."""
    frames = list(traceback.walk_tb(error.__traceback__))
    return str(frames[-1][0].f_globals.get("__name__", "")) if frames else ""


def how_to_go_on(trainer: pl.Trainer, subcommand: str) -> str:
    """The command that goes on from the last checkpoint, or from the finished batches of a test."""
    if subcommand == "test":
        return "run the same command again; a test goes on from its finished batches"
    if subcommand != "fit":
        return ""
    folder = getattr(trainer.checkpoint_callback, "dirpath", None)
    last = Path(folder or ".") / LAST
    if folder is None or not last.exists():
        return "nothing had been saved yet"
    where = f"--config {shlex.quote(str(run_of(last) / 'config.yaml'))} --ckpt_path {shlex.quote(str(last))}"
    if trainer.state.fn == TrainerFn.TESTING:
        return f"the training is done; go on with: {PROGRAM} test {where}"
    return f"saved after step {read_checkpoint(last)['global_step']:,}; go on with: {PROGRAM} fit {where}"


def what_happened(error: OSError | RuntimeError) -> str | None:
    """An error of the machine, or of the connection between processes, in words; None for any other."""
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error)
    lost = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "NCCL", "DistBackendError")
    if any(words in str(error) for words in lost):
        return "another process of this run has ended, or cannot be reached"
    return None


def process_rank() -> int:
    """Number of this process, as its launcher gave it."""
    return _get_rank() or 0


def started_by_lightning(trainer: pl.Trainer) -> bool:
    """Whether this is a process that the main one started: that one answers for both."""
    environment = getattr(trainer.strategy, "cluster_environment", None)
    return isinstance(environment, LightningEnvironment) and trainer.local_rank > 0


@contextlib.contextmanager
def advertisements_left_out() -> Iterator[None]:
    """Of Lightning's messages, leave out tips for its products, and what every run says: the seed is in its config."""
    left_out = ("💡 Tip", "Seed set to", "`weights_only` was not set")

    def wanted(record: logging.LogRecord) -> bool:
        return not any(words in record.getMessage() for words in left_out)

    names = ("lightning", "lightning.pytorch", "lightning.fabric")
    handlers = [handler for name in names for handler in logging.getLogger(name).handlers]
    with contextlib.ExitStack() as at_the_end:
        for handler in handlers:
            handler.addFilter(wanted)
            at_the_end.callback(handler.removeFilter, wanted)
        yield
