"""What a test found: a table, ``evaluation.json``, TensorBoard's hyper-parameters; and what outlives a kill."""

from typing import Any, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import TensorBoardLogger

from lvm_lightning.callbacks.run_folder import run_folder
from lvm_lightning.evaluation.quantity import table
from lvm_lightning.evaluation.report import (
    FinishedBatches,
    Provenance,
    digest_of,
    digest_of_weights,
    versions,
    write_report,
)
from lvm_lightning.modules.base import LatentVariableModule
from lvm_lightning.support.files import write_arrays


def provenance(trainer: pl.Trainer, module: LatentVariableModule, data: pl.LightningDataModule | None) -> Provenance:
    """What the numbers of this module on this data are about."""
    described: dict[str, Any] = data.description() if data is not None and hasattr(data, "description") else {}
    return Provenance(
        seed=torch.initial_seed(),
        data=described,
        configuration=digest_of({"model": dict(module.hparams), "data": described}),
        weights=digest_of_weights(module.state_dict()),
        device=str(trainer.strategy.root_device),
        versions=versions(),
    )


class EvaluationReport(pl.Callback):
    """Print a test's quantities and write them to ``evaluation.json`` in the run's folder, with what they are about.

    The results of finished batches lie in ``evaluation.part`` until then: a test that was killed goes on from them when
    it is started again on the same model, data and settings.

    Args:
        save_per_example: whether each image's values are written to ``evaluation_per_example.npz``, for ``compare``.
    """

    def __init__(self, save_per_example: bool = False) -> None:
        self.save_per_example = save_per_example
        self._provenance: Provenance | None = None

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say what the numbers will be about, and look for batches that an earlier test has finished."""
        module = cast(LatentVariableModule, pl_module)
        data: pl.LightningDataModule | None = getattr(trainer, "datamodule", None)
        self._provenance = provenance(trainer, module, data)
        folder = run_folder(trainer)
        if self._provenance.data:
            module.finished = FinishedBatches(folder / "evaluation.part", self._provenance.key)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print and write, in one process."""
        module, folder = cast(LatentVariableModule, pl_module), run_folder(trainer)
        finished, module.finished = module.finished, None
        trainer.strategy.barrier()
        if not trainer.is_global_zero:
            return
        assert self._provenance is not None
        path = folder / "evaluation.json"
        write_report(path, module.evaluation, self._provenance)
        written = [path]
        if self.save_per_example:
            written.append(self._write_per_example(module, folder))
        if finished is not None:
            if finished.recalled:
                print(f"\n{finished.recalled} batches were taken over from a test that did not end")
            finished.clear()
        self._fill_hyperparameters(trainer, module)
        print(f"\n{table(module.evaluation)}\n")
        for note in module.notes:
            print(f"warning: {note}\n")
        print(f"written to {' and '.join(map(str, written))}")

    def _write_per_example(self, module: LatentVariableModule, folder: Any) -> Any:
        assert self._provenance is not None
        path = folder / "evaluation_per_example.npz"
        write_arrays(path, {name: values.cpu().numpy() for name, values in module.per_example.items()})
        return path

    def _fill_hyperparameters(self, trainer: pl.Trainer, module: LatentVariableModule) -> None:
        """TensorBoard's HPARAMS tab: the settings, and the test's values."""
        metrics = {f"hp/{q.name}": q.value for q in module.evaluation}
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                settings = {name: value for name, value in module.hparams.items() if not name.startswith("_")}
                logger.log_hyperparams(settings, metrics)
