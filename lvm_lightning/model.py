"""A latent-variable model p(x, z) = p(z) p(x|z) as a plain object: nothing here knows training or Lightning."""

from functools import partial
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from lvm_lightning.densities import Likelihood, Prior, Proposal
from lvm_lightning.support.portions import in_blocks, in_pieces
from lvm_lightning.support.randomness import Rows
from lvm_lightning.support.skipping import Skipping

DECODED = 1024
"""Latent points that are decoded at a time where no gradient is wanted: their activations stay in the cache."""


class Terms(NamedTuple):
    """The three densities of log importance weights, each ``(S, B)`` in nats."""

    log_lik: Tensor
    log_prior: Tensor
    log_q: Tensor

    @property
    def log_w(self) -> Tensor:
        """log w = log p(x|z) + (log p(z) − log q(z|x)); the bracket is exactly 0 where the prior is the proposal."""
        return self.log_lik + (self.log_prior - self.log_q)


class Sample(NamedTuple):
    """Draws from p(x, z).

    Attributes:
        x: samples of p(x), ``(n, D)``.
        mean: E[x|z] at the same z, ``(n, D)``: not samples of x.
        z: ``(n, K)``, samples of p(z), and of p(z|x) for each x.
    """

    x: Tensor
    mean: Tensor
    z: Tensor


class LatentVariableModel(nn.Module):
    """p(x, z) = p(z) p(x|z), with p(x|z) a likelihood whose parameters a decoder computes from z.

    Samples come first: z is ``(*S, B, K)``, or ``(*S, 1, K)`` when the examples share their points; x is ``(B, D)``.

    Args:
        prior: p(z).
        decoder: network z ``(*, K)`` → parameters ``(*, P·D)`` of the likelihood, P for each pixel.
        likelihood: p(x|z).

    Attributes:
        at_a_time: latent points that :meth:`terms` decodes at a time.
    """

    def __init__(self, prior: Prior, decoder: nn.Module, likelihood: Likelihood) -> None:
        super().__init__()
        self.at_a_time = DECODED
        self.prior, self.decoder, self.likelihood = prior, decoder, likelihood

    def decode(self, z: Tensor) -> Tensor:
        """Parameters of p(x|z), ``(*, K) → (*, P·D)``."""
        return cast(Tensor, self.decoder(z))

    def log_likelihood(self, x: Tensor, z: Tensor, skipping: Skipping | None = None) -> Tensor:
        """log p(x|z): x ``(B, D)``, z ``(*S, B, K)`` or shared ``(*S, 1, K)`` → ``(*S, B)``, nats.

        Where one graph of all points would not fit, blocks of them are decoded again in the backward pass; with
        ``skipping``, only the points that carry weight.
        """
        if skipping is not None and skipping.serves(z, x):
            parameters = [*self.decoder.parameters(), *self.likelihood.parameters()]
            return skipping.apply(self._log_likelihood, z, x, parameters, self.at_a_time)
        if z.ndim < 3:  # no samples to take some of
            return self._log_likelihood(z, x)
        of_points = partial(in_pieces, lambda points: self._log_likelihood(points, x))
        found = in_blocks(of_points, z.flatten(0, -3))
        return found.view(*z.shape[:-2], found.shape[-1])

    def _log_likelihood(self, z: Tensor, x: Tensor) -> Tensor:
        return self.likelihood.log_prob(self.decode(z), x)

    def log_joint(self, x: Tensor, z: Tensor, skipping: Skipping | None = None) -> tuple[Tensor, Tensor]:
        """log p(x|z) ``(*S, B)`` and log p(z) ``(*S, B)`` or shared ``(*S, 1)``, nats; their sum is log p(x, z)."""
        return self.log_likelihood(x, z, skipping), self.prior.log_prob(z)

    def terms(
        self, x: Tensor, q: Proposal, samples: int, generator: torch.Generator, rows: Rows | None = None
    ) -> Terms:
        """The three densities at S draws from q(z|x) for each example, decoded some at a time in float32 or better.

        Args:
            x: ``(B, D)``.
            q: the proposals of these examples.
            samples: number S of draws.
            generator: CPU generator of the noise.
            rows: which rows of a batch that several processes share x is; by default x is the whole batch.
        """
        kept: Terms | None = None
        with torch.autocast(x.device.type, enabled=False):
            for which, here, z, log_q in q.draws(samples, rows or Rows(0, len(x)), generator, self.at_a_time):
                found = (*self.log_joint(x[here], z), log_q)
                kept = kept or Terms(*(t.new_empty(samples, len(x)) for t in found))
                for values, part in zip(kept, found, strict=True):
                    values[which, here] = part
        assert kept is not None, "a proposal draws at least one sample"
        return kept

    def log_weights(
        self, x: Tensor, q: Proposal, samples: int, generator: torch.Generator, rows: Rows | None = None
    ) -> Tensor:
        """log w = log p(x, z) − log q(z|x) at S draws from q for each example, ``(S, B)``, nats; see :meth:`terms`."""
        return self.terms(x, q, samples, generator, rows).log_w

    def sample(self, count: int, generator: torch.Generator) -> Sample:
        """Ancestral sampling: z ~ p(z), x ~ p(x|z)."""
        z = self.prior.sample(count, generator)
        parameters = self.decode(z)
        return Sample(self.likelihood.sample(parameters, generator), self.likelihood.mean(parameters), z)

    def simulate(self, like: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """x ~ p(x) in the shape of ``like`` ``(B, D)``, and the z ``(B, K)`` that it came from: a sample of p(z|x)."""
        z = self.prior.sample(len(like), generator)
        each = self.likelihood.parameters_per_pixel * like.shape[-1]
        return self.likelihood.sample(self.decode(z).expand(len(like), each), generator), z
