"""MNIST and its relatives in files, and Bernoulli(v/255) pixels or noise on grey levels from a bit generator's stream.

The bits are the same on every platform and version. The stream is Philox4x64-10 (Salmon et al., Parallel Random
Numbers: As Easy as 1, 2, 3, 2011), whose raw output NumPy guarantees to keep; nothing here goes through a distribution
method, which NumPy may change.
"""

import gzip
import hashlib
import lzma
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock
from torch import Tensor

from lvm_lightning.data.loader import ImageSet

TorchvisionName = Literal["FashionMNIST", "KMNIST", "QMNIST"]

PIXELS = 28 * 28
TRAIN, TEST = 60_000, 10_000
SHA256 = "e9b40985d011bd5a36195bdeb447f26b7824f3acd02e51a1636098d784d5fe98"
"""SHA-256 of the packed file ``mnist.xz``."""
AMAT_ROWS = {"train": 50_000, "valid": 10_000, "test": 10_000}
"""Rows of ``binarized_mnist_{name}.amat``."""
UNREADABLE = (RuntimeError, ValueError, AssertionError, OSError, EOFError)
"""What torchvision raises about a file that is missing or damaged."""


class DataFileError(Exception):
    """A data file that is missing, cannot be downloaded, or does not hold what it must."""


def packaged_file() -> Path:
    """Path of the packed MNIST."""
    return Path(__file__).with_name("mnist.xz")


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
    if (digest := hashlib.sha256(packed).hexdigest()) != SHA256:
        raise DataFileError(
            f"{path}: the file must have SHA-256 {SHA256[:16]}…, got {digest[:16]}… ({len(packed):,} bytes): "
            "it is truncated or damaged; install lvm-lightning again"
        )
    raw = torch.from_numpy(np.frombuffer(lzma.decompress(packed), dtype=np.uint8).copy())
    images, labels = raw.split([(TRAIN + TEST) * PIXELS, TRAIN + TEST])
    whole = ImageSet(images.view(-1, PIXELS), labels)
    return whole.rows(None, TRAIN), whole.rows(TRAIN, None)


def plain_or_zipped(path: Path) -> Path:
    """The file, or where it is not there its ``.gz``."""
    return path if path.exists() else path.with_name(path.name + ".gz")


def unzipped(path: Path) -> bytes:
    """The content of a plain file or a ``.gz``."""
    content = path.read_bytes()
    return gzip.decompress(content) if path.suffix == ".gz" else content


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
    plain, rows = folder / f"binarized_mnist_{name}.amat", AMAT_ROWS[name]
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
    if strange := text.translate(None, b"01 \t\r\n"):
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


def download(name: str, root: Path) -> None:
    """Let torchvision download a set to ``root``, if it is not there.

    It is downloaded to a folder of its own first: torchvision takes a file that a killed download left for the whole
    one. Processes that ask at the same time wait for the first.

    Raises:
        DataFileError: if it cannot be reached, or its checksums are wrong.
    """
    if _is_there(name, root):
        return
    raw = root / name / "raw"
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataFileError(
            f"data.folder: must be a folder that can be written to, got {root} ({error.strerror}); name another one"
        ) from error
    with FileLock(root / f".{name}.lock"):
        if _is_there(name, root):
            return
        with tempfile.TemporaryDirectory(dir=root, prefix=f".{name}.") as part:
            try:
                _sets(name, Path(part), download=True)
            except (RuntimeError, OSError) as error:
                raise DataFileError(
                    f"data.source: {name} could not be downloaded ({error}); with its files in {raw} nothing "
                    "is downloaded"
                ) from error
            raw.mkdir(parents=True, exist_ok=True)
            for path in (Path(part) / name / "raw").iterdir():
                path.replace(raw / path.name)


def load_torchvision(name: str, root: Path) -> tuple[ImageSet, ImageSet]:
    """A set that is there, in the form of :func:`~lvm_lightning.data.mnist.load_mnist`.

    Raises:
        DataFileError: if its files cannot be read.
    """
    try:
        train, test = _sets(name, root)
    except UNREADABLE as error:
        raise DataFileError(
            f"{root / name}: must hold {name} as torchvision stores it, got files that cannot be read "
            f"({str(error) or type(error).__name__}); remove that folder to download it again"
        ) from error
    return _flat(train), _flat(test)


def _flat(part: Any) -> ImageSet:
    return ImageSet(part.data.flatten(1), part.targets.reshape(len(part.data), -1)[:, 0].to(torch.uint8))


def _sets(name: str, root: Path, download: bool = False) -> list[Any]:
    """The training and the test set."""
    from torchvision import datasets  # slow to import, and only these sources need it

    return [getattr(datasets, name)(root, train=train, download=download) for train in (True, False)]


def _is_there(name: str, root: Path) -> bool:
    """Whether torchvision finds all its files, readable or not: a damaged one is not replaced unasked."""
    try:
        _sets(name, root)
    except UNREADABLE as error:
        return not (isinstance(error, RuntimeError) and "not found" in str(error))
    return True


def random_bytes(stream: np.random.Philox, count: int) -> npt.NDArray[np.uint8]:
    """``count`` uniform bytes: the stream's 64-bit words in order, each from its least significant byte."""
    words = stream.random_raw(-(-count // 8))
    return words.astype("<u8", copy=False).view(np.uint8)[:count]


def philox(seed: int, purpose: int, counter: Sequence[int] = (0, 0, 0, 0)) -> np.random.Philox:
    """Philox with the key (seed, purpose), at the given four-word counter."""
    return np.random.Philox(key=np.array([seed, purpose], np.uint64), counter=np.array(counter, np.uint64))


def bernoulli_pixels(intensities: Tensor, stream: np.random.Philox) -> Tensor:
    """Draw every pixel once as Bernoulli(v/255), exactly.

    v/255 has the digits 0.vvv… in base 256, so a uniform number lies below it when its first byte that
    differs from v is smaller than v. One byte decides 255 pixels of 256; a tied pixel takes a further byte.

    Args:
        intensities: values v in 0..255, uint8, any shape.
        stream: bit generator, which is advanced.

    Returns:
        Zeros and ones, uint8, in the shape of ``intensities``.
    """
    v = intensities.numpy().reshape(-1)
    byte = random_bytes(stream, v.size)
    on = byte < v
    tied = np.flatnonzero(byte == v)
    while tied.size:
        byte = random_bytes(stream, tied.size)
        on[tied] = byte < v[tied]
        tied = tied[byte == v[tied]]
    return torch.from_numpy(on.view(np.uint8)).reshape(intensities.shape)


def dequantised(grey: Tensor, stream: np.random.Philox) -> Tensor:
    """Grey level v as the real number (v + u)/256, u ~ U(0, 1) in steps of 2^−15.

    Args:
        grey: values v in 0..255, uint8, any shape.
        stream: bit generator, which is advanced.

    Returns:
        Numbers in (0, 1), float32, in the shape of ``grey``.
    """
    words = random_bytes(stream, 2 * grey.numel()).view("<u2") >> 1
    u = (torch.from_numpy(words.astype(np.float32)) + 0.5) / 2**15
    return (grey.float() + u.view(grey.shape)) / 256
