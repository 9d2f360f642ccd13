"""The command in a process of its own, for what runs it several times."""

import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from lvm_lightning.support import PROGRAM, UserError

STOPPED = (129, 130, 143)
"""Exit status of a command that was asked to stop, by a terminal that closed, Ctrl-C or SIGTERM."""

LEFT_OVER = ("config.yaml", "hparams.yaml", "events.out.*", "figures/*.png")
"""What a run writes before its first checkpoint."""


def clear_left_over(folder: Path) -> None:
    """Remove what a run left that was stopped before its first checkpoint.

    Raises:
        UserError: if there is anything else.
    """
    files = [path for path in folder.rglob("*") if not path.is_dir()]
    if any(not any(map(path.match, LEFT_OVER)) for path in files):
        raise UserError(
            f"{folder} holds what no run without a checkpoint leaves; move it away, or name another --output"
        )
    shutil.rmtree(folder, ignore_errors=True)


def run_command(arguments: Sequence[str], folder: Path | None = None) -> int:
    """Run the command and wait for it; its exit status, which is negative where a signal ended it at once.

    It is handed SIGTERM and SIGHUP, and saves its state; Ctrl-C is left to it, which a terminal sends to both.

    Args:
        arguments: of the command.
        folder: where it is run; here by default.
    """
    print(f"$ {PROGRAM} {shlex.join(arguments)}", file=sys.stderr, flush=True)
    process = subprocess.Popen([sys.executable, "-m", "lvm_lightning", *arguments], cwd=folder)

    def hand_on(number: int, _: FrameType | None) -> None:
        process.send_signal(number)

    before = {number: signal.signal(number, hand_on) for number in (signal.SIGTERM, signal.SIGHUP)}
    before[signal.SIGINT] = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        return process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
