"""What the loggers show of a run: the bound on one chart, a row in the table of runs, and pictures."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger
from matplotlib.figure import Figure

from lvm_lightning.evaluation import Quantity
from lvm_lightning.evaluation.tags import tags_of
from lvm_lightning.figures.pictures import Pixels
from lvm_lightning.modules.base import LatentVariableModule

CHART = "bound"
"""TensorBoard's tag of the training and the validation bound. It sorts first, so the page opens on it."""
SPLITS = {"train": "train", "val": "validation"}
"""What the curves of that chart are called."""
METRICS = (
    ("validation bound", CHART, f"{CHART}_{SPLITS['val']}"),
    ("training bound", CHART, f"{CHART}_{SPLITS['train']}"),
    ("test log p(x)", "test/log_px", ""),
    ("test bound", "test/bound", ""),
)
"""Columns of TensorBoard's table of runs: the name, the tag, and which curve of the chart."""
TITLES = {
    "samples": "samples of the model",
    "means": "means E[x|z], no samples",
    "latent_grid": "means over the latent plane",
    "reconstructions": "images and their reconstructions",
    "latents": "codes of the images",
    "units": "KL of each latent unit",
    "training_bound": "training curve",
    "posterior": "posterior and surrogate",
    "kl": "KL over the rate",
    "theta": "rate after each step",
    "gap": "gap over N",
}
"""What loggers call our figures. Under any other name a figure keeps it."""


def tensorboards(trainer: Trainer) -> list[TensorBoardLogger]:
    """The run's TensorBoard loggers."""
    return [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]


def log_bound(trainer: Trainer, split: str, values: Mapping[str, float]) -> None:
    """Log a bound and what belongs to it, at the number of steps that the weights have behind them.

    TensorBoard draws the bounds of both splits on one chart, ``bound``. Other loggers have ``train/bound`` and
    ``val/bound``: there the reader chooses what shares a chart.

    Args:
        trainer: whose loggers.
        split: ``train`` or ``val``.
        values: ``bound`` and further numbers by name.
    """
    named, step = {f"{split}/{name}": value for name, value in values.items()}, trained_steps(trainer)
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            rest: dict[str, Any] = dict(named)
            if (bound := rest.pop(f"{split}/bound", None)) is not None:
                rest[CHART] = {SPLITS[split]: bound}  # a writer for each split, so that both have one tag
            logger.log_metrics(rest, step)
        else:
            logger.log_metrics(named | {"epoch": trainer.current_epoch}, step)
        logger.save()


def log_test(trainer: Trainer, quantities: list[Quantity], table: str) -> None:
    """Log what a test has measured, at the number of steps that its weights were trained for.

    A value is one point, which is no curve: TensorBoard has the table as text, and the values for its table of runs.

    Args:
        trainer: whose loggers.
        quantities: what was measured.
        table: the same in lines of text.
    """
    tags, step = tags_of(q.name for q in quantities), trained_steps(trainer)
    values = {f"test/{tags[q.name]}": q.value for q in quantities}
    errors = {f"test/{tags[q.name]}_stderr": q.stderr for q in quantities}
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.log_metrics({tag: values[tag] for _, tag, _ in METRICS if tag in values}, step)
            logger.experiment.add_text("test", "".join(f"    {line}\n" for line in table.splitlines()), step)
        else:
            logger.log_metrics(values | errors, step)
        logger.save()


def trained_steps(trainer: Trainer) -> int:
    """How many steps the weights have behind them that a trainer has trained, or has read for a test."""
    path = Path(trainer.ckpt_path or "")
    if trainer.global_step or not path.is_file():
        return trainer.global_step
    return int(torch.load(path, map_location="cpu", weights_only=True, mmap=True)["global_step"])


def list_run(trainer: Trainer, module: LatentVariableModule) -> None:
    """Give the run a row in TensorBoard's table of runs (HPARAMS): what was chosen, and what came of it.

    Every run names the same columns: TensorBoard takes those of the first run that it finds.
    """
    boards = tensorboards(trainer)
    if not boards or not trainer.is_global_zero:
        return
    from tensorboard.compat.proto.summary_pb2 import Summary  # imported here: half a second
    from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2
    from torch.utils.tensorboard.summary import hparams

    chosen = settings_of(trainer, module)
    kinds = {True: api_pb2.DATA_TYPE_STRING, False: api_pb2.DATA_TYPE_FLOAT64}
    columns = [api_pb2.HParamInfo(name=name, type=kinds[isinstance(value, str)]) for name, value in chosen.items()]
    metrics = [
        api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag, group=group), display_name=name)
        for name, tag, group in METRICS
    ]
    table = plugin_data_pb2.HParamsPluginData(experiment=api_pb2.Experiment(hparam_infos=columns, metric_infos=metrics))
    # torch's helper knows no curves of a chart as metrics: of its three parts only the run's row is taken
    _, row, _ = hparams({name: value for name, value in chosen.items() if value is not None}, {})
    head = Summary.Value(tag=metadata.EXPERIMENT_TAG, metadata=metadata.create_summary_metadata(table))
    for logger in boards:
        for written in (Summary(value=[head]), row):
            logger.experiment._get_file_writer().add_summary(written)
        logger.experiment.flush()


def settings_of(trainer: Trainer, module: LatentVariableModule) -> dict[str, str | float | None]:
    """The choices that tell one run from another, by the names of the table's columns.

    TensorBoard sorts the columns by these names, capital letters first, and shows five at first.
    """
    optimizer, steps = trainer.optimizers[0], trainer.estimated_stepping_batches
    return {
        "type of model": type(module).__name__,
        "K (latent_dim)": getattr(module.model.prior, "dim", None),
        "J (outer_samples)": module.J,
        "N (inner_samples)": module.N,
        "optimiser": type(optimizer).__name__,
        "learning rate": optimizer.defaults.get("lr"),
        "size of a batch": getattr(module.datamodule, "batch_size", None),
        "steps": steps if math.isfinite(steps) else None,
    }


def log_figure(logger: Logger, name: str, figure: Figure, pixels: Pixels, step: int) -> None:
    """Show a figure in a logger that takes pictures; one that takes none is passed over.

    Args:
        logger: TensorBoard's, W&B's, MLflow's or Comet's, or your own with W&B's ``log_image``.
        name: the figure's file name without its ending.
        figure: the figure.
        pixels: the same, drawn.
        step: the number of finished steps.
    """
    title = f"figures/{TITLES.get(name, name)}"
    if isinstance(logger, TensorBoardLogger):
        logger.experiment.add_image(title, pixels, step, dataformats="HWC")
    elif isinstance(logger, MLFlowLogger):
        logger.experiment.log_figure(logger.run_id, figure, f"figures/{name}_step_{step}.png")
    elif hasattr(logger, "log_image"):
        cast(Any, logger).log_image(key=title, images=[pixels], step=step)
    elif hasattr(experiment := getattr(logger, "experiment", None), "log_figure"):
        cast(Any, experiment).log_figure(figure_name=title, figure=figure, step=step)
