"""Bernoulli pixels."""

import torch
from torch import Tensor
from torch.nn.functional import softplus

from lvm_lightning.densities.likelihoods.natural import NaturalLikelihood
from lvm_lightning.support.values import BINARY


class Bernoulli(NaturalLikelihood):
    """Independent Bernoulli pixels on logits.

        log p(x|z) = Σ_j x_j l_j − softplus(l_j),   l = decoder(z),  x_j ∈ {0, 1}

    It is a probability: nats per image, at most 0. On values other than 0 and 1 the expression is no
    log-probability of anything, which is why :attr:`support` is checked before training.
    """

    support = BINARY
    density = False

    def log_partition(self, logits: Tensor) -> Tensor:
        """softplus(l)."""
        return softplus(logits)

    def mean(self, logits: Tensor, out: Tensor | None = None) -> Tensor:
        """E[x|z] = sigmoid(l), the Bernoulli means: same shape as ``logits``, in [0, 1]. Not a sample of x."""
        return torch.sigmoid(logits, out=out)

    def sample(self, logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """x ~ p(x|z): zeros and ones in the shape of ``logits``."""
        u = torch.rand(logits.shape, generator=generator).to(logits.device)
        return (u < self.mean(logits)).to(logits.dtype)

    def information(self, logits: Tensor) -> Tensor:
        """p (1 − p) with p = sigmoid(l)."""
        p = logits.sigmoid()
        return p * (1 - p)

    def parameters_of_mean(self, mean: Tensor) -> Tensor:
        """The logit, cut at the means 1e-6 and 1 − 1e-6."""
        return torch.logit(mean, eps=1e-6)
