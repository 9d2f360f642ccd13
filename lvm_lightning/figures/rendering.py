"""Figures without a display and without global state, and their pixels."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from lvm_lightning.support.files import replacing

Pixels = npt.NDArray[np.uint8]


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    """A figure of the given size in inches, and its empty axes, row by row; the options are those of ``subplots``."""
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options).flatten()


def with_legend(axes: Axes, **options: Any) -> None:
    """Finish a plot: a faint grid, and the legend."""
    axes.grid(alpha=0.3)
    axes.legend(**options)


def render(figure: Figure) -> Pixels:
    """Pixels ``(H, W, 3)`` of a figure."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def save_png(pixels: Pixels, path: Path) -> None:
    """Write a PNG; the file is replaced in one step."""
    with replacing(path) as file:
        Image.fromarray(pixels).save(file, format="png")
