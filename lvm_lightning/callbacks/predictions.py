"""What ``predict`` computes for each image, as one file."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lvm_lightning.callbacks.run_folder import run_folder
from lvm_lightning.support.files import write_arrays


class Predictions(Callback):
    """Write the predictions of all batches to ``predictions.npz`` in the run's folder, one array a name.

    With several processes each writes its own images, to ``predictions_rank<r>.npz``.
    """

    def __init__(self) -> None:
        self._batches: list[dict[str, torch.Tensor]] = []

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
        print(f"predictions ({', '.join(arrays)}) of {len(arrays['label']):,} images written to {path}")
