"""A progress bar that shows the bound."""

import math
import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar


class BoundProgressBar(TQDMProgressBar):
    """Progress bar with the bounds in nats, redrawn by the clock: fast steps pay little, slow ones are seen at once.

    Args:
        seconds: least time between two redraws; a bar's last state is always drawn.
    """

    def __init__(self, seconds: float = 0.5) -> None:
        super().__init__(refresh_rate=1, leave=True)
        self.seconds, self._drawn = seconds, -math.inf

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """The logged bounds, two decimals and their unit; no version number."""
        found = super().get_metrics(trainer, pl_module).items()  # the version is no float
        return {name: f"{value:.2f} nats" for name, value in found if isinstance(value, float) and math.isfinite(value)}

    def _should_update(self, current: int, total: int | float) -> bool:
        now = time.monotonic()
        due = current == total or now - self._drawn >= self.seconds
        if due:
            self._drawn = now
        return self.is_enabled and due
