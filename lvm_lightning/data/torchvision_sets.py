"""MNIST's relatives that torchvision downloads: whole or not at all, and once."""

import tempfile
from pathlib import Path
from typing import Any, Literal

import torch
from filelock import FileLock

from lvm_lightning.data.loader import ImageSet
from lvm_lightning.data.mnist import DataFileError

TorchvisionName = Literal["FashionMNIST", "KMNIST", "QMNIST"]


UNREADABLE = (RuntimeError, ValueError, AssertionError, OSError, EOFError)
"""What torchvision raises about a file that is missing or damaged."""


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
    root.mkdir(parents=True, exist_ok=True)
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
    rows = len(part.data)
    return ImageSet(part.data.reshape(rows, -1), part.targets.reshape(rows, -1)[:, 0].to(torch.uint8))


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
