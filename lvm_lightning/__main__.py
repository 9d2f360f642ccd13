"""``python -m lvm_lightning`` is the console command ``lvm-lightning``."""

import contextlib
import os
import signal
import sys
from pathlib import Path

from lvm_lightning.command.environment import wrong_variable


def run() -> int:
    """Run the command; the imports, some seconds of them, are interrupted as quietly as the rest."""
    with contextlib.suppress(FileNotFoundError):  # a folder that is gone
        # A class of the user's own may lie in the folder where the command runs. By its name: while jsonargparse reads
        # a config, the current folder is the config's.
        sys.path.append(str(Path.cwd()))
    if (mistake := wrong_variable()) is not None:
        print(f"lvm-lightning: error: {mistake}", file=sys.stderr)
        return 2
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # of torch's warnings we tell what matters, in one line
    from lvm_lightning.command.quick import answer

    if (status := answer(sys.argv[1:])) is not None:
        return status
    try:
        from lvm_lightning.command.cli import main
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the key is held
        return 130
    return main()


if __name__ == "__main__":
    sys.exit(run())
