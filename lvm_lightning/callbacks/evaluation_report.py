"""What a test found: a table, ``evaluation.json``, TensorBoard's hyper-parameters; and what outlives a kill."""

from typing import cast

from lightning.pytorch import Callback, LightningModule, Trainer

from lvm_lightning.callbacks.run_folder import run_folder, tensorboards
from lvm_lightning.evaluation import EvaluationSettings, Evaluator, table
from lvm_lightning.evaluation.report import FinishedBatches, Provenance, write_report
from lvm_lightning.modules.base import LatentVariableModule
from lvm_lightning.modules.provenance import provenance
from lvm_lightning.support.argtypes import PositiveFloat, PositiveInt
from lvm_lightning.support.files import write_arrays


class EvaluationReport(Callback):
    """Print a test's quantities and write them to ``evaluation.json`` in the run's folder, with what they are about.

    The results of finished batches lie in ``evaluation.part`` until then: a test that was killed goes on from them when
    it is started again on the same model, data and settings.

    Args:
        samples: S of the importance-weighted bound L_S that a test measures log p(x) with; by default 5,000, and 4,096
            for the exponential-posterior model.
        widen: what that measurement multiplies the standard deviations of q(z|x) by: a wider proposal has lighter
            weights where q is too narrow.
        spacing: distance of the grid points of the quadrature where K = 2. A sharper posterior needs a finer grid; the
            grid's error stands beside the value.
        evaluators: further evaluators, your own for example: their quantities appear in the table too.
        save_per_example: whether each image's values are written to ``evaluation_per_example.npz``, for ``compare``.
    """

    _provenance: Provenance

    def __init__(
        self,
        samples: PositiveInt | None = None,
        widen: PositiveFloat = 1.0,
        spacing: PositiveFloat = 0.05,
        evaluators: list[Evaluator] | None = None,
        save_per_example: bool = False,
    ) -> None:
        self.settings = EvaluationSettings(samples, widen, spacing, evaluators or [])
        self.save_per_example = save_per_example

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Hand the settings to the module."""
        cast(LatentVariableModule, pl_module).settings = self.settings

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what the numbers will be about, and look for batches that an earlier test has finished."""
        module, folder = cast(LatentVariableModule, pl_module), run_folder(trainer)
        self._provenance = provenance(module, module.datamodule)
        if self._provenance.data:
            module.finished = FinishedBatches(folder / "evaluation.part", self._provenance.key)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print and write, in one process."""
        module, folder = cast(LatentVariableModule, pl_module), run_folder(trainer)
        finished, module.finished = module.finished, None
        trainer.strategy.barrier()
        if not trainer.is_global_zero:
            return
        written = [folder / "evaluation.json"]
        write_report(written[0], module.evaluation, self._provenance)
        if self.save_per_example:
            written.append(folder / "evaluation_per_example.npz")
            write_arrays(written[1], {name: values.cpu().numpy() for name, values in module.per_example.items()})
        if finished is not None:
            if finished.recalled:
                print(f"\n{finished.recalled} batches were taken over from a test that did not end")
            finished.clear()
        self._fill_hyperparameters(trainer, module)
        print(f"\n{table(module.evaluation)}\n")
        for note in module.warnings:
            print(f"warning: {note}\n")
        print(f"written to {' and '.join(map(str, written))}")

    def _fill_hyperparameters(self, trainer: Trainer, module: LatentVariableModule) -> None:
        """TensorBoard's HPARAMS tab: the settings, and the test's values."""
        metrics = {f"hp/{q.name}": q.value for q in module.evaluation}
        settings = {name: value for name, value in module.hparams.items() if not name.startswith("_")}
        for logger in tensorboards(trainer):
            logger.log_hyperparams(settings, metrics)
