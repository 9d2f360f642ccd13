"""A prior of one's own that uses the encoder: the mean of the proposals at some training images, which stay fixed."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from lvm_lightning.densities import Prior, Proposal
from lvm_lightning.support.randomness import Rows


class ExemplarPrior(Prior):
    """p(z) = 1/M Σ_m q(z|x_m) over M training images x_m."""

    encode: Callable[[Tensor], Proposal]
    images: Tensor

    def __init__(self, dim: int, exemplars: int = 20) -> None:
        super().__init__(dim)
        self.examples = exemplars

    def attach(self, encode: Callable[[Tensor], Proposal], data_dim: int) -> None:
        self.__dict__["encode"] = encode  # not as a submodule: its parameters are the model's already
        self.register_buffer("images", torch.zeros(self.examples, data_dim))

    def start_from(self, x: Tensor) -> None:
        self.images = x.clone()

    def log_prob(self, z: Tensor) -> Tensor:
        return self.encode(self.images).log_prob(z.unsqueeze(-2)).logsumexp(-1) - math.log(self.examples)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        which = torch.randint(self.examples, (count,), generator=generator)
        (drawn,) = self.encode(self.images[which]).draws(1, Rows(0, count), generator, count)
        return drawn.z.squeeze(0)
