"""Pack MNIST's four IDX files into the file that ships with the package, and print its SHA-256."""

import argparse
from pathlib import Path

from lvm_lightning.data.mnist import pack_mnist, packaged_file

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("raw", type=Path, help="folder with the IDX files, plain or .gz")
    parser.add_argument("--output", type=Path, default=packaged_file(), help="file to write (default: %(default)s)")
    arguments = parser.parse_args()
    print(pack_mnist(arguments.raw, arguments.output))
