"""What a launcher of several processes says in the environment; Lightning is not imported yet when it is read."""

import os
import threading
import time

RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")
NUMBERS = (
    *RANKS,
    "WORLD_SIZE",
    "NODE_RANK",
    "GROUP_RANK",
    "LOCAL_WORLD_SIZE",
    "MASTER_PORT",
    "SLURM_LOCALID",
    "SLURM_NTASKS",
)


def wrong_variable() -> str | None:
    """What is wrong with the variables that must be whole numbers; Lightning fails on them when it is imported."""
    for name in NUMBERS:
        value = os.environ.get(name)
        if value is not None and not (value.isascii() and value.isdigit()):
            return (
                f"{name}: must be a whole number in the environment, got {value!r}; unset it, or let a launcher set it"
            )
        if value is not None and name == "MASTER_PORT" and int(value) >= 2**16:
            return f"{name}: must be a port, below {2**16:,}, got {value}; unset it, or let a launcher set it"
    return None


def rank_variable() -> str | None:
    """``NAME=number`` of the variable that gives this process a number above 0."""
    name = next((name for name in RANKS if name in os.environ), None)
    return f"{name}={os.environ[name]}" if name and int(os.environ[name]) > 0 else None


def another_speaks() -> bool:
    """Whether another process of this machine sees the same command line and files, and says what is wrong with them.

    The whole set of variables must be there: one that is left from something else must not make a command silent.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ or "MASTER_PORT" in os.environ:
        local, total = os.environ.get("LOCAL_RANK"), os.environ.get("WORLD_SIZE")
        if local and total:
            return 0 < int(local) < int(total)
    return int(os.environ.get("SLURM_LOCALID", "0")) > 0 and int(os.environ.get("SLURM_NTASKS", "1")) > 1


PARENT = "LVM_PARENT"
"""Variable by which a process that Lightning starts knows whose it is."""


def end_with_the_parent() -> None:
    """Let the process end when the one that started it for the same run has ended, however that came.

    It may wait for the other processes where no signal is looked at, and for half an hour.
    """
    parent = os.getppid()

    def wait() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    if os.environ.get(PARENT) == str(parent):
        threading.Thread(target=wait, daemon=True).start()
    os.environ[PARENT] = str(os.getpid())
