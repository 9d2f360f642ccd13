"""Arrays → matplotlib figures; nothing here knows when it is drawn or where it goes."""

from lvm_lightning.figures.curves import training_curve
from lvm_lightning.figures.grids import darkness, image_grid, latent_grid, reconstruction_grid
from lvm_lightning.figures.latents import latent_scatter, unit_activity
from lvm_lightning.figures.rendering import render, save_png

__all__ = [
    "darkness",
    "image_grid",
    "latent_grid",
    "latent_scatter",
    "reconstruction_grid",
    "render",
    "save_png",
    "training_curve",
    "unit_activity",
]
