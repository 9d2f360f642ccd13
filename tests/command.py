"""The real command in a process of its own, forked from one that has the slow imports behind it."""

import errno
import fcntl
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Mapping
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import NamedTuple

from matplotlib.layout_engine import ConstrainedLayoutEngine

from tests.conftest import ROOT

STEPS = 30
SMALL_FIT: list[object] = [
    *["fit", "--config", ROOT / "configs" / "prior_iwae.yaml", "--data", "tests.small.SmallImages"],
    *["--data.batch_size", 50, "--data.eval_batch_size", 50, "--model.data_dim", 12, "--model.decoder.hidden", "[8]"],
    *["--model.inner_samples", 4, "--trainer.max_steps", STEPS],
    *["--trainer.log_every_n_steps", 3, "--trainer.val_check_interval", 5, "--pictures.side", 1],
    *["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"],
    *["--evaluation.spacing", 0.2],
]
"""A run of 2.5 epochs that takes a second."""
SERVER = multiprocessing.get_context("forkserver")
PRELOADED = (
    "lvm_lightning.command.cli",
    "tests.small",
    "tests.unpacked",
    "torch.utils.tensorboard",
    "PIL.PngImagePlugin",
)
SERVER.set_forkserver_preload(list(PRELOADED))


class Finished(NamedTuple):
    """What a command left behind: exit status, standard output and standard error."""

    status: int
    out: str
    err: str


def _be_the_command(arguments: list[str], folder: str, environment: Mapping[str, str], out: str, err: str) -> None:
    for number, path in [(1, out), (2, err)]:
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.chdir(folder)
    os.environ.update(environment)
    from lvm_lightning.command import meeting

    ConstrainedLayoutEngine.execute = lambda self, fig: None  # type: ignore[method-assign]  # half of a short run
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job hands on that it is ignored
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # and nohup that this one is
    if limit := os.environ.get("LVM_TEST_FILE_LIMIT"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
    if free := os.environ.get("LVM_TEST_FREE_BYTES"):
        shutil.disk_usage = lambda path: shutil._ntuple_diskusage(int(free), 0, int(free))
    if os.environ.get("LVM_TEST_NO_LOCKS"):
        fcntl.flock = _no_locks
    if seconds := os.environ.get("LVM_TEST_SECONDS_TO_MEET"):
        meeting.SECONDS_TO_COME = meeting.SECONDS_TO_ANSWER = float(seconds)
    sys.argv = ["lvm-lightning", *arguments]
    from lvm_lightning.__main__ import run

    sys.exit(run())


def _no_locks(*_: object) -> None:
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


class Command:
    """``lvm-lightning`` with these arguments, running in a folder."""

    def __init__(self, folder: Path, *arguments: object, environment: Mapping[str, str] | None = None) -> None:
        logs = folder.parent / f"{folder.name}.logs"
        logs.mkdir(exist_ok=True)
        self._out, self._err = (logs / f"{time.monotonic_ns()}.{name}" for name in ("out", "err"))
        call = ([str(a) for a in arguments], str(folder), dict(environment or {}), str(self._out), str(self._err))
        self.process: ForkServerProcess = SERVER.Process(target=_be_the_command, args=call)
        self.process.start()

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if it still runs."""
        assert self.process.pid is not None
        if self.process.is_alive():
            os.kill(self.process.pid, number)

    def err(self) -> str:
        """Standard error so far."""
        return self._err.read_text() if self._err.exists() else ""

    def wait(self, seconds: float = 120) -> Finished:
        """Wait for its end; a command that does not end is killed, and that is a failure."""
        self.process.join(seconds)
        if self.process.is_alive():
            self.process.kill()
            raise TimeoutError(f"still running after {seconds} s:\n{self.err()}")
        assert self.process.exitcode is not None
        return Finished(self.process.exitcode, self._out.read_text() if self._out.exists() else "", self.err())


def command(folder: Path, *arguments: object, environment: Mapping[str, str] | None = None) -> Finished:
    """Run it to its end."""
    return Command(folder, *arguments, environment=environment).wait()
