"""What ends a process early: a user's mistake, told in one line; SIGTERM and Ctrl-C.

A training step is finished and saved before a signal stops it, everything else stops at once.
"""

import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

PROGRAM = "lvm-lightning"


class UserError(Exception):
    """A mistake that one line explains: the argument, the rule, the value received and the cure."""


class NonFiniteError(Exception):
    """A quantity that must be finite is not: where, why, and what is kept."""


def one_line(message: str) -> str:
    """A message without line breaks."""
    return " ".join(message.split())


def debugging() -> bool:
    """Whether the user asked for tracebacks, with ``LVM_DEBUG=1``."""
    return os.environ.get("LVM_DEBUG", "") not in ("", "0")


class Stopped(BaseException):
    """The process was asked to stop.

    Attributes:
        number: the signal.
        agreed: whether all processes of the run stop at the same point.
        advice: how to go on, once somebody knows.
        alone: whether the process answers for itself, and not one that started it.
    """

    def __init__(self, number: int, *, agreed: bool = False) -> None:
        self.number, self.agreed = signal.Signals(number), agreed
        self.advice, self.alone = "", True
        super().__init__(f"stopped by {'Ctrl-C' if self.number == signal.SIGINT else self.number.name}")


class StopSignals:
    """What SIGTERM and Ctrl-C do to the process: :data:`STOP`, once it is installed.

    They raise :class:`Stopped`; while ``deferring`` the first one is only noted in ``received``, for someone who raises
    it at a good moment, and the second raises.
    """

    def __init__(self) -> None:
        self.deferring = False
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def install(self) -> None:
        """Take the signals over, once more where a library took them in between."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before.setdefault(number, signal.signal(number, self))

    def restore(self) -> None:
        """Give them back as they were before the first :meth:`install`, and forget what was received."""
        for number, before in self._before.items():
            signal.signal(number, before)
        self._before, self.deferring, self.received = {}, False, None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if not self.deferring or self.received is not None:
            raise Stopped(number)
        self.received = signal.Signals(number)
        # Not print: its buffer may be in use by what the signal interrupted.
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, b"\nsaving at the end of this step ...\n")


STOP = StopSignals()
