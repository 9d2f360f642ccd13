"""torch.compile for training."""

import lightning.pytorch as pl
import torch
from torch import nn


class CompiledNetworks(pl.Callback):
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

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compile in place."""
        for name in ("decoder", "encoder"):
            network = getattr(pl_module, name, None)
            if isinstance(network, nn.Module):
                network.compile(**self.options)
