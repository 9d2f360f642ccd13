"""The processes of a run meet before it starts, in bounded time; what fails in all of them is told by one."""

import os
import queue
import re
import socket
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist
from lightning.pytorch import Trainer
from torch.distributed.constants import default_pg_timeout

from lvm_lightning.command.environment import another_speaks
from lvm_lightning.support import UserError

SECONDS_TO_COME = 300.0
"""How long the processes wait for each other: their imports may take minutes on a slow file system."""
SECONDS_TO_ANSWER = 10.0
"""How long what listens at the port has to answer as a process of the run does, which is a matter of milliseconds."""
SECONDS_TO_TELL = 5.0
"""How long a process that has failed waits to hear whether process 0 fails in the same way."""
SECONDS_MORE = 2.0
"""By how much torch takes longer than it is told."""
STEP = 0.1
"""Seconds between two looks."""
ENDED = "another process of this run has ended, or cannot be reached"

Made = TypeVar("Made")


class PortInUseError(RuntimeError):
    """Another program listens at MASTER_PORT; every process of the machine finds that."""

    def __init__(self) -> None:
        port = os.environ.get("MASTER_PORT")
        super().__init__(
            f"MASTER_PORT: must be a free port, got {port}, where another process listens; set another, or none"
        )


class Meeting:
    """What this process knows of the others of its run: :data:`MEETING`, once it has joined them.

    torch would let a process wait for half an hour where process 0 has ended, or has not got its port: nobody tells it.
    """

    def __init__(self) -> None:
        self._store: Any = None
        self._rank, self._total = 0, 1

    def join(self, trainer: Trainer, *, all_started: bool = False) -> None:
        """Meet the other processes, if there are any, and if that has not been done.

        Args:
            trainer: the run's.
            all_started: whether Lightning, where it starts the others itself, has done so by now.

        Raises:
            PortInUseError: if another program listens at the port.
            RuntimeError: if not every process comes in time.
        """
        environment = getattr(trainer.strategy, "cluster_environment", None)
        if self._store is not None or environment is None or trainer.world_size == 1:
            return
        if not (all_started or environment.creates_processes_externally):
            return
        self._rank, self._total = trainer.global_rank, trainer.world_size
        address, port = environment.main_address, environment.main_port
        os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = address, str(port)
        if self._rank > 0:
            _wait_for_a_listener(address, port)
        # The same store that torch makes for the process group, and takes again.
        seconds = SECONDS_TO_ANSWER if self._rank > 0 else SECONDS_TO_COME
        self._store = dist.PrefixStore("lvm_lightning", _in_time(lambda: self._meet(seconds), seconds))

    def ready(self, trainer: Trainer) -> None:
        """Join, and wait until every process is about to connect, or has failed on the way.

        Raises:
            RuntimeError: if one has failed.
        """
        self.join(trainer, all_started=True)
        if self._store is None or dist.is_initialized():
            return
        until = time.monotonic() + default_pg_timeout.total_seconds()
        try:
            ready = self._store.add("ready", 1)
            while ready < self._total and self._store.add("failed", 0) == 0 and time.monotonic() < until:
                time.sleep(STEP)
                ready = self._store.add("ready", 0)
        except dist.DistError as error:  # process 0 has taken the store with it
            raise RuntimeError(ENDED) from error
        if ready < self._total:
            raise RuntimeError(ENDED)

    def must_tell(self, message: str) -> bool:
        """Whether this process must tell its failure: process 0 tells one that all have, save for its numbers."""
        if self._store is None:
            return True
        said = re.sub(r"\d[\d.,e+-]*", "#", message)
        try:
            self._store.add("failed", 1)
            if self._rank > 0:
                self._store.wait(["told"], timedelta(seconds=SECONDS_TO_TELL))
                same = self._store.get("told") == said.encode()
                self._store.add("heard", 1)
                return not same
            self._store.set("told", said)
            until = time.monotonic() + SECONDS_TO_TELL
            while self._store.add("heard", 0) < self._total - 1 and time.monotonic() < until:
                time.sleep(STEP)
        except dist.DistError:  # process 0 has ended, or does not fail
            pass
        return True

    def another_tells(self, error: Exception) -> bool:
        """Whether it is another process that tells a failure which they all had before they met."""
        return self._store is None and isinstance(error, UserError | PortInUseError) and another_speaks()

    def _meet(self, seconds: float) -> Any:
        return next(dist.rendezvous("env://", self._rank, self._total, timeout=timedelta(seconds=seconds)))[0]


def _wait_for_a_listener(address: str, port: int) -> None:
    """Wait until something listens at the port.

    Raises:
        RuntimeError: if nothing does, in time.
    """
    until = time.monotonic() + SECONDS_TO_COME
    while True:
        try:
            socket.create_connection((address, port), timeout=SECONDS_TO_ANSWER).close()
        except OSError as error:
            if time.monotonic() > until:
                raise RuntimeError(
                    f"MASTER_PORT: process 0 must listen there, got {port} of {address} ({error.strerror or error}) "
                    f"after {SECONDS_TO_COME:g} s; see what process 0 said, and whether MASTER_ADDR is its machine"
                ) from error
            time.sleep(STEP)
        else:
            return


def _in_time(make: Callable[[], Made], seconds: float) -> Made:
    """What is made in time. It is made in a thread: torch waits for an answer without end, and looks at no signal.

    Raises:
        PortInUseError: if what listens at the port does not answer, or not as it should.
    """
    made: queue.Queue[Made | Exception] = queue.Queue()

    def work() -> None:
        try:
            made.put(make())
        except Exception as error:
            made.put(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        found = made.get(timeout=seconds + SECONDS_MORE)
    except queue.Empty:
        raise PortInUseError from None
    if not isinstance(found, Exception):
        return found
    if (came := re.search(r"(\d+)/(\d+) clients joined", str(found))) is not None:
        raise RuntimeError(
            f"MASTER_PORT: every process of the run must come to port {os.environ['MASTER_PORT']}, got {came[1]} of "
            f"{came[2]} within {seconds:g} s; see what the others said"
        ) from found
    raise PortInUseError from found


MEETING = Meeting()
