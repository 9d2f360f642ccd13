"""Curves over training."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from lvm_lightning.figures.rendering import new_figure, with_legend


def training_curve(bounds: Sequence[float], title: str, window: int = 50) -> Figure:
    """The training bound at each step, and its mean over the last ``window`` steps, in nats per image."""
    values = np.asarray(bounds)
    steps = np.arange(1, len(values) + 1)
    figure, (axes,) = new_figure(6.5, 4)
    axes.plot(steps, values, color="0.75", linewidth=0.6, label="one step's batch")
    if len(values) >= window:
        mean = np.convolve(values, np.ones(window) / window, mode="valid")
        axes.plot(steps[window - 1 :], mean, color="C0", linewidth=1.6, label=f"mean of the last {window} steps")
    # The first steps lie far below: the axis starts where all but the lowest twentieth of the values are.
    low, high = np.quantile(values, 0.05), values.max()
    axes.set_ylim(low - 0.15 * (high - low) - 1e-3, high + 0.05 * (high - low) + 1e-3)
    axes.set(xlabel="training step", ylabel="training bound (nats per image)", title=title)
    with_legend(axes, loc="lower right")
    return figure
