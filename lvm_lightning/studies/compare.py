"""Runs side by side, from their ``evaluation.json``."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lvm_lightning.evaluation.layout import LOG, Screen, aligned
from lvm_lightning.evaluation.per_example import PER_EXAMPLE, REPORT, read_per_example
from lvm_lightning.evaluation.plain import with_error
from lvm_lightning.evaluation.tags import detail_of, label_of, tags_of
from lvm_lightning.studies.free import FreeStudy
from lvm_lightning.support import UserError

ABOUT = ("source", "binarisation", "seed", "threshold", "dequantise", "pixel_range", "digest")
"""What must agree between runs for their numbers to be about the same images."""
AGAIN = "test again with --evaluation.save_per_example true"


class Found(NamedTuple):
    """Value and standard error of a quantity, the number of images that it is about, and its unit."""

    value: float
    stderr: float
    images: int
    unit: str

    @classmethod
    def of(cls, quantity: Mapping[str, Any]) -> "Found":
        """That of one quantity of a report, which has null for what is no number."""
        stderr = math.nan if quantity["stderr"] is None else float(quantity["stderr"])
        return cls(float(quantity["value"]), stderr, int(quantity["images"]), str(quantity["unit"]))


class Run:
    """One run's evaluation.

    Args:
        path: the run's folder.

    Attributes:
        quantities: what the test found, by name.
        names: the same names by their tags, which do not depend on J, N and S.
        data: what the data say of themselves.
        per_example: each image's values, by name; None where the test has not kept them.
        note: why kept values are not taken, if they are not.

    Raises:
        UserError: if there is no readable ``evaluation.json`` in it, or a file is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.note, self.per_example = path, "", None
        file = path / REPORT
        try:
            content = json.loads(file.read_text())
            self.quantities = {str(q["name"]): Found.of(q) for q in content["quantities"]}
            self.names = {tag: name for name, tag in tags_of(self.quantities).items()}
            self.data = dict[str, Any](content["provenance"]["data"])
        except FileNotFoundError:
            raise UserError(f"RUN: no evaluation in {path}; run 'lvm-lightning test' on it first") from None
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(f"RUN: {file} is not a readable evaluation ({type(error).__name__}); test again") from error
        try:
            self.per_example = read_per_example(path, content)
            if self.per_example is None:
                self.note = f"note: {path / PER_EXAMPLE} is not of the test in {file}; {AGAIN}"
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            raise UserError(f"RUN: {path / PER_EXAMPLE} is not readable ({error}); {AGAIN}, or remove it") from error


class Compare(FreeStudy):
    """Put the tests of two runs or more side by side, in one table.

    A row for each quantity, whatever J, N and S are, a column for each run, and differences from the first. A
    difference has a paired standard error where both runs kept each image's value (--evaluation.save_per_example true):
    most of the spread over images is common to both, and cancels.

    Args:
        run: folders of the runs.
    """

    def __init__(self, *run: Path) -> None:
        self.folders = [Path(folder) for folder in run]

    def run(self) -> str:
        """The table.

        Raises:
            UserError: if there are fewer than two runs, one has no evaluation, one does not say what its data are, or
                they are about different data or different numbers of images.
        """
        if len(self.folders) < 2:
            raise UserError(f"RUN: must be at least two run folders, got {len(self.folders)}")
        runs = [Run(folder) for folder in self.folders]
        return "\n".join([shown(runs, Screen.here()), *(f"\n{run.note}" for run in runs if run.note)])


def side_by_side(runs: Sequence[Run]) -> list[list[str]]:
    """The heading, and a row for each quantity: its value in each run, differences from the first, and the images.

    Raises:
        UserError: if the runs are about different data or different numbers of images, or one does not say.
    """
    for run in runs:
        require_same_data(runs[0], run)
    differences = [f"{run.path} − {runs[0].path}" for run in runs[1:]]
    rows = [["quantity", *(str(run.path) for run in runs), *differences, "images"]]
    for tag in dict.fromkeys(tag for run in runs for tag in run.names):
        names = [run.names[tag] for run in runs if tag in run.names]
        images = next(run.quantities[run.names[tag]].images for run in runs if tag in run.names)
        label = label_of(tag, names)
        cells = [*(_cell(run, tag, label) for run in runs), *(_difference(runs[0], run, tag) for run in runs[1:])]
        rows.append([label, *cells, f"{images:,}"])
    return rows


def shown(runs: Sequence[Run], screen: Screen = LOG) -> str:
    """:func:`side_by_side` as text; on a screen too narrow for that, a line for each run, and the runs by number."""
    wide = side_by_side(runs)
    if screen.holds(wide):
        return aligned(wide, screen)
    n, long = len(runs), [["quantity", "run", "value ± standard error", "minus run 1", "images"]]
    for label, *cells, images in wide[1:]:
        rows = enumerate(zip(cells[:n], ["", *cells[n:]], strict=True), start=1)
        long += [[label if number == 1 else "", str(number), *pair, images] for number, pair in rows]
    legend = [f"run {number}: {run.path}" for number, run in enumerate(runs, start=1)]
    return "\n".join([*legend, "", aligned(long, screen, common=["images"])])


def require_same_data(first: Run, other: Run) -> None:
    """Refuse runs whose numbers are about different images, or about images that nobody can name.

    Raises:
        UserError: naming the run, or both.
    """
    if not other.data.get("digest"):
        raise UserError(
            f"RUN: the data of a run must say what they are, got none in {other.path}; test it with a data module that "
            "says them in describe(), with a digest"
        )
    key = next((key for key in ABOUT if other.data.get(key) != first.data.get(key)), None)
    if key is not None:
        one, two = (f"{key} {run.data.get(key)!r} in {run.path}" for run in (first, other))
        raise UserError(f"RUN: the runs must be about the same data, got {one} and {two}; test both on one data set")
    for tag in first.names.keys() & other.names.keys():
        counts = [run.quantities[run.names[tag]].images for run in (first, other)]
        if counts[0] != counts[1]:
            one, two = (f"{n:,} in {run.path}" for n, run in zip(counts, (first, other), strict=True))
            raise UserError(
                f"RUN: the runs must be about the same images, got {one} and {two}; test both on all images"
            )


def _cell(run: Run, tag: str, label: str) -> str:
    """Value and standard error, and what the quantity's own name says beyond the label."""
    if tag not in run.names:
        return "—"
    q, detail = run.quantities[run.names[tag]], detail_of(run.names[tag], label)
    return with_error(q.value, q.stderr) + (f" ({detail})" if detail else "")


def _difference(first: Run, other: Run, tag: str) -> str:
    """Value and standard error of other − first: paired, or "unpaired" where the images' values are not there."""
    if tag not in first.names or tag not in other.names:
        return "—"
    a, b = ((run.per_example or {}).get(run.names[tag]) for run in (first, other))
    if a is not None and b is not None and len(a) > 1:
        return f"{with_error(float((b - a).mean()), float((b - a).std(ddof=1)) / math.sqrt(len(a)), '+')} paired"
    p, q = (run.quantities[run.names[tag]] for run in (first, other))
    return f"{with_error(q.value - p.value, math.hypot(p.stderr, q.stderr), '+')} unpaired"
