"""MNIST's relatives that torchvision downloads: whole or not at all, and once."""

import tempfile
from pathlib import Path
from typing import Any, Literal
from urllib.error import URLError

import torch
from filelock import FileLock

from lvm_lightning.data.mnist import DamagedFileError, GreyImages

TorchvisionName = Literal["FashionMNIST", "KMNIST", "QMNIST"]


class DownloadError(Exception):
    """A data set that could not be downloaded."""


def download(name: str, root: Path) -> None:
    """Let torchvision download a set to ``root``, if it is not there.

    It is downloaded to a folder of its own first: torchvision takes a file that a killed download left for the whole
    one. Processes that ask at the same time wait for the first.

    Raises:
        DownloadError: if it cannot be reached, or its checksums are wrong.
    """
    if _is_there(name, root):
        return
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / f".{name}.lock"):
        if _is_there(name, root):
            return
        with tempfile.TemporaryDirectory(dir=root, prefix=f".{name}.") as part:
            try:
                for train in (True, False):
                    _dataset(name)(part, train=train, download=True)
            except (RuntimeError, URLError, OSError) as error:
                raise DownloadError(
                    f"data.source: {name} could not be downloaded ({error}); with its files in {root / name / 'raw'} "
                    "nothing is downloaded"
                ) from error
            for path in (Path(part) / name).rglob("*"):
                whole = root / name / path.relative_to(Path(part) / name)
                if path.is_file():
                    whole.parent.mkdir(parents=True, exist_ok=True)
                    path.replace(whole)


def load_torchvision(name: str, root: Path) -> GreyImages:
    """A set that is there, in the form of :func:`~lvm_lightning.data.mnist.load_mnist`.

    Raises:
        DamagedFileError: if its files cannot be read.
    """
    try:
        train, test = (_dataset(name)(root, train=part, download=False) for part in (True, False))
    except (RuntimeError, ValueError, AssertionError, OSError, EOFError) as error:
        raise DamagedFileError(
            f"{root / name}: must hold {name} as torchvision stores it, got files that cannot be read "
            f"({str(error) or type(error).__name__}); remove that folder to download it again"
        ) from error
    flat = (part.data.reshape(len(part.data), -1) for part in (train, test))
    labels = (part.targets.reshape(len(part.targets), -1)[:, 0].to(torch.uint8) for part in (train, test))
    return GreyImages(*flat, *labels)


def _dataset(name: str) -> Any:
    from torchvision import datasets  # slow to import, and only these sources need it

    return getattr(datasets, name)


def _is_there(name: str, root: Path) -> bool:
    """Whether torchvision finds all its files, readable or not: a damaged one is not replaced unasked."""
    try:
        for train in (True, False):
            _dataset(name)(root, train=train, download=False)
    except RuntimeError as error:
        return "not found" not in str(error)
    except (ValueError, AssertionError, OSError, EOFError):
        return True
    return True
