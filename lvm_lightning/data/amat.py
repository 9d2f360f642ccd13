"""Larochelle & Murray's static MNIST: three text files of 784 space-separated bits a row."""

import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lvm_lightning.data.mnist import PIXELS, DataFileError, plain_or_zipped, unzipped

FILES = {"train": 50_000, "valid": 10_000, "test": 10_000}
"""Rows of ``binarized_mnist_{name}.amat``."""


def load_amat(folder: Path, name: str) -> Tensor:
    """One split of the literature's static MNIST.

    Args:
        folder: folder with ``binarized_mnist_{train,valid,test}.amat``, plain or ``.gz``.
        name: ``train``, ``valid`` or ``test``.

    Returns:
        Bits ``(n, 784)``, uint8, in the file's order (the test file's is not random: it is sorted by digit).

    Raises:
        DataFileError: if the file is missing, cannot be read, or is not rows of 784 zeros and ones.
    """
    plain = folder / f"binarized_mnist_{name}.amat"
    path = plain_or_zipped(plain)
    try:
        text = unzipped(path)
    except FileNotFoundError:
        raise DataFileError(
            f"{plain}: found neither this file nor {path.name}; put Larochelle & Murray's "
            "binarized_mnist_{train,valid,test}.amat (plain or .gz) into one folder and name it as data.folder"
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataFileError(f"{path}: not a readable file ({error}); it is damaged: get it again") from None
    return _parse(text, path, FILES[name])


def _parse(text: bytes, path: Path, rows: int) -> Tensor:
    strange = text.translate(None, b"01 \t\r\n")
    if strange:
        line = 1 + text.count(b"\n", 0, text.index(strange[:1]))
        raise DataFileError(
            f"{path}: must hold only zeros and ones, got {chr(strange[0])!r} in line {line}; "
            "binarise the images first, or get the file again"
        )
    lines = [row for line in text.split(b"\n") if (row := line.translate(None, b" \t\r"))]  # blank ones do no harm
    bits = np.frombuffer(b"".join(lines), dtype=np.uint8) - ord("0")
    if len(lines) != rows or {len(line) for line in lines} != {PIXELS}:
        raise DataFileError(
            f"{path}: must hold {rows:,} lines of {PIXELS} bits, got {len(lines):,} lines with "
            f"{bits.size:,} bits; it is truncated or not that file: get it again"
        )
    return torch.from_numpy(bits.reshape(rows, PIXELS))
