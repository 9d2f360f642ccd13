"""Arrays → matplotlib figures; nothing here knows when it is drawn or where it goes."""

from lvm_lightning.figures.curves import training_curve
from lvm_lightning.figures.grids import image_grid, latent_grid
from lvm_lightning.figures.rendering import render, save_png

__all__ = ["image_grid", "latent_grid", "render", "save_png", "training_curve"]
