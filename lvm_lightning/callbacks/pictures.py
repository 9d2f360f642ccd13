"""Samples, Bernoulli means and decoded grids at each validation."""

from collections.abc import Iterator
from functools import partial
from typing import cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from matplotlib.figure import Figure

from lvm_lightning.callbacks.run_folder import as_images, publish, run_folder
from lvm_lightning.figures import image_grid, latent_grid
from lvm_lightning.modules.base import LatentVariableModule
from lvm_lightning.support.argtypes import PositiveInt


class Pictures(Callback):
    """Draw what the model generates, at each validation, to TensorBoard and to ``figures/`` in the run's folder.

    ``samples`` are drawn from p(x), ``means`` are E[x|z] at the same z (not samples of x: a sample has no grey),
    and ``latent_grid`` decodes a grid over [−extent, extent]² when K = 2. The points z stay the same from one
    validation to the next.

    Args:
        side: images along one side of each picture.
        extent: half the width of the decoded grid.
    """

    def __init__(self, side: PositiveInt = 8, extent: float = 3.0) -> None:
        self.side, self.extent = side, extent

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw, in one process, outside the sanity check."""
        module = cast(LatentVariableModule, pl_module)
        if not trainer.sanity_checking and module.data.shape is not None:  # observations are no images
            with torch.inference_mode(), module.full_precision():
                publish(trainer, run_folder(trainer), self.draw(module))

    def draw(self, module: LatentVariableModule) -> Iterator[tuple[str, Figure]]:
        """Names and figures, one after the other."""
        model, images = module.model, partial(as_images, data=module.data)
        drawn = model.sample(self.side**2, module.noise("figures", 0))
        means = f"{type(model.likelihood).__name__} means E[x|z]"
        yield "samples", image_grid(images(drawn.x), f"{len(drawn.x)} samples x ~ p(x)")
        yield "means", image_grid(images(drawn.mean), f"{means}, z ~ p(z): not samples of x")
        if model.prior.dim == 2:
            axis = torch.linspace(-self.extent, self.extent, self.side, device=drawn.z.device)
            z2, z1 = torch.meshgrid(axis.flip(0), axis, indexing="ij")
            mean = model.likelihood.mean(model.decode(torch.stack([z1, z2], -1).view(-1, 2)))
            title = f"{means} on a grid over [−{self.extent:g}, {self.extent:g}]²"
            yield "latent_grid", latent_grid(images(mean), self.extent, title)
