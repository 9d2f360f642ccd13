"""Each image's values beside the report of a test that they belong to, and of no other."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lvm_lightning.evaluation.plain import digest_of
from lvm_lightning.support.files import read_arrays, write_arrays

if TYPE_CHECKING:
    from torch import Tensor

REPORT, PER_EXAMPLE = "evaluation.json", "evaluation_per_example.npz"
"""The two files of a test in a run's folder. The second holds the digest of the first, under the first's name."""


def write_per_example(folder: Path, values: "Mapping[str, Tensor]") -> Path:
    """Write each image's values ``(n,)`` by name, with the digest of the report that lies in the folder.

    The report must be there already. A kill between the two leaves values of an earlier report, whose digest differs.
    """
    digest = digest_of(json.loads((folder / REPORT).read_text()))
    write_arrays(folder / PER_EXAMPLE, {REPORT: digest} | {name: v.cpu().numpy() for name, v in values.items()})
    return folder / PER_EXAMPLE


def read_per_example(folder: Path, report: Mapping[str, Any]) -> "dict[str, npt.NDArray[Any]] | None":
    """The values that belong to the report, by name; None where those in the folder belong to another.

    Args:
        folder: the run's.
        report: content of its report.

    Raises:
        FileNotFoundError: if no values are kept.
        OSError: if they cannot be read.
        ValueError: if the file is damaged.
    """
    arrays = read_arrays(folder / PER_EXAMPLE)
    return arrays if str(arrays.pop(REPORT, np.array(""))) == digest_of(report) else None
