"""Samples of an untrained model, and an underflow."""

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from torch import Tensor

from lvm_lightning.figures.grids import tile
from lvm_lightning.figures.rendering import new_figure, with_legend


def log_space_figure(images: Tensor, log_naive: npt.NDArray[np.float32], log_space: npt.NDArray[np.float32]) -> Figure:
    """Images ``(n, H, W)`` in one row; below, both estimates of log p(x) over the number of pixels, ``(D,)``, nats."""
    figure, (top, bottom) = new_figure(8, 5, rows=2, height_ratios=[1, 3])
    top.imshow(tile(images, len(images)).numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    top.set_title("Samples x ~ p(x) of the untrained model", fontsize=10)
    top.set_axis_off()
    pixels = np.arange(1, len(log_space) + 1)
    alive = np.isfinite(log_naive)
    bottom.plot(pixels, log_space, label="logsumexp_s log p(x|z_s) − log S")
    bottom.plot(pixels[alive], log_naive[alive], "--", linewidth=2.5, label="log of 1/S Σ_s p(x|z_s)")
    if not alive.all():
        last = int(pixels[alive][-1])
        bottom.axvline(last, color="C3", linewidth=1, label=f"beyond {last} pixels p(x) is 0 in float32, its log −∞")
    bottom.set(xlabel="pixels counted", ylabel="estimate of log p(x) (nats)")
    with_legend(bottom, fontsize=8)
    return figure
