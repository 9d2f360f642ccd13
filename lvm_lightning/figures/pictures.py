"""Images as grids, on-pixels dark on white, what their proposals look like in latent space, and figures as files."""

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid

from lvm_lightning.figures.curves import new_figure, with_legend
from lvm_lightning.support import replacing

Pixels = npt.NDArray[np.uint8]
GAP = 2
"""White pixels between neighbouring images."""


def render(figure: Figure) -> Pixels:
    """Pixels ``(H, W, 3)`` of a figure."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def save_png(pixels: Pixels, path: Path) -> None:
    """Write a PNG; the file is replaced in one step."""
    with replacing(path) as file:
        Image.fromarray(pixels).save(file, format="png")


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
    return image_grid(torch.stack([inputs, reconstructions], 1).flatten(0, 1), title, columns=2 * columns)


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


def latent_scatter(location: Tensor, label: Tensor, what: str) -> Figure:
    """One dot an image where its proposal lies, coloured by digit.

    Args:
        location: ``(n, K)``; for K > 2 its first two principal axes are drawn.
        label: ``(n,)``; if all are the same the images are unlabelled, and one colour is enough.
        what: what the locations are, for the title.
    """
    location, label = location.double().cpu(), label.cpu()
    names = ["z₁", "z₂"]
    if location.shape[-1] > 2:
        location, share = principal_axes(location)
        names = [f"principal axis {i + 1} ({share[i]:.0%} of the variance)" for i in range(2)]
    elif location.shape[-1] == 1:
        location, names = torch.cat([location, torch.zeros_like(location)], -1), ["z₁", ""]
    figure, (axes,) = new_figure(6, 5.4)
    digits = label.unique().tolist()
    for digit in digits:
        x, y = location[label == digit].T.numpy()
        axes.scatter(x, y, s=2, alpha=0.6, linewidths=0, color=colormaps["tab10"](digit % 10), label=str(digit))
    if len(digits) > 1:
        axes.legend(markerscale=5, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), title="digit")
    axes.set(xlabel=names[0], ylabel=names[1], title=f"{what} of {len(location):,} images", aspect="equal")
    axes.grid(alpha=0.3)
    return figure


def principal_axes(points: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates on the first two principal axes, ``(n, K) → (n, 2)``, and each axis's share of the variance."""
    centred = points - points.mean(0)
    _, singular, axes = torch.linalg.svd(centred, full_matrices=False)
    return centred @ axes[:2].T, singular.square() / singular.square().sum()


def unit_activity(kl: Tensor, activity: Tensor, threshold: float) -> Figure:
    """KL of each latent dimension in falling order, and the histogram of their activities.

    Args:
        kl: mean over images of KL(q(z_k|x) ‖ N(0, 1)), ``(K,)``, nats.
        activity: variance over images of E_q[z_k], ``(K,)``.
        threshold: activity above which a dimension counts as active.
    """
    kl, activity = kl.cpu(), activity.cpu()
    order = kl.argsort(descending=True)
    active = activity > threshold
    figure, (left, right) = new_figure(8, 3.6, columns=2)
    ranks = torch.arange(len(kl))
    for on, colour, name in [(True, "C0", "active"), (False, "0.7", "inactive")]:
        here = active[order] == on
        left.bar(ranks[here].numpy(), kl[order][here].numpy(), color=colour, width=1.0, label=name)
    left.set(xlabel="latent dimension, by rank", ylabel="KL(q(z_k|x) ‖ N(0, 1)) (nats)")
    left.set_title(f"KL, {kl.sum():.2f} nats in all")
    left.legend(loc="best")
    right.hist(activity.clamp_min(1e-8).log10().numpy(), bins=40, color="C0")
    right.axvline(torch.tensor(threshold).log10().item(), color="C3", linewidth=1, label=f"threshold {threshold:g}")
    right.set(xlabel="log₁₀ Var E_q[z_k] over images", ylabel="latent dimensions")
    right.set_title(f"{int(active.sum())} of {len(kl)} units active")
    right.legend(loc="best")
    return figure
