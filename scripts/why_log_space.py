"""Draw from an untrained model, and see an estimate of p(x) underflow: 'lvm-lightning log_space', as a script."""

import sys

from lvm_lightning.__main__ import run

if __name__ == "__main__":
    sys.argv[1:1] = ["log_space"]
    sys.exit(run())
