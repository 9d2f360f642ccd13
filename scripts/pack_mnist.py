"""Pack MNIST's four IDX files into the file that ships with the package, and print its SHA-256."""

import argparse
import hashlib
import lzma
from pathlib import Path

from lvm_lightning.data.mnist import packaged_file, plain_or_zipped, unzipped
from lvm_lightning.support.files import replacing

IDX_HEADERS = {"images-idx3-ubyte": 16, "labels-idx1-ubyte": 8}
"""How MNIST's files are called behind the name of their set, and the length of their header."""


def pack_mnist(raw: Path, path: Path) -> str:
    """Pack MNIST's four IDX files (plain or ``.gz``) from the folder ``raw`` into the xz file ``path``.

    The content is all images, then all labels, one byte a value, training set before test set.

    Returns:
        SHA-256 of the packed file.

    Raises:
        FileNotFoundError: if an IDX file is in the folder neither plain nor as ``.gz``.
    """
    parts = [(raw / f"{of}-{kind}", header) for kind, header in IDX_HEADERS.items() for of in ("train", "t10k")]
    content = b"".join(unzipped(plain_or_zipped(path))[header:] for path, header in parts)
    lzma2 = {"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "pb": 0, "lc": 4, "lp": 0}
    packed = lzma.compress(content, format=lzma.FORMAT_XZ, filters=[lzma2])
    with replacing(path) as file:
        file.write(packed)
    return hashlib.sha256(packed).hexdigest()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("raw", type=Path, help="folder with the IDX files, plain or .gz")
    parser.add_argument("--output", type=Path, default=packaged_file(), help="file to write (default: %(default)s)")
    arguments = parser.parse_args()
    print(pack_mnist(arguments.raw, arguments.output))
