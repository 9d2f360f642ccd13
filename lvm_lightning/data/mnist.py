"""MNIST as it ships inside the package: one xz file, checked by its SHA-256 whenever it is read."""

import gzip
import hashlib
import lzma
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lvm_lightning.support.files import replacing

PIXELS = 28 * 28
TRAIN, TEST = 60_000, 10_000
SHA256 = "e9b40985d011bd5a36195bdeb447f26b7824f3acd02e51a1636098d784d5fe98"
"""SHA-256 of the packed file ``mnist.xz``."""

# Images, then labels, of the training set, then of the test set; the number is the length of the IDX header.
IDX_FILES = (
    ("train-images-idx3-ubyte", 16),
    ("t10k-images-idx3-ubyte", 16),
    ("train-labels-idx1-ubyte", 8),
    ("t10k-labels-idx1-ubyte", 8),
)


class DamagedFileError(Exception):
    """A data file whose bytes are not the expected ones."""


class GreyImages(NamedTuple):
    """Grey images and labels of a training and a test set: uint8, ``(n, D)`` and ``(n,)``."""

    train_images: Tensor
    test_images: Tensor
    train_labels: Tensor
    test_labels: Tensor


def packaged_file() -> Path:
    """Path of the packed MNIST."""
    return Path(str(files("lvm_lightning.data") / "mnist.xz"))


def load_mnist(path: Path | None = None) -> GreyImages:
    """Grey MNIST, 60,000 training and 10,000 test images.

    Args:
        path: the packed file; the package's own by default.

    Returns:
        Images ``(n, 784)`` with values 0..255 and labels ``(n,)``, both uint8.

    Raises:
        DamagedFileError: if the file's SHA-256 is not the packed file's.
    """
    path = path or packaged_file()
    packed = path.read_bytes()
    digest = hashlib.sha256(packed).hexdigest()
    if digest != SHA256:
        raise DamagedFileError(
            f"{path}: the file must have SHA-256 {SHA256[:16]}…, got {digest[:16]}… ({len(packed):,} bytes): "
            "it is truncated or damaged; install lvm-lightning again"
        )
    raw = torch.from_numpy(np.frombuffer(lzma.decompress(packed), dtype=np.uint8).copy())
    images, labels = raw.split([(TRAIN + TEST) * PIXELS, TRAIN + TEST])
    return GreyImages(*images.view(-1, PIXELS).split([TRAIN, TEST]), *labels.split([TRAIN, TEST]))


def pack_mnist(raw: Path, path: Path) -> str:
    """Pack MNIST's four IDX files (plain or ``.gz``) from the folder ``raw`` into the xz file ``path``.

    The content is all images, then all labels, one byte a value, training set before test set.

    Returns:
        SHA-256 of the packed file.

    Raises:
        FileNotFoundError: if an IDX file is in the folder neither plain nor as ``.gz``.
    """
    content = b"".join(_read_maybe_gz(raw / name)[header:] for name, header in IDX_FILES)
    lzma2 = {"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "pb": 0, "lc": 4, "lp": 0}
    packed = lzma.compress(content, format=lzma.FORMAT_XZ, filters=[lzma2])
    with replacing(path) as file:
        file.write(packed)
    return hashlib.sha256(packed).hexdigest()


def _read_maybe_gz(path: Path) -> bytes:
    zipped = path.with_name(path.name + ".gz")
    if path.exists():
        return path.read_bytes()
    if zipped.exists():
        return gzip.decompress(zipped.read_bytes())
    raise FileNotFoundError(f"{path}: neither this file nor {zipped.name} exists")
