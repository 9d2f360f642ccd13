"""What a run has left in its folder, read without its model: the material of a report."""

import base64
import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from lvm_lightning.evaluation.per_example import REPORT
from lvm_lightning.support import UserError

TRAINING, VALIDATION = "train/bound", "val/bound"
"""Tags of the two curves."""
POINTS = 600
"""Points of a curve at most: more than a screen has columns."""
PICTURE_BYTES = 700_000
"""Bytes of all pictures of a report, as text: the rest of it takes 0.1 MB."""
OF_A_QUANTITY = ("name", "value", "stderr", "unit", "kind", "split", "samples", "images")
"""What a test says of each of its numbers."""

Points = list[tuple[float, float]]
"""Steps and values."""


@dataclass
class RunFiles:
    """One run's files as plain data.

    Attributes:
        folder: where they lie.
        quantities: what the last test found, as ``evaluation.json`` has them; none where the run was not tested.
        provenance: what these numbers are about.
        settings: the run's configuration; empty where there is none.
        configuration: the same as text.
        curves: a tag, ``train/bound`` or ``val/bound``, → its points.
        pictures: name → the PNG in base64.
        notes: what is not there, a sentence each.
    """

    folder: Path
    quantities: list[dict[str, Any]] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    configuration: str = ""
    curves: dict[str, Points] = field(default_factory=dict)
    pictures: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_run(folder: Path, picture_bytes: int = PICTURE_BYTES) -> RunFiles:
    """What lies in a run's folder.

    Args:
        folder: the run's.
        picture_bytes: how many bytes its pictures may have.

    Raises:
        UserError: if it is no run's folder, or a file in it is damaged.
    """
    found, config = RunFiles(folder), folder / "config.yaml"
    if not config.is_file() and not (folder / REPORT).is_file():
        raise UserError(f"RUN: must be the folder of a run, got {folder}, without config.yaml and {REPORT}")
    try:
        if config.is_file():
            found.configuration = config.read_text(encoding="utf-8")
            found.settings = dict(yaml.safe_load(found.configuration))
        if (folder / REPORT).is_file():
            content = json.loads((folder / REPORT).read_text())
            found.quantities = [{name: each[name] for name in OF_A_QUANTITY} for each in content["quantities"]]
            found.provenance = dict(content["provenance"])
        found.curves = curves(folder)
    except (OSError, ValueError, KeyError, TypeError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"RUN: a file in {folder} cannot be read ({type(error).__name__}: {error})") from error
    add_pictures(found, picture_bytes)
    absent = {"configuration": found.configuration, "test": found.quantities, "curve": found.curves}
    found.notes += [f"This folder has no {name}." for name, content in absent.items() if not content]
    return found


def add_pictures(found: RunFiles, limit: int) -> None:
    """Take in ``figures/*.png`` as long as they fit, without the curve that the page draws; the others are named."""
    drawn = {"training_bound"} if TRAINING in found.curves else set()
    for path in sorted((found.folder / "figures").glob("*.png")):
        if path.stem in drawn:
            continue
        content = base64.b64encode(path.read_bytes()).decode()
        if sum(map(len, found.pictures.values())) + len(content) <= limit:
            found.pictures[path.stem] = content
        else:
            found.notes.append(f"figures/{path.name} is too large for this page.")


def curves(folder: Path) -> dict[str, Points]:
    """The bound in training, from ``training_bound.csv`` where it is there, and in validation, from the logger."""
    logged = from_events(folder) if any(folder.glob("events.out.tfevents.*")) else from_metrics(folder / "metrics.csv")
    every_step = folder / "training_bound.csv"
    if every_step.is_file():
        with every_step.open(newline="") as file:
            logged[TRAINING] = [(float(step), float(bound)) for step, bound in list(csv.reader(file))[1:]]
    return {tag: thinned(logged[tag]) for tag in (TRAINING, VALIDATION) if logged.get(tag)}


def from_events(folder: Path) -> dict[str, Points]:
    """The curves in TensorBoard's files: one tag in a folder for each split, or two tags in those of an older version.

    A resumed run may have a step twice. An older version's steps are counted from 0.
    """
    found: dict[str, Points] = {}
    for tag, split in ((TRAINING, "bound_train"), (VALIDATION, "bound_validation")):
        if (folder / split).is_dir():
            found[tag] = _scalars(folder / split, "bound", 0)
        else:
            found[tag] = _scalars(folder, tag, 1)
    return found


def _scalars(folder: Path, tag: str, first: int) -> Points:
    """The points of a tag, at their steps plus ``first``."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), {"scalars": 0, "images": 1, "tensors": 1}).Reload()
    points = events.Scalars(tag) if tag in events.Tags()["scalars"] else []
    return sorted({float(event.step + first): event.value for event in points}.items())


def from_metrics(path: Path) -> dict[str, Points]:
    """The curves in the file of Lightning's CSV logger, over finished steps; none where it is not there."""
    if not path.is_file():
        return {}
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        tag: [(float(row["step"]), float(row[tag])) for row in rows if row.get(tag)] for tag in (TRAINING, VALIDATION)
    }


def thinned(points: Sequence[tuple[float, float]]) -> Points:
    """At most :data:`POINTS` points: the mean of so many neighbours, at the last one's step."""
    size = -(-len(points) // POINTS)
    groups = [points[i : i + size] for i in range(0, len(points), max(1, size))]
    return [(group[-1][0], fmean(value for _, value in group)) for group in groups]


def differing(settings: Sequence[Any]) -> list[list[str]]:
    """The settings that are not the same in all runs: a row each, with its name and its value in every run."""
    flat = [flattened(each) for each in settings]
    names = dict.fromkeys(name for each in flat for name in each)
    rows = [[name, *(each.get(name, "—") for each in flat)] for name in names]
    return [row for row in rows if len(set(row[1:])) > 1]


def flattened(settings: Any, name: str = "") -> dict[str, str]:
    """Nested settings by their dotted names."""
    if not isinstance(settings, dict) or not settings:
        return {name: json.dumps(settings)}
    found: dict[str, str] = {}
    for key, value in settings.items():
        found |= flattened(value, f"{name}.{key}" if name else str(key))
    return found
