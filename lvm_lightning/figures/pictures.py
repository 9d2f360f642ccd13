"""Images as grids, on-pixels dark on white, and figures as files."""

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid

from lvm_lightning.figures.curves import DPI, new_figure, plain_ticks, with_legend
from lvm_lightning.support import replacing

Pixels = npt.NDArray[np.uint8]
Vector = Literal["svg", "pdf"]
GAP, PAIR_GAP = 2, 6
"""White pixels between neighbouring images, and between pairs of them."""
WIDTH, LINE, LETTER = 600, 24, 9.0
"""About how many pixels wide a grid of images is; the height of a line of its title, and the width of a letter."""


def render(figure: Figure) -> Pixels:
    """Pixels ``(H, W, 3)`` of a figure."""
    plain_ticks(figure)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def save_png(pixels: Pixels, path: Path) -> None:
    """Write a PNG; the file is replaced in one step."""
    with replacing(path) as file:
        Image.fromarray(pixels).save(file, format="png")


def save_figure(figure: Figure, path: Path, vector: Vector | None = None) -> Pixels:
    """Write a figure as a PNG, and beside it as a vector graphic if one is asked for.

    Args:
        figure: the figure.
        path: of the PNG.
        vector: the kind of vector graphic; none by default.

    Returns:
        The figure's pixels.
    """
    pixels = render(figure)
    save_png(pixels, path)
    if vector is not None:
        undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}[vector]
        with replacing(path.with_suffix(f".{vector}")) as file, rc_context({"svg.hashsalt": path.stem}):
            figure.savefig(file, format=vector, dpi=figure.dpi, metadata=undated)
    return pixels


def darkness(x: Tensor, pixel_range: tuple[float, float]) -> Tensor:
    """x on the scale of a data set → [0, 1], 0 at the range's lower end; what lies outside is cut."""
    low, high = pixel_range
    return ((x - low) / (high - low)).clamp(0, 1)


def tile(images: Tensor, columns: int, gap: int = GAP) -> Tensor:
    """Images ``(n, H, W)`` in [0, 1] as one picture, row by row, white between them: 1 is dark, 0 is white."""
    picture: Tensor = make_grid(1 - images.unsqueeze(1).float(), nrow=columns, padding=gap, pad_value=1.0)[0]
    return picture.clamp(0, 1)


def image_grid(images: Tensor, title: str, columns: int | None = None, gap: int = GAP) -> Figure:
    """Images ``(n, H, W)`` in [0, 1] in rows of ``columns`` (by default a square), under a title."""
    columns = columns or math.ceil(math.sqrt(len(images)))
    figure, axes = _canvas(tile(images, columns, gap), title)
    axes.set_axis_off()
    return figure


def reconstruction_grid(inputs: Tensor, reconstructions: Tensor, title: str, columns: int = 8) -> Figure:
    """Inputs, each over its reconstruction, both ``(n, H, W)`` in [0, 1]: ``columns`` pairs a row, wide apart."""
    line = inputs.new_zeros(len(inputs), 1, inputs.shape[-1])
    return image_grid(torch.cat([inputs, line, reconstructions], 1), title, columns, PAIR_GAP)


def latent_grid(images: Tensor, values: Sequence[float], title: str) -> Figure:
    """Means decoded on a square grid, ``(n·n, H, W)``: z₁ runs to the right, z₂ up.

    Image ``i * n + j`` belongs to the j-th value of z₁ and, from the top, the i-th value of z₂.

    Args:
        images: the means.
        values: the ``n`` values of z₁ and of z₂, rising.
        title: of the figure.
    """
    n = math.isqrt(len(images))
    picture = tile(images, n)
    figure, axes = _canvas(picture, title, margin=70)
    size = torch.tensor(picture.shape)
    down, across = (((torch.arange(n) + 0.5) * (length - GAP) / n + GAP / 2 - 0.5).tolist() for length in size)
    named = [f"{value:.1f}".replace("-", "−") for value in values]
    axes.set_xticks(across, named, fontsize=8)
    axes.set_yticks(down, named[::-1], fontsize=8)
    axes.set(xlabel="z₁", ylabel="z₂")
    axes.spines[:].set_visible(False)
    return figure


def _canvas(picture: Tensor, title: str, margin: int = 6) -> tuple[Figure, Axes]:
    """A figure in which each pixel of a picture is a whole number of pixels wide and high.

    Args:
        picture: ``(H, W)``.
        title: lines; what is too long for one is broken.
        margin: pixels to the left and below.
    """
    height, width = (max(1, round(WIDTH / picture.shape[-1])) * length for length in picture.shape)
    whole = width + margin + 6
    lines = [part for line in title.splitlines() for part in textwrap.wrap(line, int(whole / LETTER))]
    high = height + margin + LINE * len(lines) + 12
    figure = Figure(figsize=((whole + 0.01) / DPI, (high + 0.01) / DPI), dpi=DPI)  # never rounded down
    axes = figure.add_axes((margin / whole, margin / high, width / whole, height / high))
    axes.imshow(picture.cpu().numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest", aspect="auto")
    figure.text(0.5, 1 - 6 / high, "\n".join(lines), fontsize=10, ha="center", va="top")
    return figure, axes


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
