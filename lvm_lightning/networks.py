"""Networks: tensors in, tensors out."""

import itertools
from collections.abc import Sequence
from typing import Literal

from torch import nn

from lvm_lightning.argtypes import PositiveInt

Activation = Literal["ELU", "ReLU", "LeakyReLU", "Tanh", "SiLU", "GELU", "Softplus"]


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
            layers += [nn.Linear(fan_in, fan_out), getattr(nn, activation)()]
        super().__init__(*layers, nn.Linear(widths[-1], out_features))
