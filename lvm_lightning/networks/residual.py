"""Residual networks: blocks that add to what comes in, fully connected or convolutional."""

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from lvm_lightning.networks.activations import Activation, activation_of
from lvm_lightning.support.argtypes import NonNegativeInt, PositiveInt
from lvm_lightning.support.portions import in_pieces

PIECE = {"cpu": 64}
"""Points that a convolutional decoder takes at a time without a gradient: what a layer puts out stays in the cache."""


class Block(nn.Module):
    """h + W₂ a(W₁ a(h)), in the shape of h. W₂ starts at 0, so that a deep network starts as a shallow one.

    Args:
        layers: W₁ and W₂, layers that keep the shape.
        activation: name of a.

    Reference:
        He et al., Identity Mappings in Deep Residual Networks, 2016, fig. 1b (without normalisation).
    """

    def __init__(self, layers: Sequence[nn.Linear | nn.Conv2d], activation: Activation) -> None:
        super().__init__()
        first, last = layers
        self.layers = nn.Sequential(activation_of(activation), first, activation_of(activation), last)
        for parameter in last.parameters():
            nn.init.zeros_(parameter)

    def forward(self, h: Tensor) -> Tensor:
        """``h`` and what the layers make of it."""
        return h + cast(Tensor, self.layers(h.clone()))  # activations write over what they get


class ResidualMLP(nn.Sequential):
    """Multi-layer perceptron of residual blocks, ``(*, in_features) → (*, out_features)``.

    Args:
        in_features: width of the input.
        out_features: width of the output.
        width: of the hidden layers.
        blocks: number of blocks, of two layers each.
        activation: name of the ``torch.nn`` activation before each layer but the first.
    """

    def __init__(
        self,
        in_features: PositiveInt,
        out_features: PositiveInt,
        width: PositiveInt = 300,
        blocks: NonNegativeInt = 2,
        activation: Activation = "SiLU",
    ) -> None:
        super().__init__(
            nn.Linear(in_features, width),
            *(Block([nn.Linear(width, width) for _ in range(2)], activation) for _ in range(blocks)),
            activation_of(activation),
            nn.Linear(width, out_features),
        )


class FilterMatrix(nn.Conv2d):
    """A convolution whose filters are the rows of a matrix, ``(out, k·k·in)``, so that Muon trains them as matrices.

    The same map and the same first values as :class:`torch.nn.Conv2d`. A row is a filter with its channels last, as the
    images have them, so that nothing is copied.

    Reference:
        Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024 (filters as rows).
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.weight = nn.Parameter(_as_rows(self.weight.detach()))

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        """Take the weights of a torch.nn.Conv2d too, as checkpoints of before have them."""
        filters = state_dict.get(f"{prefix}weight")
        if filters is not None and filters.ndim == 4:
            state_dict[f"{prefix}weight"] = _as_rows(filters)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(self, h: Tensor) -> Tensor:
        """``(B, in, H, W) → (B, out, H', W')``."""
        filters = self.weight.unflatten(1, (*self.kernel_size, -1)).permute(0, 3, 1, 2)
        return cast(Tensor, self._conv_forward(h, filters, self.bias))


def _as_rows(filters: Tensor) -> Tensor:
    """``(out, in, k, k) → (out, k·k·in)``."""
    return filters.permute(0, 2, 3, 1).flatten(1)


class ResidualConvEncoder(nn.Sequential):
    """Residual convolutional encoder of square images, ``(B, D) → (B, out_features)``.

    A 3 × 3 convolution; at each level blocks of two 3 × 3 convolutions, and a 2 × 2 convolution of stride 2 to the next
    level; one linear layer at the end.

    Args:
        in_features: number D of pixels: a square whose side halves once less often than there are levels.
        out_features: width of the output.
        channels: of each level, from the full size down.
        blocks: residual blocks of a level.
        activation: name of the ``torch.nn`` activation.

    Raises:
        ValueError: if images of that size do not halve so often.
    """

    def __init__(
        self,
        in_features: PositiveInt,
        out_features: PositiveInt,
        channels: Sequence[PositiveInt] = (16, 32, 64),
        blocks: NonNegativeInt = 1,
        activation: Activation = "SiLU",
    ) -> None:
        side, smallest = _sides(type(self).__name__, in_features, channels)
        layers: list[nn.Module] = [nn.Unflatten(-1, (1, side, side)), FilterMatrix(1, channels[0], 3, padding=1)]
        for level, width in enumerate(channels):
            if level:
                layers.append(FilterMatrix(channels[level - 1], width, 2, stride=2))
            layers += _blocks(blocks, width, activation)
        last = nn.Linear(channels[-1] * smallest**2, out_features)
        super().__init__(*layers, activation_of(activation), nn.Flatten(), last)
        self.to(memory_format=torch.channels_last)


class ResidualConvDecoder(nn.Module):
    """Residual convolutional decoder, ``(*, K) → (*, P·D)`` for P parameters a pixel, all of one before the next.

    The encoder's way back: one linear layer, blocks at each level, and a transposed 2 × 2 convolution of stride 2 to
    the next; a 3 × 3 convolution at the end, and a bias for each pixel.

    Args:
        in_features: number K of latent dimensions.
        out_features: P·D.
        channels: of each level, from the full size down, as the encoder's.
        blocks: residual blocks of a level.
        activation: name of the ``torch.nn`` activation.
        parameters_per_pixel: P of the likelihood: 2 for a mean and a variance.

    Attributes:
        output_bias: ``(P·D,)``, which training can start from the pixels' means.

    Raises:
        ValueError: if images of that size do not halve so often.
    """

    def __init__(
        self,
        in_features: PositiveInt,
        out_features: PositiveInt,
        channels: Sequence[PositiveInt] = (16, 32, 64),
        blocks: NonNegativeInt = 1,
        activation: Activation = "SiLU",
        parameters_per_pixel: PositiveInt = 1,
    ) -> None:
        super().__init__()
        if out_features % parameters_per_pixel:
            raise ValueError(
                f"parameters_per_pixel: must divide the {out_features:,} outputs, got {parameters_per_pixel}; set it "
                "to the likelihood's number"
            )
        _, smallest = _sides(type(self).__name__, out_features // parameters_per_pixel, channels)
        layers: list[nn.Module] = [
            nn.Linear(in_features, channels[-1] * smallest**2),
            nn.Unflatten(-1, (channels[-1], smallest, smallest)),
        ]
        for level in reversed(range(len(channels))):
            layers += _blocks(blocks, channels[level], activation)
            if level:
                layers.append(nn.ConvTranspose2d(channels[level], channels[level - 1], 2, stride=2))
        last = FilterMatrix(channels[0], parameters_per_pixel, 3, padding=1, bias=False)
        self.output_bias = nn.Parameter(torch.zeros(out_features))
        self.layers = nn.Sequential(*layers, activation_of(activation), last, nn.Flatten())
        self.to(memory_format=torch.channels_last)

    def forward(self, z: Tensor) -> Tensor:
        """Latent points ``(*, K)`` → parameters ``(*, P·D)``."""
        points = z.reshape(-1, z.shape[-1])
        decoded: Tensor = self.layers(points) if torch.is_grad_enabled() else in_pieces(self.layers, points, PIECE)
        return (decoded + self.output_bias.to(decoded.dtype)).view(*z.shape[:-1], decoded.shape[-1])


def _blocks(count: int, width: int, activation: Activation) -> list[nn.Module]:
    return [Block([FilterMatrix(width, width, 3, padding=1) for _ in range(2)], activation) for _ in range(count)]


def _sides(network: str, pixels: int, channels: Sequence[int]) -> tuple[int, int]:
    """Sides of an image of so many pixels, and of what is left of it on the last level."""
    side, halved = math.isqrt(pixels), 2 ** (len(channels) - 1)
    if not channels or side**2 != pixels or side % halved:
        raise ValueError(
            f"{network}: {len(channels)} levels of channels need square images whose side is a multiple of "
            f"{int(halved)}, got {pixels:,} pixels; give fewer levels, or use ResidualMLP"
        )
    return side, side // halved
