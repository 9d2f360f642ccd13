"""What ends a process early: a user's mistake, told in one line; SIGTERM, SIGHUP and Ctrl-C.

A training step is finished and saved before a signal stops it, everything else stops at once.
"""

import os
import signal
import stat
import sys
import threading
import time
from types import FrameType
from typing import Any, NoReturn

PROGRAM = "lvm-lightning"
HELD, PATIENCE = 1.0, 5.0
"""Seconds: within which the same signal again is a held key; which a stopped process has to end by itself."""


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
    """What SIGTERM, SIGHUP (a closed terminal) and Ctrl-C do to the process: :data:`STOP`, once it is installed.

    They raise :class:`Stopped`; while ``deferring`` the first one is only noted in ``received``, for someone who raises
    it at a good moment, and the second raises. A held key repeats: the same signal within a second is no second one,
    and what comes while the process ends disturbs nothing.
    """

    def __init__(self) -> None:
        self.deferring = False
        self.received: signal.Signals | None = None
        self._received_at = 0.0
        self._ended_at: float | None = None
        self._before: dict[signal.Signals, Any] = {}

    def install(self) -> None:
        """Take the signals over, once more where a library took them in between."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                if not (number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN):  # nohup
                    self._before.setdefault(number, signal.signal(number, self))

    def restore(self) -> None:
        """Give them back as they were before the first :meth:`install`, and forget what was received.

        A process that was stopped keeps them: the key may still be held while it ends.
        """
        self.deferring, self.received = False, None
        if self._ended_at is None:
            for number, before in self._before.items():
                signal.signal(number, before)
            self._before = {}

    def end(self, number: int, *, agreed: bool = False) -> NoReturn:
        """Raise :class:`Stopped`, once."""
        self.deferring, self._ended_at = False, time.monotonic()
        raise Stopped(number, agreed=agreed)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._ended_at is not None:
            if now - self._ended_at > PATIENCE:
                os._exit(128 + number)
            return
        if number == signal.SIGHUP:
            _leave_the_terminal()
        if number == self.received and now - self._received_at < HELD:
            return
        if not self.deferring or self.received is not None:
            self.end(number)
        self.received, self._received_at = signal.Signals(number), now
        # Not print: its buffer may be in use by what the signal interrupted.
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, b"\nsaving at the end of this step ...\n")


def _leave_the_terminal() -> None:
    """Write to nowhere what would go to a terminal that is closed: writing to that one fails."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in (1, 2):
        if stat.S_ISCHR(os.fstat(number).st_mode):
            os.dup2(nowhere, number)
    os.close(nowhere)


STOP = StopSignals()
