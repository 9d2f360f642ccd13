"""A progress bar that shows the bound."""

import math

import lightning.pytorch as pl
from lightning.pytorch.callbacks import TQDMProgressBar


class BoundProgressBar(TQDMProgressBar):
    """Progress bar with the bounds in nats; it is redrawn every ``refresh_rate`` batches to cost little.

    Args:
        refresh_rate: batches between two redraws.
    """

    def __init__(self, refresh_rate: int = 20) -> None:
        super().__init__(refresh_rate=refresh_rate, leave=True)

    def get_metrics(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """The logged bounds, two decimals and their unit; no version number."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        numbers = {name: value for name, value in metrics.items() if isinstance(value, float)}
        return {name: f"{value:.2f} nats" for name, value in numbers.items() if math.isfinite(value)}
