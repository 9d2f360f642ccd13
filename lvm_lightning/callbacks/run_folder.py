"""The run's folder, where everything that a run leaves behind lies, and where in it the run is."""

from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.figure import Figure

from lvm_lightning.figures import render, save_png


def run_folder(trainer: pl.Trainer) -> Path:
    """The logger's folder, or the trainer's default folder without a logger.

    The logger's folder is broadcast: every process must ask for it, or those that do wait for ever.
    """
    return Path(trainer.log_dir or trainer.default_root_dir)


def has_stepped(trainer: pl.Trainer) -> bool:
    """Whether the last batch ended a step. With accumulated gradients a step takes several; no state lies between."""
    return trainer.accumulate_grad_batches == 1 or not trainer.fit_loop.epoch_loop._should_accumulate()


def publish(trainer: pl.Trainer, folder: Path, figure: Figure, name: str) -> None:
    """Write a figure as ``figures/<name>.png`` in the run's folder, and to TensorBoard at the current step."""
    pixels = render(figure)
    save_png(pixels, folder / "figures" / f"{name}.png")
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(f"figures/{name}", pixels, trainer.global_step, dataformats="HWC")
