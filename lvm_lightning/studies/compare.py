"""Runs side by side, from their ``evaluation.json``."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lvm_lightning.evaluation.quantity import decimals

ABOUT = ("source", "binarisation", "seed", "threshold", "dequantise", "pixel_range", "digest")
"""What must agree between runs for their numbers to be about the same images."""


class ComparisonError(ValueError):
    """Runs that cannot be compared."""


class Run:
    """One run's evaluation.

    Args:
        path: the run's folder.

    Raises:
        ComparisonError: if there is no readable ``evaluation.json`` in it.
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
            raise ComparisonError(f"RUN: no evaluation in {path}; run 'lvm-lightning test' on it first") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ComparisonError(f"RUN: {file} is not a readable evaluation ({type(error).__name__})") from error

    def per_example(self, name: str) -> "np.ndarray[Any, np.dtype[np.float64]] | None":
        """Each image's value of a quantity, where ``test`` has kept them."""
        file = self.path / "evaluation_per_example.npz"
        if not file.is_file():
            return None
        with np.load(file, allow_pickle=False) as arrays:
            return np.asarray(arrays[name], dtype=np.float64) if name in arrays else None


def compare(paths: Sequence[Path]) -> str:
    """One table: a row for each quantity, a column for each run, and differences from the first.

    A difference has a paired standard error where both runs kept each image's value: most of the spread over images is
    common to both, and cancels.

    Raises:
        ComparisonError: if there are fewer than two runs, one has no evaluation, or they are about different data.
    """
    if len(paths) < 2:
        raise ComparisonError(f"RUN: must be at least two run folders, got {len(paths)}")
    runs = [Run(path) for path in paths]
    for run in runs[1:]:
        for key in ABOUT:
            if run.data.get(key) != runs[0].data.get(key):
                one, other = (f"{key} {r.data.get(key)!r} in {r.path}" for r in (runs[0], run))
                raise ComparisonError(
                    f"RUN: the runs must be about the same data, got {one} and {other}; test both on one data set"
                )
    names = list(dict.fromkeys(name for run in runs for name in run.quantities))
    rows = [["quantity", *(str(run.path) for run in runs), *(f"{run.path} − {runs[0].path}" for run in runs[1:])]]
    for name in names:
        rows.append([name, *(_cell(run, name) for run in runs), *(_difference(runs[0], run, name) for run in runs[1:])])
    widths = [max(len(row[c]) for row in rows) for c in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "  ".join("─" * width for width in widths))
    return "\n".join(lines)


def _cell(run: Run, name: str) -> str:
    q = run.quantities.get(name)
    return "—" if q is None else f"{q['value']:.{decimals(q['stderr'])}f} ± {q['stderr']:.{decimals(q['stderr'])}f}"


def _difference(first: Run, other: Run, name: str) -> str:
    """Value and standard error of other − first: paired, or "unpaired" where the images' values are not there."""
    if name not in first.quantities or name not in other.quantities:
        return "—"
    a, b = first.per_example(name), other.per_example(name)
    if a is not None and b is not None and a.shape == b.shape and len(a) > 1:
        stderr = float((b - a).std(ddof=1)) / math.sqrt(len(a))
        return f"{float((b - a).mean()):+.{decimals(stderr)}f} ± {stderr:.{decimals(stderr)}f} paired"
    p, q = first.quantities[name], other.quantities[name]
    stderr = math.hypot(p["stderr"], q["stderr"])
    return f"{q['value'] - p['value']:+.{decimals(stderr)}f} ± {stderr:.{decimals(stderr)}f} unpaired"
