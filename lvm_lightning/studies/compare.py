"""Runs side by side, from their ``evaluation.json``."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from lvm_lightning.evaluation.report import aligned, with_error
from lvm_lightning.studies.base import FreeStudy
from lvm_lightning.support import UserError

ABOUT = ("source", "binarisation", "seed", "threshold", "dequantise", "pixel_range", "digest")
"""What must agree between runs for their numbers to be about the same images."""


class Run:
    """One run's evaluation.

    Args:
        path: the run's folder.

    Raises:
        UserError: if there is no readable ``evaluation.json`` in it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        file = path / "evaluation.json"
        try:
            content = json.loads(file.read_text())
            self.quantities: dict[str, dict[str, Any]] = {
                q["name"]: q | {"stderr": math.nan if q["stderr"] is None else q["stderr"]}
                for q in content["quantities"]
            }
            self.data: dict[str, Any] = content["provenance"]["data"]
        except FileNotFoundError:
            raise UserError(f"RUN: no evaluation in {path}; run 'lvm-lightning test' on it first") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"RUN: {file} is not a readable evaluation ({type(error).__name__})") from error

    def per_example(self, name: str) -> "np.ndarray[Any, np.dtype[np.float64]] | None":
        """Each image's value of a quantity, where ``test`` has kept them."""
        file = self.path / "evaluation_per_example.npz"
        if not file.is_file():
            return None
        with np.load(file, allow_pickle=False) as arrays:
            return np.asarray(arrays[name], dtype=np.float64) if name in arrays else None


class Compare(FreeStudy):
    """Put the tests of two runs or more side by side, in one table.

    A row for each quantity, a column for each run, and differences from the first. A difference has a paired standard
    error where both runs kept each image's value (--evaluation.save_per_example true): most of the spread over images
    is common to both, and cancels.

    Args:
        run: folders of the runs.
    """

    def __init__(self, *run: Path) -> None:
        self.folders = [Path(folder) for folder in run]

    def run(self) -> str:
        """The table.

        Raises:
            UserError: if there are fewer than two runs, one has no evaluation, one does not say what its data are, or
                they are about different data.
        """
        if len(self.folders) < 2:
            raise UserError(f"RUN: must be at least two run folders, got {len(self.folders)}")
        runs = [Run(folder) for folder in self.folders]
        for run in runs:
            require_same_data(runs[0], run)
        rows = [["quantity", *(str(run.path) for run in runs), *(f"{run.path} − {runs[0].path}" for run in runs[1:])]]
        for name in dict.fromkeys(name for run in runs for name in run.quantities):
            differences = [_difference(runs[0], run, name) for run in runs[1:]]
            rows.append([name, *(_cell(run, name) for run in runs), *differences])
        return aligned(rows)


def require_same_data(first: Run, other: Run) -> None:
    """Refuse runs whose numbers are about different images, or about images that nobody can name.

    Raises:
        UserError: naming the run, or both.
    """
    if not other.data.get("digest"):
        raise UserError(
            f"RUN: the data of a run must say what they are, got none in {other.path}; test it with a data module that "
            "has a description() with a digest"
        )
    key = next((key for key in ABOUT if other.data.get(key) != first.data.get(key)), None)
    if key is not None:
        one, two = (f"{key} {run.data.get(key)!r} in {run.path}" for run in (first, other))
        raise UserError(f"RUN: the runs must be about the same data, got {one} and {two}; test both on one data set")


def _cell(run: Run, name: str) -> str:
    q = run.quantities.get(name)
    return "—" if q is None else with_error(q["value"], q["stderr"])


def _difference(first: Run, other: Run, name: str) -> str:
    """Value and standard error of other − first: paired, or "unpaired" where the images' values are not there."""
    if name not in first.quantities or name not in other.quantities:
        return "—"
    a, b = first.per_example(name), other.per_example(name)
    if a is not None and b is not None and a.shape == b.shape and len(a) > 1:
        stderr = float((b - a).std(ddof=1)) / math.sqrt(len(a))
        return f"{with_error(float((b - a).mean()), stderr, '+')} paired"
    p, q = first.quantities[name], other.quantities[name]
    return f"{with_error(q['value'] - p['value'], math.hypot(p['stderr'], q['stderr']), '+')} unpaired"
