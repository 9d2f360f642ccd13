"""A network of one's own: a residual multi-layer perceptron."""

import torch
from torch import Tensor, nn


class Residual(nn.Module):
    """h → h + SiLU(W h) between two linear layers."""

    def __init__(self, in_features: int, out_features: int, width: int = 16) -> None:
        super().__init__()
        self.first, self.inner, self.last = (
            nn.Linear(*sizes) for sizes in [(in_features, width), (width, width), (width, out_features)]
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        out: Tensor = self.last(h + torch.nn.functional.silu(self.inner(h)))
        return out
