"""Numbers that say what they are, measurements with a label, and files of them that say what they are about."""

import hashlib
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torchmetrics.aggregation import CatMetric

from lvm_lightning.evaluation.layout import LOG, Screen, aligned
from lvm_lightning.evaluation.plain import digest_of, with_error, write_json
from lvm_lightning.support.files import read_arrays, write_arrays

Kind = Literal["exact", "lower bound", "upper bound", "stochastic estimate", "parameter"]
LOG_P, NATS = "unit of log p(x)", "unit of a difference"
"""Units that only the data say: nats for each image or for one data set, and of a density also the scale of x."""

COMMON = ("unit", "kind", "split", "samples", "images")
"""Columns of a table of quantities that are told once on a narrow screen, where all rows agree."""


@dataclass(frozen=True)
class Quantity:
    """A labelled mean over images.

    Attributes:
        name: what it is, as it is printed.
        value: mean over the images.
        stderr: standard error of that mean over the images, s/√n with the n − 1 form of s; where there is one data set,
            over independent repeats of the estimate; 0 where no sampling has gone in, NaN where it is not known.
        unit: unit of value and stderr.
        kind: how the value stands to what it names: ``exact`` (up to quadrature error), a ``lower bound`` on
            log p(x) in expectation, an ``upper bound``, a ``stochastic estimate``, or a ``parameter`` of the model.
        split: the images it is about.
        samples: latent points drawn for an image; 0 for what is computed without draws.
        images: number n of images.
    """

    name: str
    value: float
    stderr: float
    unit: str
    kind: Kind
    split: str
    samples: int
    images: int

    @classmethod
    def mean_of(
        cls, name: str, values: Tensor, *, kind: Kind, split: str, samples: int, unit: str = "nats per image"
    ) -> "Quantity":
        """Mean of values ``(n,)``, one an image, summed in float64.

        Raises:
            ValueError: if there are no values, or one is not finite.
        """
        values, n = values.double(), values.numel()
        bad = int((~values.isfinite()).sum())
        if n == 0 or bad:
            raise ValueError(f"{name}: needs finite values of at least one image, got {n} of which {bad} not finite")
        varied = values.max() > values.min()  # the mean of equal numbers is off by its rounding alone
        stderr = float(values.std() / math.sqrt(n) * varied) if n > 1 else math.nan
        return cls(name, float(values.mean()), stderr, unit, kind, split, samples, n)


@dataclass(frozen=True)
class Measured:
    """What an evaluator has found of each example.

    Attributes:
        name: what it is, as it is printed.
        values: a number for each example ``(B,)``, or a vector ``(B, K)`` from which others derive what is printed.
        kind: how the values stand to what they name.
        samples: latent points that each value took.
        unit: :data:`LOG_P`, :data:`NATS`, or any other in words.
        images: how many examples the values are about, where that is not their number.
        constant: whether it is one number ``(1,)`` for all examples, without an error.
    """

    name: str
    values: Tensor
    kind: Kind
    samples: int
    unit: str = LOG_P
    images: int | None = None
    constant: bool = False

    def quantity(self, split: str, units: Mapping[str, str], images: int | None = None) -> Quantity:
        """The mean over the examples with its standard error; over repeats where ``images`` says how many they are."""
        unit, about = units.get(self.unit, self.unit), self.images or images
        if self.constant:
            return Quantity(self.name, float(self.values), 0.0, unit, self.kind, split, self.samples, about or 1)
        mean = Quantity.mean_of(self.name, self.values, kind=self.kind, split=split, samples=self.samples, unit=unit)
        return replace(mean, images=about or mean.images)

    def with_values(self, values: Tensor) -> "Measured":
        """The same label on other values."""
        return replace(self, values=values)

    @classmethod
    def joined(cls, parts: "Sequence[Measured]") -> "Measured":
        """The same measurement of the examples of all parts."""
        if len(parts) == 1 or parts[0].constant:
            return parts[0]
        return parts[0].with_values(torch.cat([part.values for part in parts]))


class Gathered:
    """Measurements that batch after batch brings; every process must bring the same names in the same order."""

    def __init__(self) -> None:
        self.kept: dict[str, tuple[Measured, CatMetric]] = {}

    def add(self, found: Sequence[Measured], device: torch.device | str = "cpu") -> None:
        """Take in what was measured of a batch."""
        for m in found:
            _, values = self.kept.setdefault(m.name, (m, CatMetric(nan_strategy="error").to(device)))
            if not m.constant:
                values.update(m.values.double().to(device))

    def all(self) -> dict[str, Measured]:
        """The measurements of all examples, by name."""
        return {m.name: m if m.constant else m.with_values(torch.as_tensor(v.compute())) for m, v in self.kept.values()}


def table(quantities: Sequence[Quantity], screen: Screen = LOG) -> str:
    """The quantities as aligned text, a row each under one heading."""
    rows = [("quantity", "value ± standard error", "unit", "kind", "split", "samples", "images")]
    for q in quantities:
        rows += [(q.name, with_error(q.value, q.stderr), q.unit, q.kind, q.split, f"{q.samples:,}", f"{q.images:,}")]
    return aligned(rows, screen, COMMON)


@dataclass(frozen=True)
class Provenance:
    """What a set of quantities is about.

    Attributes:
        seed: seed of the noise that went into them.
        data: what the data module says of itself: name, binarisation, digest of the images.
        configuration: SHA-256 of the model's and the data's settings.
        weights: SHA-256 of the model's parameters.
        device: where it was computed.
        versions: of Python and of the packages.
    """

    seed: int
    data: Mapping[str, Any]
    configuration: str
    weights: str
    device: str
    versions: Mapping[str, str]

    @property
    def key(self) -> str:
        """SHA-256 of what the numbers depend on: not the device, nor the versions."""
        return digest_of([self.seed, self.data, self.configuration, self.weights])


def digest_of_weights(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of a state's names and values."""
    content = hashlib.sha256()
    for name, value in sorted(state.items()):
        content.update(name.encode())
        content.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return content.hexdigest()


def write_report(path: Path, quantities: Sequence[Quantity], provenance: Provenance) -> None:
    """Write ``{"quantities": […], "provenance": {…}}`` as JSON; the file is replaced in one step."""
    write_json(path, {"quantities": [asdict(q) for q in quantities], "provenance": asdict(provenance)})


class FinishedBatches:
    """Results of the batches that an evaluation has finished, kept on disk until all are.

    Each file carries the key of what its numbers depend on: a file of another evaluation is not taken.

    Args:
        folder: where the files lie, ``<run>/evaluation.part``.
        key: digest of what the numbers depend on.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.folder, self.key, self.recalled = folder, key, 0

    def recall(self, name: str) -> list[Measured] | None:
        """What was measured of a batch, if an evaluation with the same key has finished it."""
        try:
            file = read_arrays(self.folder / f"{name}.npz")
            if str(file["key"]) != self.key:
                return None
            labels = json.loads(str(file["labels"]))
            found = [Measured(values=torch.from_numpy(file[str(i)]), **label) for i, label in enumerate(labels)]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        self.recalled += 1
        return found

    def keep(self, name: str, found: Sequence[Measured]) -> None:
        """Keep what was measured of a batch, values and labels; the file appears in one step."""
        labels = [{f.name: getattr(m, f.name) for f in fields(m) if f.name != "values"} for m in found]
        values = {str(i): measured.values.cpu().numpy() for i, measured in enumerate(found)}
        write_arrays(self.folder / f"{name}.npz", {"key": self.key, "labels": json.dumps(labels), **values})

    def clear(self) -> None:
        """Remove all files: the evaluation is written."""
        shutil.rmtree(self.folder, ignore_errors=True)
