"""Reconstructions and the latent space at each validation, for models with an encoder."""

from collections.abc import Iterator
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.figure import Figure
from torch import Tensor

from lvm_lightning.callbacks.run_folder import publish, run_folder
from lvm_lightning.evaluation.diagnostics import ACTIVE, activity
from lvm_lightning.figures import darkness, latent_scatter, reconstruction_grid, unit_activity
from lvm_lightning.modules import GaussianVAE


class PosteriorPictures(pl.Callback):
    """Draw what the encoder does with held-out images, to TensorBoard and to ``figures/`` in the run's folder.

    ``reconstructions`` shows inputs and beside each E[x|z] at the proposal's location; ``latents`` where the proposals
    lie, by digit; ``units`` the KL of each latent dimension and which are active, also as TensorBoard histograms.

    Args:
        images: number of reconstructions.
    """

    def __init__(self, images: int = 32) -> None:
        self.images = images
        self._inputs: Tensor | None = None

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: object,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the first images."""
        if batch_idx == 0:
            self._inputs = batch.x[: self.images]

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw, in one process, outside the sanity check."""
        if trainer.sanity_checking or not isinstance(pl_module, GaussianVAE):
            return
        folder = run_folder(trainer)
        if trainer.is_global_zero:
            data = getattr(trainer, "datamodule", None)
            shape, pixel_range = getattr(data, "image_shape", (28, 28)), getattr(data, "pixel_range", (0.0, 1.0))
            for name, figure in self.draw(pl_module, shape, pixel_range):
                publish(trainer, folder, figure, name)
            self._histograms(trainer, pl_module)

    def draw(
        self, module: GaussianVAE, shape: tuple[int, ...], pixel_range: tuple[float, float]
    ) -> Iterator[tuple[str, Figure]]:
        """Names and figures, one after the other."""
        latents, x = module.latents, self._inputs
        assert latents is not None
        assert x is not None
        with torch.inference_mode(), module.full_precision():
            mean = module.likelihood.mean(module.decode(module.encode(x).location))
        inputs, means = (darkness(images.cpu().view(-1, *shape), pixel_range) for images in (x, mean))
        yield (
            "reconstructions",
            reconstruction_grid(inputs, means, "Validation images, and beside each E[x|z], z = E_q[z]"),
        )
        what = "Posterior means" if latents.kl is not None else "Images of the base's means under the flow"
        yield "latents", latent_scatter(latents.location, latents.label, what)
        if latents.kl is not None:
            yield "units", unit_activity(latents.kl.mean(0), activity(latents.location), ACTIVE)

    def _histograms(self, trainer: pl.Trainer, module: GaussianVAE) -> None:
        latents = module.latents
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger) and latents is not None and latents.kl is not None:
                writer, step = logger.experiment, trainer.global_step
                writer.add_histogram("latents/kl_per_dimension_nats", latents.kl.mean(0), step)
                writer.add_histogram("latents/activity", activity(latents.location), step)
