"""Networks: tensors in, tensors out."""

import itertools
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from lvm_lightning.support.argtypes import PositiveInt

Activation = Literal["ELU", "ReLU", "LeakyReLU", "Tanh", "SiLU", "GELU", "Softplus"]


_FROM_OUTPUT = ("ELU", "ReLU", "LeakyReLU")
"""Activations whose derivative follows from their output."""


def _activation(name: Activation) -> nn.Module:
    """Written over its input where autograd allows: half the memory, and half the time of a wide layer."""
    activation: nn.Module = getattr(nn, name)(**({"inplace": True} if name in _FROM_OUTPUT else {}))
    return activation


class MLP(nn.Sequential):
    """Multi-layer perceptron, ``(*, in_features) → (*, out_features)``, with a linear last layer.

    Args:
        in_features: width of the input.
        out_features: width of the output.
        hidden: widths of the hidden layers; none makes the network linear.
        activation: name of the ``torch.nn`` activation after each hidden layer.
    """

    def __init__(
        self,
        in_features: PositiveInt,
        out_features: PositiveInt,
        hidden: Sequence[PositiveInt] = (512, 512, 512),
        activation: Activation = "ELU",
    ) -> None:
        widths = [in_features, *hidden]
        layers: list[nn.Module] = []
        for fan_in, fan_out in itertools.pairwise(widths):
            layers += [nn.Linear(fan_in, fan_out), _activation(activation)]
        super().__init__(*layers, nn.Linear(widths[-1], out_features))


SIDE = 28
CODE = 32
"""Channels of the 1 × 1 image between the convolutional encoder's last pool and the decoder's first layer."""


def _conv(fan_in: int, fan_out: int, kernel: int, padding: int = 0) -> list[nn.Module]:
    return [nn.Conv2d(fan_in, fan_out, kernel, padding=padding), nn.LeakyReLU()]


def _up() -> nn.Module:
    return nn.Upsample(scale_factor=2, mode="bilinear")


class ConvEncoder(nn.Sequential):
    """Convolutional encoder of 28 × 28 images, ``(B, 784) → (B, out_features)``.

    28 → 26 → 24, pool 12 → 10 → 8, pool 4 → 3 → 2, pool 1: 8, 16 and 32 channels, two convolutions each with a
    LeakyReLU behind them, then one linear layer.

    Args:
        in_features: 784.
        out_features: width of the output.

    Raises:
        ValueError: if ``in_features`` is not 784.
    """

    def __init__(self, in_features: PositiveInt, out_features: PositiveInt) -> None:
        if in_features != SIDE**2:
            raise ValueError(f"ConvEncoder: serves images of 784 pixels, got {in_features}; use MLP")
        super().__init__(
            nn.Unflatten(-1, (1, SIDE, SIDE)),
            *_conv(1, 8, 3), *_conv(8, 8, 3), nn.MaxPool2d(2),
            *_conv(8, 16, 3), *_conv(16, 16, 3), nn.MaxPool2d(2),
            *_conv(16, 32, 2), *_conv(32, CODE, 2), nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(CODE, out_features),
        )  # fmt: skip
        self.to(memory_format=torch.channels_last)  # with so few channels up to 4 times faster


class ConvDecoder(nn.Module):
    """Convolutional decoder to 28 × 28 images, ``(*, K) → (*, P·784)`` for P parameters a pixel, all of one before
    the next.

    1, up 2 → 4 → 6, up 12 → 14 → 14, up 28 → 28: 32, 16, 8 and P channels, bilinear upsampling, LeakyReLU between
    the convolutions.

    Args:
        in_features: number K of latent dimensions.
        out_features: 784 P.

    Raises:
        ValueError: if ``out_features`` is not a multiple of 784.
    """

    def __init__(self, in_features: PositiveInt, out_features: PositiveInt) -> None:
        if out_features % SIDE**2:
            raise ValueError(f"ConvDecoder: serves images of 784 pixels, got {out_features} outputs; use MLP")
        super().__init__()
        self.layers = nn.Sequential(
            *_conv(in_features, CODE, 1), _up(),
            *_conv(CODE, 16, 3, padding=2), *_conv(16, 16, 3, padding=2), _up(),
            *_conv(16, 8, 3, padding=2), *_conv(8, 8, 3, padding=1), _up(),
            nn.Conv2d(8, out_features // SIDE**2, 3, padding=1),
            nn.Flatten(),
        )  # fmt: skip
        self.to(memory_format=torch.channels_last)

    def forward(self, z: Tensor) -> Tensor:
        """Latent points ``(*, K)`` → parameters ``(*, P·784)``."""
        parameters: Tensor = self.layers(z.reshape(-1, z.shape[-1], 1, 1))
        return parameters.view(*z.shape[:-1], -1)
