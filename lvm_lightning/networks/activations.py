"""Activations that make no denormal numbers, write over their input where they can, and are fast in bfloat16."""

import math
from typing import Literal, cast

import torch
from torch import Tensor, nn

from lvm_lightning.support.log_space import rounding

Activation = Literal["ELU", "ReLU", "LeakyReLU", "Tanh", "SiLU", "GELU", "Softplus"]
_FROM_OUTPUT = ("ELU", "ReLU", "LeakyReLU")
"""Activations whose derivative follows from their output."""
_WITH_TAIL = ("SiLU", "GELU", "Softplus")
"""Activations whose derivative falls exponentially far below 0. (Those of ELU and Tanh are 0 there, or 6e-8.)"""


class _Floored(nn.Module):
    """SiLU, Softplus or GELU of an input that is cut where they are far below the rounding of 1.

    The cut is −24 in float32 (−6.9 for GELU), where they are −1e-9, 4e-11 and 0. Hidden layers of a trained
    decoder go down to −90, and the derivatives there are denormal numbers, or make them of what they meet.
    """

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Activations, in the shape of ``x``, which is written over."""
        least = rounding(torch.promote_types(x.dtype, torch.float32)) - 8
        if isinstance(self.activation, nn.GELU):
            least = -math.sqrt(-2 * least)
        with torch.no_grad():  # what is cut keeps the derivative of the cut's place: as good as 0, and 0 takes a pass
            x.clamp_(min=least)
        return cast(Tensor, self.activation(x))


class _Tanh(nn.Module):
    """tanh; of bfloat16 on a processor by way of float32, which takes torch less than half of the time."""

    def forward(self, x: Tensor) -> Tensor:
        """Activations, in the shape and the type of ``x``."""
        detour = x.dtype == torch.bfloat16 and x.device.type == "cpu"
        return x.float().tanh_().to(x.dtype) if detour else x.tanh()


def activation_of(name: Activation) -> nn.Module:
    """The layer of that name. It writes over its input where autograd allows, and a wide layer takes half the time."""
    if name == "Tanh":
        return _Tanh()
    activation = getattr(nn, name)(**({"inplace": True} if name in _FROM_OUTPUT else {}))
    return _Floored(activation) if name in _WITH_TAIL else activation
