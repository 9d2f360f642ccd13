"""Files that are there whole or not at all, and room for them."""

import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt


def expanded(path: str) -> str:
    """A path with its variables and ``~`` replaced; a variable that is not set stays."""
    return os.path.expanduser(os.path.expandvars(path))  # noqa: PTH111  # a pathlib.Path would lose "s3://"


@contextmanager
def replacing(path: Path, *, durable: bool = False) -> Iterator[BinaryIO]:
    """A binary file that takes the place of ``path`` when the block ends without an error, in one step.

    A reader, a crash or a full disk finds the old file or the new one, never a part, and processes that write the same
    file at the same time do not mix.

    Args:
        path: the file; its folder is made.
        durable: whether the content is forced onto the disk before the name is, so that a power cut leaves one of them
            too. It takes some milliseconds.

    Raises:
        OSError: if it cannot be written; what was there stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_arrays(path: Path, arrays: Mapping[str, npt.ArrayLike]) -> None:
    """Write arrays by name as ``.npz``, in which nothing is code; the file is replaced in one step."""
    with replacing(path) as file:
        np.savez(file, allow_pickle=False, **{name: np.asarray(values) for name, values in arrays.items()})


def read_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The arrays that :func:`write_arrays` wrote, by name; every byte is held against its checksum.

    Raises:
        OSError: if the file is missing or cannot be read.
        ValueError: if it is damaged.
    """
    try:
        # numpy looks at the checksum of what it reads, which is not all where a damaged header says less
        with zipfile.ZipFile(path) as file:
            damaged = file.testzip()
        if damaged is None:
            with np.load(path, allow_pickle=False) as arrays:
                return dict(arrays)
    except OSError:
        raise
    except Exception as error:  # zipfile and its decompressors, and numpy's header: each has errors of its own
        raise ValueError(f"{path} is damaged ({type(error).__name__})") from error
    raise ValueError(f"{path} is damaged (checksum of {damaged})")


def free_bytes(path: Path) -> int:
    """Room on the disk that holds ``path``, which need not exist yet."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free
