"""Reconstructions and the latent space at each validation, for models with an encoder."""

from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from matplotlib.figure import Figure
from torch import Tensor

from lvm_lightning.callbacks.run_folder import as_images, publish, run_folder, tensorboards
from lvm_lightning.data.loader import Batch
from lvm_lightning.evaluation.diagnostics import ACTIVE, activity
from lvm_lightning.figures import latent_scatter, reconstruction_grid, unit_activity
from lvm_lightning.modules import GaussianVAE


class PosteriorPictures(Callback):
    """Draw what the encoder does with held-out images, to TensorBoard and to ``figures/`` in the run's folder.

    ``reconstructions`` shows inputs and beside each E[x|z] at the proposal's location; ``latents`` where the proposals
    lie, by digit; ``units`` the KL of each latent dimension and which are active, also as TensorBoard histograms.

    Args:
        images: number of reconstructions.
    """

    _inputs: Tensor

    def __init__(self, images: int = 32) -> None:
        self.images = images

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int, *_: Any
    ) -> None:
        """Keep the first images."""
        if batch_idx == 0:
            self._inputs = batch.x[: self.images]

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw, in one process, outside the sanity check."""
        if not trainer.sanity_checking and isinstance(pl_module, GaussianVAE):
            publish(trainer, run_folder(trainer), self.draw(pl_module))
            self._histograms(trainer, pl_module)

    def draw(self, module: GaussianVAE) -> Iterator[tuple[str, Figure]]:
        """Names and figures, one after the other."""
        latents, x = module.latents, self._inputs
        assert latents is not None
        with torch.inference_mode(), module.full_precision():
            mean = module.model.likelihood.mean(module.model.decode(module.propose(x).location))
        inputs, means = (as_images(examples, module.data) for examples in (x, mean))
        title = "Validation images, and beside each E[x|z], z = E_q[z]"
        yield "reconstructions", reconstruction_grid(inputs, means, title)
        what = "Posterior means" if latents.kl is not None else "Images of the base's means under the flow"
        yield "latents", latent_scatter(latents.location, latents.label, what)
        if latents.kl is not None:
            yield "units", unit_activity(latents.kl.mean(0), activity(latents.location), ACTIVE)

    def _histograms(self, trainer: Trainer, module: GaussianVAE) -> None:
        latents, step = module.latents, trainer.global_step
        if trainer.is_global_zero and latents is not None and latents.kl is not None:
            for logger in tensorboards(trainer):
                logger.experiment.add_histogram("latents/kl_per_dimension_nats", latents.kl.mean(0), step)
                logger.experiment.add_histogram("latents/activity", activity(latents.location), step)
