"""Larochelle & Murray's static MNIST: three text files of 784 space-separated bits a row."""

import gzip
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lvm_lightning.data.mnist import PIXELS

FILES = {"train": 50_000, "valid": 10_000, "test": 10_000}
"""Rows of ``binarized_mnist_{name}.amat``."""


class AmatError(Exception):
    """An ``.amat`` file that is missing, unreadable, or not of the expected form."""


def load_amat(folder: Path, name: str) -> Tensor:
    """One split of the literature's static MNIST.

    Args:
        folder: folder with ``binarized_mnist_{train,valid,test}.amat``, plain or ``.gz``.
        name: ``train``, ``valid`` or ``test``.

    Returns:
        Bits ``(n, 784)``, uint8, in the file's order (the test file's is not random: it is sorted by digit).

    Raises:
        AmatError: if the file is missing, cannot be read, or is not rows of 784 zeros and ones.
    """
    plain = folder / f"binarized_mnist_{name}.amat"
    path = plain if plain.exists() else plain.with_name(plain.name + ".gz")
    try:
        text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except FileNotFoundError:
        raise AmatError(
            f"{plain}: found neither this file nor {path.name}; put Larochelle & Murray's "
            "binarized_mnist_{train,valid,test}.amat (plain or .gz) into one folder and name it as data.folder"
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        raise AmatError(f"{path}: not a readable file ({error}); it is damaged: get it again") from None
    return _parse(text, path, FILES[name])


def _parse(text: bytes, path: Path, rows: int) -> Tensor:
    characters = np.frombuffer(text, dtype=np.uint8)
    is_bit = (characters == ord("0")) | (characters == ord("1"))
    is_space = np.isin(characters, np.frombuffer(b" \t\r\n", dtype=np.uint8))
    strange = np.flatnonzero(~(is_bit | is_space))
    if strange.size:
        line = 1 + text.count(b"\n", 0, int(strange[0]))
        raise AmatError(
            f"{path}: must hold only zeros and ones, got {chr(characters[strange[0]])!r} in line {line}; "
            "binarise the images first, or get the file again"
        )
    bits = characters[is_bit] - ord("0")
    bits_before_line_end = np.append(is_bit.cumsum()[characters == ord("\n")], bits.size)
    lines = np.unique(bits_before_line_end)  # blank lines and a missing last line feed do no harm
    if not np.array_equal(lines, PIXELS * np.arange(1, rows + 1)):
        raise AmatError(
            f"{path}: must hold {rows:,} lines of {PIXELS} bits, got {lines.size:,} lines with "
            f"{bits.size:,} bits; it is truncated or not that file: get it again"
        )
    return torch.from_numpy(bits.reshape(rows, PIXELS))
