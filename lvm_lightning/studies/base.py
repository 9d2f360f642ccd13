"""What a study is: one class, whose ``__init__`` arguments are its settings, and what it looks at."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Generator, Tensor

from lvm_lightning.data.protocol import examples
from lvm_lightning.evaluation import LOG_P, NATS, Kind, Measured, Quantity, table
from lvm_lightning.evaluation.layout import Screen
from lvm_lightning.evaluation.report import Provenance, write_report
from lvm_lightning.model import LatentVariableModel
from lvm_lightning.modules.base import LatentVariableModule
from lvm_lightning.support import Purpose, generator_for
from lvm_lightning.support.progress import Bar

SIMULATED = "simulated"
"""The split of what the model made itself."""


@dataclass(frozen=True)
class Subject:
    """What a study of a model looks at, and where it writes.

    Attributes:
        module: the module with its trained weights, on its device, in evaluation mode.
        data: the data module, set up for a test.
        folder: where the study's files go.
        provenance: what the numbers are about.
        seed: seed of the study's draws.
        bars: whether progress is shown.
    """

    module: LatentVariableModule
    data: pl.LightningDataModule
    folder: Path
    provenance: Provenance
    seed: int
    bars: bool = True

    @property
    def model(self) -> LatentVariableModel:
        """p(x, z)."""
        return self.module.model

    def rows(self, split: str, count: int) -> Tensor:
        """``count`` evenly spaced examples of a split, ``(count, D)``, on the module's device."""
        return examples(self.data, split, count).to(self.module.device)

    def parts(self, x: Tensor, size: int, purpose: Purpose, progress: str = "") -> Iterator[tuple[Tensor, Generator]]:
        """So many examples after the others, each time with the generator of their noise; a bar shows the progress."""
        parts = x.split(size)
        for number, part in enumerate(self.bar(progress, parts) if progress else parts):
            yield part, generator_for(self.seed, purpose, number)

    def bar(self, name: str, over: Iterable[Any] | None = None, total: int | None = None) -> Bar:
        """A bar with the time left, over some things, or one whose ``update(n)`` is called; it leaves no trace."""
        return Bar(over, desc=name, total=total, leave=False, disable=not self.bars)

    def log_weights(self, x: Tensor, samples: int, generator: Generator) -> Tensor:
        """Log importance weights under the module's own proposals, ``(S, B)``, nats, without gradients."""
        with torch.inference_mode():
            return self.model.log_weights(x, self.module.propose(x), samples, generator)

    def log_marginal(self, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """log p(x) and how far it may be off, ``(B,)`` each in nats, where there is an exact way."""
        with torch.inference_mode():
            return self.module.log_marginal(x) or (None, None)

    def exact(self, name: str, log_p: Tensor | None, error: Tensor | None, split: str = "test") -> list[Quantity]:
        """log p(x) by that name, and the quadrature's error where there is one; nothing where there is no exact way."""
        if log_p is None or error is None:
            return []
        found = [self.quantity(name, log_p, "exact", 0, split)]
        if bool(error.any()):
            label = name.partition("log p(x)")[0] + "error of the quadrature"
            found.append(self.quantity(label, error, "stochastic estimate", 0, split, NATS))
        return found

    def quantity(
        self, name: str, values: Tensor, kind: Kind, samples: int, split: str = "test", unit: str = LOG_P
    ) -> Quantity:
        """The mean of values ``(B,)`` with its standard error, over repeats where a split holds one data set."""
        images = None if split == SIMULATED else self.module.IMAGES
        return Measured(name, values, kind, samples, unit).quantity(split, self.module.units, images)

    def write(self, name: str, quantities: Sequence[Quantity]) -> str:
        """Write the quantities as JSON to a file of the folder; returns their table and the path, to be printed."""
        write_report(self.folder / name, quantities, self.provenance)
        return f"{table(quantities, Screen.here())}\n\nwritten to {self.folder / name}"


class Study(ABC):
    """Something done with a trained model on request.

    A study is a subcommand: its settings are the arguments of its ``__init__``, and the command takes its options and
    its help from them and from the docstring. A study of your own needs no change here: give its import path,
    ``lvm-lightning my_module.MyStudy --config … --ckpt_path last``.
    """

    @abstractmethod
    def run(self, subject: Subject) -> str:
        """Look at the subject, write files into its folder, and return the text to print."""
