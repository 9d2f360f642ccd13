"""What a data module says of its examples, and what is asked of it: all of it here.

A data module may have two methods besides Lightning's own: ``describe()`` and ``pixel_mean()``. One without them works.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor

from lvm_lightning.data.loader import Batch
from lvm_lightning.support.values import REALS, Support


@dataclasses.dataclass(frozen=True)
class Description:
    """What a data module says of its examples.

    Attributes:
        shape: shape of an image; None where an example is a set of real observations.
        support: where the values of x lie.
        about: the settings that choose the examples, and ``digest``, a SHA-256 of them: plain values; empty where it is
            not known.
        bin_width: width Δ of a grey level on the scale of x, where uniform noise was added to grey levels. Then
            E_u log p(x) + D log Δ ≤ log P(grey levels), a probability of 256-valued images.
        labelled: whether the labels say something.
    """

    shape: tuple[int, ...] | None
    support: Support
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    bin_width: float | None = None
    labelled: bool = False

    @property
    def pixels(self) -> int | None:
        """D, the pixels of an image."""
        return None if self.shape is None else math.prod(self.shape)

    @property
    def scale(self) -> tuple[float, float]:
        """The values that a picture shows as white and as black: the ends of the support, or 0 and 1."""
        ends = (self.support.low, self.support.high)
        return ends if all(map(math.isfinite, ends)) else (0.0, 1.0)


def describe(data: Any) -> Description | None:
    """What the data say of themselves; None where they say nothing."""
    return data.describe() if hasattr(data, "describe") else None


def described(data: object, pixels: int | None) -> Description:
    """What the data say, or else what is assumed: images that are a square where D is one, and else a row.

    Args:
        data: the data module, or None.
        pixels: the D of the model; None where it models observations.
    """
    side = math.isqrt(pixels or 0)
    shape = None if pixels is None else (side, side) if side**2 == pixels else (1, pixels)
    return describe(data) or Description(shape, REALS)


def pixel_mean(data: Any, argument: str, cure: str) -> Tensor:
    """Mean of each pixel over the training images, ``(D,)``, on the scale of x.

    Raises:
        ValueError: if the data do not know it; it names the argument that needs it, and ends with the cure.
    """
    if hasattr(data, "pixel_mean"):
        return cast(Tensor, data.pixel_mean())
    received = "none" if data is None else type(data).__name__
    raise ValueError(f"{argument} needs a data module with pixel_mean(), got {received}; {cure}")


def require(data: object, support: Support, pixels: int | None, *, model: str, likelihood: str) -> None:
    """Compare what the data say with what a model takes. Data that say nothing pass: :func:`require_values` looks.

    Args:
        data: the data module, or None.
        support: where the likelihood takes values.
        pixels: the D of the model; None where it models observations.
        model: name of the model.
        likelihood: name of the likelihood.

    Raises:
        ValueError: if the examples are of another kind or size, or the likelihood gives them no probability.
    """
    if (said := describe(data)) is None:
        return
    if (said.pixels is None) != (pixels is None):
        kind = "observations" if pixels is None else "images"
        raise ValueError(
            f"data: {model} models {kind}, got {type(data).__name__}; give the data module of one of its configs"
        )
    _require_size(said.pixels, pixels)
    if not support.holds(said.support):
        raise ValueError(_outside(support, likelihood, "grey ones" if support.binary else f"values in {said.support}"))


def require_values(x: Tensor, support: Support, pixels: int | None, *, likelihood: str) -> None:
    """Look at a batch ``(B, D)``: it may come from data that say nothing.

    Raises:
        ValueError: if the images have another size, or a value lies outside the likelihood's support.
    """
    if pixels is not None:
        _require_size(x.shape[-1], pixels)
    if len(outside := support.outside(x)):
        raise ValueError(_outside(support, likelihood, f"the value {float(outside[0]):g}"))


def examples(data: Any, split: str, count: int) -> Tensor:
    """``count`` evenly spaced examples of a data module's split, ``(count, D)``; a single one is repeated."""
    x = torch.cat([Batch.of(batch).x for batch in getattr(data, f"{split}_dataloader")()])
    return x.expand(count, -1) if len(x) == 1 else x[evenly_spaced(len(x), count)]


def evenly_spaced(rows: int, count: int) -> Tensor:
    """``count`` row numbers spread over all: some files are sorted by class, and their first rows are no sample."""
    return torch.linspace(0, rows - 1, min(rows, count)).round().long()


def _require_size(pixels: int | None, served: int | None) -> None:
    if pixels != served:
        raise ValueError(f"data_dim: must be the {pixels} pixels of an image, got {served}; set it to {pixels}")


def _outside(support: Support, likelihood: str, received: str) -> str:
    what = "binary images" if support.binary else f"values in {support}"
    cure = "set data.binarisation to static, dynamic or threshold" if support.binary else f"bring the data to {support}"
    return f"data: a {likelihood} likelihood needs {what}, got {received}; {cure}"
