"""When a training step looks for samples that carry no weight."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from lvm_lightning.modules.lean import LeanModule
from lvm_lightning.support.randomness import Purpose
from lvm_lightning.support.skipping import FEWEST, LEAST, PAYS, Skipping

AGAIN = 64
"""Steps after which a model is looked at again that had use for most of its samples."""


class SkippingModule(LeanModule, ABC):
    """Abstract: a module whose steps may leave samples out of their backward passes.

    Attributes:
        samples: of each example.
        roulette: see :class:`.Skipping`.
        kept: share of the samples that the step kept that looked last; it is in the checkpoint, so that a run that is
            resumed does as one that was not interrupted.
    """

    samples: int
    roulette = 0.0
    kept = 0.0

    @abstractmethod
    def noise(self, purpose: Purpose, step: int) -> torch.Generator:
        """Generator of one step's noise."""

    @contextmanager
    def skipping(self, examples: int) -> Iterator[Skipping | None]:
        """Context of one step: what it may leave out; None where samples are few, or where it did not pay lately."""
        few = self.samples < FEWEST or self.samples * examples < LEAST
        if few or (self.kept > PAYS and self.global_step % AGAIN):
            yield None
            return
        found = Skipping(self.roulette, self.noise("roulette", self.global_step))
        yield found
        self.kept = found.kept

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what every process has found of its samples."""
        checkpoint["kept"] = torch.as_tensor(self.all_gather(torch.tensor(self.kept))).reshape(-1).tolist()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on as this process would have gone on; checkpoints of before do not say how."""
        kept = checkpoint.get("kept", [])
        self.kept = kept[self.global_rank] if self.global_rank < len(kept) else 0.0
