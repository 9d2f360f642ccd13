"""Samples, Bernoulli means and decoded grids at each validation."""

from collections.abc import Iterator
from typing import cast

import lightning.pytorch as pl
import torch
from matplotlib.figure import Figure
from torch import Tensor

from lvm_lightning.callbacks.run_folder import publish, run_folder
from lvm_lightning.figures import darkness, image_grid, latent_grid
from lvm_lightning.modules.base import LatentVariableModule
from lvm_lightning.support.argtypes import PositiveInt


class Pictures(pl.Callback):
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

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw, in one process, outside the sanity check."""
        data = getattr(trainer, "datamodule", None)
        shape, pixel_range = getattr(data, "image_shape", (28, 28)), getattr(data, "pixel_range", (0.0, 1.0))
        if trainer.sanity_checking or shape is None:  # a data set without images says so
            return
        folder = run_folder(trainer)
        if trainer.is_global_zero:
            for name, figure in self.draw(cast(LatentVariableModule, pl_module), shape, pixel_range):
                publish(trainer, folder, figure, name)

    def draw(
        self, module: LatentVariableModule, shape: tuple[int, ...], pixel_range: tuple[float, float] = (0.0, 1.0)
    ) -> Iterator[tuple[str, Figure]]:
        """Names and figures, one after the other."""
        generator = module.noise("figures", 0)
        z, likelihood = module.sample_prior(self.side**2, generator), module.likelihood

        def images(x: Tensor) -> Tensor:
            return darkness(x.cpu().view(-1, *shape), pixel_range)

        parameters = self._decode(module, z)
        sample, mean = likelihood.sample(parameters, generator), likelihood.mean(parameters)
        means = f"{type(likelihood).__name__} means E[x|z]"
        yield "samples", image_grid(images(sample), f"{len(z)} samples x ~ p(x)")
        yield "means", image_grid(images(mean), f"{means}, z ~ p(z): not samples of x")
        if z.shape[-1] == 2:
            axis = torch.linspace(-self.extent, self.extent, self.side, device=module.device)
            z2, z1 = torch.meshgrid(axis.flip(0), axis, indexing="ij")
            mean = likelihood.mean(self._decode(module, torch.stack([z1, z2], -1).view(-1, 2)))
            title = f"{means} on a grid over [−{self.extent:g}, {self.extent:g}]²"
            yield "latent_grid", latent_grid(images(mean), self.extent, title)

    def _decode(self, module: LatentVariableModule, z: Tensor) -> Tensor:
        with torch.inference_mode(), module.full_precision():
            return module.decode(z)
