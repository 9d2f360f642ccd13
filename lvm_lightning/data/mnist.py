"""MNIST as it ships inside the package: one xz file, checked by its SHA-256 whenever it is read."""

import gzip
import hashlib
import lzma
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch

from lvm_lightning.data.loader import ImageSet
from lvm_lightning.support.files import replacing

PIXELS = 28 * 28
TRAIN, TEST = 60_000, 10_000
SHA256 = "e9b40985d011bd5a36195bdeb447f26b7824f3acd02e51a1636098d784d5fe98"
"""SHA-256 of the packed file ``mnist.xz``."""

IDX_HEADERS = {"images-idx3-ubyte": 16, "labels-idx1-ubyte": 8}
"""How MNIST's files are called behind the name of their set, and the length of their header."""


class DataFileError(Exception):
    """A data file that is missing, cannot be downloaded, or does not hold what it must."""


def packaged_file() -> Path:
    """Path of the packed MNIST."""
    return Path(str(files("lvm_lightning.data") / "mnist.xz"))


def load_mnist(path: Path | None = None) -> tuple[ImageSet, ImageSet]:
    """Grey MNIST, 60,000 training and 10,000 test images.

    Args:
        path: the packed file; the package's own by default.

    Returns:
        The training and the test set: images ``(n, 784)`` with values 0..255 and labels ``(n,)``, all uint8.

    Raises:
        DataFileError: if the file's SHA-256 is not the packed file's.
    """
    path = path or packaged_file()
    packed = path.read_bytes()
    digest = hashlib.sha256(packed).hexdigest()
    if digest != SHA256:
        raise DataFileError(
            f"{path}: the file must have SHA-256 {SHA256[:16]}…, got {digest[:16]}… ({len(packed):,} bytes): "
            "it is truncated or damaged; install lvm-lightning again"
        )
    raw = torch.from_numpy(np.frombuffer(lzma.decompress(packed), dtype=np.uint8).copy())
    images, labels = raw.split([(TRAIN + TEST) * PIXELS, TRAIN + TEST])
    whole = ImageSet(images.view(-1, PIXELS), labels)
    return whole.rows(None, TRAIN), whole.rows(TRAIN, None)


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


def plain_or_zipped(path: Path) -> Path:
    """The file, or where it is not there its ``.gz``."""
    return path if path.exists() else path.with_name(path.name + ".gz")


def unzipped(path: Path) -> bytes:
    """The content of a plain file or a ``.gz``."""
    content = path.read_bytes()
    return gzip.decompress(content) if path.suffix == ".gz" else content
