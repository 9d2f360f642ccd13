"""The run's folder, where everything that a run leaves behind lies: what a test and ``predict`` write there."""

from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import Tensor

from lvm_lightning.callbacks.board import log_test
from lvm_lightning.evaluation import Budget, EvaluationSettings, Evaluator, table
from lvm_lightning.evaluation.layout import Screen
from lvm_lightning.evaluation.per_example import PER_EXAMPLE, REPORT, write_per_example
from lvm_lightning.evaluation.report import FinishedBatches, write_report
from lvm_lightning.modules.base import LatentVariableModule
from lvm_lightning.modules.provenance import provenance
from lvm_lightning.studies.explorer import interactive
from lvm_lightning.studies.report import PAGE, write_page
from lvm_lightning.support import PositiveFloat, PositiveInt, UserError, write_arrays


def run_folder(trainer: Trainer) -> Path:
    """The logger's folder for this run, or the trainer's default folder without a logger.

    The folder is broadcast: every process must ask for it, or those that do wait for ever. A logger without a folder
    for each run (W&B's, MLflow's) gets one where Lightning puts the run's checkpoints, so that runs stay apart.
    """
    logger = trainer.logger
    if logger is None or isinstance(logger, TensorBoardLogger | CSVLogger):
        return Path(trainer.log_dir or trainer.default_root_dir)
    version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
    folder = Path(logger.save_dir or trainer.default_root_dir) / str(logger.name) / version
    return trainer.strategy.broadcast(folder)


def has_stepped(trainer: Trainer) -> bool:
    """Whether the last batch ended a step. With accumulated gradients a step takes several; no state lies between."""
    return trainer.accumulate_grad_batches == 1 or not trainer.fit_loop.epoch_loop._should_accumulate()


class EvaluationReport(Callback):
    """Print a test's quantities and write them to ``evaluation.json`` in the run's folder, with what they are about.

    A page about the run, ``report.html``, is written beside it, with the model to explore where it can be. The
    results of finished batches lie in ``evaluation.part`` until then: a test that was killed goes on from them when
    it is started again on the same model, data and settings.

    Args:
        samples: S of the importance-weighted bound L_S that a test measures log p(x) with; by default 5,000, and 4,096
            for the exponential-posterior model.
        widen: what that measurement multiplies the standard deviations of q(z|x) by: a wider proposal has lighter
            weights where q is too narrow.
        spacing: distance of the grid points of the quadrature where K = 2. A sharper posterior gets a denser grid of
            its own; the error stands beside the value.
        log_p: how much is spent on log p(x) of a model with an encoder: L_500, L_2000 or L_10000 with proposals that
            are fitted to each image; at most ``samples`` where that is set.
        evaluators: further evaluators, your own for example: their quantities appear in the table too.
        save_per_example: whether each image's values are written to ``evaluation_per_example.npz``, for ``compare``; a
            test without it removes those of an earlier one.
    """

    def __init__(
        self,
        samples: PositiveInt | None = None,
        widen: PositiveFloat = 1.0,
        spacing: PositiveFloat = 0.05,
        log_p: Budget = "standard",
        evaluators: list[Evaluator] | None = None,
        save_per_example: bool = False,
    ) -> None:
        self.settings = EvaluationSettings(samples, widen, spacing, log_p, evaluators or [])
        self.save_per_example = save_per_example

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Hand the settings to the module."""
        cast(LatentVariableModule, pl_module).settings = self.settings

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what the numbers will be about, and look for batches that an earlier test has finished."""
        module, folder = cast(LatentVariableModule, pl_module), run_folder(trainer)
        module.logs_bound = False
        self._provenance = provenance(module, module.datamodule)
        if self._provenance.data:
            module.finished = FinishedBatches(folder / "evaluation.part", self._provenance.key)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print and write, in one process."""
        module, folder = cast(LatentVariableModule, pl_module), run_folder(trainer)
        finished, module.finished = module.finished, None
        module.logs_bound = True
        trainer.strategy.barrier()
        if not trainer.is_global_zero:
            return
        written = [folder / REPORT]
        write_report(written[0], module.evaluation, self._provenance)
        if self.save_per_example:
            written.append(write_per_example(folder, module.per_example))
        else:
            (folder / PER_EXAMPLE).unlink(missing_ok=True)  # an earlier test's
        if finished is not None:
            if finished.recalled:
                print(f"\n{finished.recalled} batches were taken over from a test that did not end")
            finished.clear()
        log_test(trainer, module.evaluation, table(module.evaluation))
        print(f"\n{table(module.evaluation, Screen.here())}\n")
        for note in module.warnings:
            print(f"warning: {note}\n")
        try:
            explorer = interactive(lambda: module, lambda: module.datamodule)
            written.append(write_page([folder], folder / PAGE, lambda _: explorer))
        except UserError as error:  # of another file in the folder: the numbers are written
            print(f"warning: no {PAGE}: {error}\n")
        print(f"written to {' and '.join(map(str, written))}")


class Predictions(Callback):
    """Write the predictions of all batches to ``predictions.npz`` in the run's folder, one array a name.

    With several processes each writes its own images, to ``predictions_rank<r>.npz``.
    """

    def __init__(self) -> None:
        self._batches: list[dict[str, Tensor]] = []

    def on_predict_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        """Keep the batch's predictions on the CPU."""
        self._batches.append({name: value.cpu() for name, value in outputs.items()})

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the file."""
        rank = f"_rank{trainer.global_rank}" if trainer.world_size > 1 else ""
        path = run_folder(trainer) / f"predictions{rank}.npz"
        arrays = {name: torch.cat([b[name] for b in self._batches]).numpy() for name in self._batches[0]}
        write_arrays(path, arrays)
        self._batches = []
        self._told = f"predictions ({', '.join(arrays)}) of {len(arrays['label']):,} images written to {path}"

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say where it is, behind the progress bar, which has ended by now."""
        print(self._told)
