"""Weights that a training starts from, of another run."""

import re
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lvm_lightning.command.checkpoints import read_checkpoint
from lvm_lightning.command.naming import state_of
from lvm_lightning.support import PROGRAM, UserError


class WeightsFrom(pl.Callback):
    """Start from the weights of a checkpoint that the model has by name: the model may be of another class.

    What the checkpoint lacks starts as it would without.

    Args:
        path: the checkpoint, or the folder of a run, whose best state is taken.

    Raises:
        UserError: if it cannot be read, shares no weight with the model, or has one of another shape.
    """

    def __init__(self, path: Path) -> None:
        try:
            self.path = state_of(path, "test") if path.is_dir() else path
            self.weights: dict[str, Tensor] = read_checkpoint(self.path)["state_dict"]
        except UserError as error:
            raise UserError(re.sub(r"^(run|ckpt_path):", "weights_from:", str(error))) from error

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Behind ``setup``, which starts output biases and priors from the data."""
        own = pl_module.state_dict()
        shared = {name: weight for name, weight in self.weights.items() if name in own}
        for name, weight in shared.items():
            if weight.shape != own[name].shape:
                raise UserError(
                    f"weights_from: {name} must have the model's shape {tuple(own[name].shape)}, got "
                    f"{tuple(weight.shape)} in {self.path}; give the network the settings of that run"
                )
        if not shared:
            raise UserError(f"weights_from: must share weights with the model, got {self.path}, which has none of them")
        pl_module.load_state_dict(shared, strict=False)
        self.weights = {}
        new = [name for name in own if name not in shared]
        rank_zero_info(
            f"{PROGRAM}: weights_from: {len(shared)} of {len(own)} tensors are those of {self.path}"
            + (f"; new are {', '.join(new)}" if new else "")
        )
