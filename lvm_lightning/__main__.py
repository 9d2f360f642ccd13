"""``python -m lvm_lightning`` is the console command ``lvm-lightning``."""

import sys

from lvm_lightning.cli import main

if __name__ == "__main__":
    sys.exit(main())
