"""A set of labelled quantities with everything that it takes to say what they are about."""

import hashlib
import json
import platform
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lvm_lightning.evaluation import Measured, Quantity
from lvm_lightning.support.files import replacing, write_arrays

PACKAGES = ("lvm-lightning", "torch", "lightning", "torchmetrics", "numpy")


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


def digest_of(content: object) -> str:
    """SHA-256 of plain values, whatever the order of a mapping's keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def digest_of_weights(state: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of a state's names and values."""
    content = hashlib.sha256()
    for name, value in sorted(state.items()):
        content.update(name.encode())
        content.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return content.hexdigest()


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that the numbers go through."""
    return {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}


def write_json(path: Path, content: object) -> None:
    """Write JSON with null for what is no number; the file is replaced in one step."""
    plain = json.loads(json.dumps(content), parse_constant=lambda _: None)
    with replacing(path) as file:
        file.write((json.dumps(plain, indent=2) + "\n").encode())


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
            with np.load(self.folder / f"{name}.npz", allow_pickle=False) as file:
                if str(file["key"]) != self.key:
                    return None
                labels = json.loads(str(file["labels"]))
                found = [Measured(values=torch.from_numpy(file[str(i)]), **label) for i, label in enumerate(labels)]
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
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
