"""``python -m lvm_lightning`` is the console command ``lvm-lightning``."""

import sys


def run() -> int:
    """Run the command; the imports, some seconds of them, are interrupted as quietly as the rest."""
    sys.path.append("")  # a class of the user's own may lie in the folder where the command runs
    try:
        from lvm_lightning.command.cli import main
    except KeyboardInterrupt:
        return 130
    return main()


if __name__ == "__main__":
    sys.exit(run())
