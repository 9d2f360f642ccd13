"""A likelihood of one's own: Laplace pixels."""

import math

import torch
from torch import Tensor

from lvm_lightning.densities import Likelihood
from lvm_lightning.support.values import REALS


class Laplace(Likelihood):
    """log p(x|z) = −Σ_j |x_j − m_j|/b − D log 2b, with m = decoder(z)."""

    support = REALS
    density = True

    def __init__(self, scale: float = 0.5) -> None:
        super().__init__()
        self.scale = scale

    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        return -(x - parameters.float()).abs().sum(-1) / self.scale - x.shape[-1] * math.log(2 * self.scale)

    def mean(self, parameters: Tensor) -> Tensor:
        return parameters

    def sample(self, parameters: Tensor, generator: torch.Generator | None = None) -> Tensor:
        u = torch.rand(parameters.shape, generator=generator).to(parameters) - 0.5
        return parameters - self.scale * u.sign() * torch.log1p(-2 * u.abs())

    def information(self, parameters: Tensor) -> Tensor:
        return torch.full_like(parameters, self.scale**-2)

    def parameters_of_mean(self, mean: Tensor) -> Tensor:
        return mean
