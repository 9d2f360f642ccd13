"""When a training step looks for samples that carry no weight."""

from abc import ABC, abstractmethod
from typing import Any

import torch

from lvm_lightning.modules.lean import LeanModule
from lvm_lightning.support.randomness import Purpose
from lvm_lightning.support.skipping import FEWEST, LEAST, PAYS, Kept, Skipping

AGAIN = 64
"""Steps after which a model is looked at again that had use for most of its samples."""


class SkippingModule(LeanModule, ABC):
    """Abstract: a module whose steps may leave samples out of their backward passes.

    Attributes:
        samples: of each example.
        roulette: see :class:`.Skipping`.
        kept: what the step kept that looked last. It is in the checkpoint, so that a run that is resumed does as one
            that was not interrupted.
    """

    samples: int
    roulette = 0.0

    def __init__(self) -> None:
        super().__init__()
        self.kept = Kept()

    @abstractmethod
    def noise(self, purpose: Purpose, step: int) -> torch.Generator:
        """Generator of one step's noise."""

    def skipping(self, examples: int) -> Skipping | None:
        """What this step may leave out; None where samples are few, or where it has not paid lately."""
        few = self.samples < FEWEST or self.samples * examples < LEAST
        if few or (self.kept.share > PAYS and self.global_step % AGAIN):
            return None
        self.kept.share = 0.0  # so that it is tried
        return Skipping(self.roulette, self.noise("roulette", self.global_step), self.kept)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep whether the processes have use for most of their samples."""
        most = torch.as_tensor(self.all_gather(torch.tensor(int(self.kept.share > PAYS))))
        checkpoint["uses_most_samples"] = most.reshape(-1).tolist()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on as this process would have gone on; checkpoints of before do not say how."""
        most = checkpoint.get("uses_most_samples", [])
        self.kept.share = float(most[self.global_rank]) if self.global_rank < len(most) else 0.0
