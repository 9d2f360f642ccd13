"""torch.compile for training."""

from typing import cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from lvm_lightning.modules.base import LatentVariableModule


class CompiledNetworks(Callback):
    """Compile decoder and encoder with ``torch.compile`` when training starts.

    The weights keep their names, so that a checkpoint does not know whether it was compiled. Sampling, bounds and
    estimators stay as they are: they are few and small beside the networks. Compiled products may round differently.

    Args:
        backend: compiler backend of torch.
        mode: how hard Inductor tries: ``reduce-overhead`` replays CUDA graphs, ``max-autotune`` tries kernels.

    Raises:
        ValueError: if torch has no such backend.
    """

    def __init__(self, backend: str = "inductor", mode: str | None = None) -> None:
        known = torch.compiler.list_backends(exclude_tags=())
        if backend not in known:
            raise ValueError(f"callbacks.backend: must be one of {', '.join(sorted(known))}, got {backend}")
        self.options = {"backend": backend, "mode": mode}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compile in place."""
        for network in (cast(LatentVariableModule, pl_module).model.decoder, getattr(pl_module, "encoder", None)):
            if isinstance(network, nn.Module):
                network.compile(**self.options)
