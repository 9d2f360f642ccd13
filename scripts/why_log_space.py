"""Draw from an untrained model, and see an estimate of p(x) underflow: python scripts/why_log_space.py --help."""

import argparse
from pathlib import Path

from lvm_lightning.studies.log_space import write_log_space

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("runs/why_log_space"), help="folder of log_space.png")
    parser.add_argument("--samples", type=int, default=128, help="draws from the prior")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.samples < 1:
        parser.error(f"--samples: must be at least 1, got {arguments.samples}")
    account, path = write_log_space(arguments.output, arguments.samples, arguments.seed)
    print(f"{account}\nwritten to {path}")
