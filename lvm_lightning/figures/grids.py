"""Grids of images, on-pixels dark on white."""

import math

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torchvision.utils import make_grid

from lvm_lightning.figures.rendering import new_figure

GAP = 2
"""White pixels between neighbouring images."""


def darkness(x: Tensor, pixel_range: tuple[float, float]) -> Tensor:
    """x on the scale of a data set → [0, 1], 0 at the range's lower end; what lies outside is cut."""
    low, high = pixel_range
    return ((x - low) / (high - low)).clamp(0, 1)


def tile(images: Tensor, columns: int) -> Tensor:
    """Images ``(n, H, W)`` in [0, 1] as one picture, row by row, white between them: 1 is dark, 0 is white."""
    picture: Tensor = make_grid(1 - images.unsqueeze(1).float(), nrow=columns, padding=GAP, pad_value=1.0)[0]
    return picture.clamp(0, 1)


def image_grid(images: Tensor, title: str, columns: int | None = None) -> Figure:
    """Images ``(n, H, W)`` in [0, 1] in rows of ``columns`` (by default a square), under a title."""
    columns = columns or math.ceil(math.sqrt(len(images)))
    figure, axes = _canvas(tile(images, columns), title)
    axes.set_axis_off()
    return figure


def reconstruction_grid(inputs: Tensor, reconstructions: Tensor, title: str, columns: int = 4) -> Figure:
    """Inputs and beside each its reconstruction, both ``(n, H, W)`` in [0, 1]: ``columns`` pairs a row."""
    pairs = torch.stack([inputs, reconstructions], 1).flatten(0, 1)
    return image_grid(pairs, title, columns=2 * columns)


def latent_grid(images: Tensor, extent: float, title: str) -> Figure:
    """Means decoded on a square grid over [−extent, extent]², ``(n·n, H, W)``: z₁ runs to the right, z₂ up.

    Image ``i * n + j`` belongs to the j-th value of z₁ and, from the top, the i-th value of z₂.
    """
    n = math.isqrt(len(images))
    picture = tile(images, n)
    figure, axes = _canvas(picture, title)
    size = picture.shape[-1]
    centre = [(i + 0.5) * size / n - 0.5 for i in range(n)]
    value = [f"{extent * (2 * i / max(1, n - 1) - 1):.1f}" for i in range(n)]
    axes.set_xticks(centre, value, fontsize=7)
    axes.set_yticks(centre, value[::-1], fontsize=7)
    axes.set(xlabel="z₁", ylabel="z₂")
    axes.spines[:].set_visible(False)
    return figure


def _canvas(picture: Tensor, title: str) -> tuple[Figure, Axes]:
    height, width = picture.shape
    figure, (axes,) = new_figure(5, 5 * height / width + 0.4)
    axes.imshow(picture.cpu().numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_title(title, fontsize=10)
    return figure, axes
