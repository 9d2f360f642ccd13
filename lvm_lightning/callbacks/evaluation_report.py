"""What a test found, as a table and as ``evaluation.json``."""

from typing import cast

import lightning.pytorch as pl

from lvm_lightning.callbacks.run_folder import run_folder
from lvm_lightning.evaluation.quantity import table, write_json
from lvm_lightning.modules.base import LatentVariableModule


class EvaluationReport(pl.Callback):
    """Print a test's quantities, and write them to ``evaluation.json`` in the run's folder."""

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print and write, in one process."""
        quantities = cast(LatentVariableModule, pl_module).evaluation
        folder = run_folder(trainer)
        if not trainer.is_global_zero:
            return
        folder.mkdir(parents=True, exist_ok=True)
        write_json(quantities, folder / "evaluation.json")
        print(f"\n{table(quantities)}\n\nwritten to {folder / 'evaluation.json'}")
