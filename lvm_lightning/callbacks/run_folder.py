"""The run's folder, where everything that a run leaves behind lies, and where in it the run is."""

from collections.abc import Iterable
from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.figure import Figure
from torch import Tensor

from lvm_lightning.data.protocol import Description
from lvm_lightning.figures import darkness, render, save_png


def run_folder(trainer: Trainer) -> Path:
    """The logger's folder, or the trainer's default folder without a logger.

    The logger's folder is broadcast: every process must ask for it, or those that do wait for ever.
    """
    return Path(trainer.log_dir or trainer.default_root_dir)


def has_stepped(trainer: Trainer) -> bool:
    """Whether the last batch ended a step. With accumulated gradients a step takes several; no state lies between."""
    return trainer.accumulate_grad_batches == 1 or not trainer.fit_loop.epoch_loop._should_accumulate()


def as_images(x: Tensor, data: Description) -> Tensor:
    """Examples of such data ``(n, D)`` as images ``(n, H, W)`` in [0, 1], ready to draw."""
    return darkness(x.cpu().view(-1, *(data.shape or ())), data.scale)


def tensorboards(trainer: Trainer) -> list[TensorBoardLogger]:
    """The run's TensorBoard loggers."""
    return [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]


def publish(trainer: Trainer, folder: Path, figures: Iterable[tuple[str, Figure]]) -> None:
    """Write figures as ``figures/<name>.png`` in the run's folder, and to TensorBoard at the current step.

    One process draws them: give an iterator that draws when it is asked.
    """
    if not trainer.is_global_zero:
        return
    for name, figure in figures:
        pixels = render(figure)
        save_png(pixels, folder / "figures" / f"{name}.png")
        for logger in tensorboards(trainer):
            logger.experiment.add_image(f"figures/{name}", pixels, trainer.global_step, dataformats="HWC")
