"""What every likelihood p(x|z) offers: the decoder's output and x in, nats with every constant out.

Samples come first: the decoder's output is ``(*S, B, P·D)`` with P parameters a pixel, or ``(*S, 1, P·D)`` when the
batch shares its latent points; x is ``(B, D)``; a log-likelihood is ``(*S, B)``.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from lvm_lightning.support.values import Support


class Likelihood(nn.Module, ABC):
    """Abstract p(x|z) with independent pixels.

    Attributes:
        parameters_per_pixel: P, how many numbers of a pixel the decoder puts out.
        support: the values of x that it gives a probability. Data that lie elsewhere are refused before training.
        density: whether the number is a density, in nats that depend on the scale of x, and not a probability.
    """

    parameters_per_pixel: int = 1
    support: Support
    density: bool

    @abstractmethod
    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        """log p(x|z): ``(*S, B, P·D)`` or shared ``(*S, 1, P·D)``, and x ``(B, D)`` → ``(*S, B)``, nats."""

    @abstractmethod
    def mean(self, parameters: Tensor) -> Tensor:
        """E[x|z], ``(*, P·D) → (*, D)``: not a sample of x."""

    @abstractmethod
    def sample(self, parameters: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """x ~ p(x|z), ``(*, P·D) → (*, D)``; the noise comes from a CPU generator."""

    @abstractmethod
    def information(self, parameters: Tensor) -> Tensor:
        """Fisher information of each parameter, E[(∂ log p(x|z)/∂parameter)²], ``(*, P·D)``: how sharply x tells it."""

    @abstractmethod
    def parameters_of_mean(self, mean: Tensor) -> Tensor:
        """The first parameter of the pixels whose mean is given, ``(D,) → (D,)``: where an output bias can start."""
