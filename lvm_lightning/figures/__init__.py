"""Arrays → matplotlib figures; nothing here knows when it is drawn or where it goes."""

from lvm_lightning.figures.bound_over_samples import tightness_curve
from lvm_lightning.figures.curves import training_curve
from lvm_lightning.figures.grids import darkness, image_grid, latent_grid, reconstruction_grid
from lvm_lightning.figures.latents import latent_scatter, unit_activity
from lvm_lightning.figures.log_space import log_space_figure
from lvm_lightning.figures.rendering import render, save_png
from lvm_lightning.figures.toy import kl_curve, posterior_curves, rate_path, weighted_gaps
