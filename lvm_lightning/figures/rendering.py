"""Figures without a display and without global state, and their pixels."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from lvm_lightning.support.files import replacing

Pixels = npt.NDArray[np.uint8]


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of the given size in inches."""
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def render(figure: Figure) -> Pixels:
    """Pixels ``(H, W, 3)`` of a figure."""
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def save_png(pixels: Pixels, path: Path) -> None:
    """Write a PNG; the file is replaced in one step."""
    with replacing(path) as file:
        Image.fromarray(pixels).save(file, format="png")
