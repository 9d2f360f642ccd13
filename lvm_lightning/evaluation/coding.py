"""Lossless codes of images whose length is a bound on −log₂ p(x), and the finite mixture, whose length is that itself.

Coding and decoding must find the same numbers, or nothing can be read. Networks run in float64 and their outputs are
rounded to multiples of 1/256: then sums over pixels are exact, and neither the size of a batch nor the number of
threads can change them. What is left is a logit that two orders of a network's sums put on two sides of a rounding's
edge: they differ by 1e-13, and so one logit in 1e11 does.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from lvm_lightning.densities import Bernoulli, Likelihood
from lvm_lightning.support.bits import LARGEST, BitStack, Floats, Ints

STEP = 2.0**-8
"""What logits are multiples of: it costs a Bernoulli pixel less than 2e-7 nats."""
FINE = 2.0**-24
"""What functions of them are multiples of: sums of thousands are exact."""
FARTHEST = 64.0
"""Largest absolute logit."""
TOGETHER = 64
"""Images that are coded together, at most."""
BROUGHT = 64
"""Bits that an image leaves on the stack, at least for MNIST; where it is fewer, a file starts with more noise."""


def rounded(numbers: Tensor, step: float = STEP) -> Tensor:
    """The nearest multiples of a step, in float64."""
    return (numbers.double() / step).round() * step


def blocks(count: int, borrowed: int) -> Iterator[int]:
    """How many images are coded together, one number after the other: 1 at the start, at most :data:`TOGETHER`.

    A block takes bits off the stack before it brings any: so many images as find theirs there.

    Args:
        count: of all images.
        borrowed: bits that one takes.
    """
    done = 0
    while done < count:
        size = min(max(1, done * BROUGHT // max(1, borrowed)), TOGETHER, count - done)
        yield size
        done += size


class BernoulliPixels:
    """Binary pixels on logits ``(*, D)`` that are multiples of :data:`STEP`.

    log P(x|z) = Σ_j x_j l_j − softplus(l_j)
    """

    def parameters_of(self, decoded: Tensor) -> Tensor:
        """What a decoder puts out, as both sides take it."""
        return rounded(decoded.clamp(-FARTHEST, FARTHEST))

    def log_prob(self, logits: Tensor, x: Tensor) -> Tensor:
        """log P(x|z), ``(*S, B, D)`` and ``(B, D) → (*S, B)``, nats: exact for these logits but for 784 · 2⁻²⁵."""
        return (logits * x - rounded(softplus(logits), FINE)).sum(-1)

    def push(self, stack: BitStack, x: Tensor, logits: Tensor) -> None:
        """Push images ``(B, D)``."""
        stack.push_bits(x.numpy(), logits.sigmoid().numpy())

    def pop(self, stack: BitStack, logits: Tensor) -> Tensor:
        """Pop images ``(B, D)``."""
        return torch.from_numpy(stack.pop_bits(logits.sigmoid().numpy())).double()


def pixels_of(likelihood: Likelihood) -> BernoulliPixels | None:
    """How pixels of a likelihood are coded, where there is a way."""
    return BernoulliPixels() if type(likelihood) is Bernoulli else None


class Code(ABC):
    """Abstract: what writes a block of images onto a stack, and reads it again.

    Attributes:
        samples: points z for each image.
        borrowed: bits that an image takes off the stack before it puts back more, at most.
    """

    samples: int
    borrowed: int

    @abstractmethod
    def push(self, stack: BitStack, x: Tensor, block: int) -> Tensor:
        """Write images ``(B, D)``, float64, as the block of that number.

        Returns:
            The log-probability that the code gives each, ``(B,)``, nats: minus its length but for the coder's rounding.

        Raises:
            ExhaustedError: if the stack has too few bits to start from.
        """

    @abstractmethod
    def pop(self, stack: BitStack, count: int, block: int) -> Tensor:
        """Read the images ``(count, D)`` of the block that was written last.

        Raises:
            ExhaustedError, ValueError: if nothing that was written with the same numbers could be so.
        """


class MixtureCode(Code):
    """Code of a mixture of N equally likely points; it loses nothing, as the posterior over the points is known.

    A point is popped from its posterior P(n|x), the image is pushed given the point, and the point:

        −log P(x|n) − log 1/N + log P(n|x) = −log 1/N Σ_n P(x|n)

    whatever n is. Points whose posterior is below 2⁻²⁴ of the largest are left out.

    Args:
        logits: of each point, ``(N, D)``, as :meth:`BernoulliPixels.parameters_of` has them.

    Reference:
        Townsend et al., Practical Lossless Compression with Latent Variables using Bits Back Coding, 2019, section 2;
        Frey & Hinton, Efficient Stochastic Source Coding and an Application to a Bayesian Network, 1997.
    """

    def __init__(self, logits: Tensor) -> None:
        self.pixels, self.samples = BernoulliPixels(), len(logits)
        self.logits, self.log_partition = logits, rounded(softplus(logits), FINE).sum(-1)
        self.borrowed = math.ceil(math.log2(self.samples))

    def push(self, stack: BitStack, x: Tensor, block: int) -> Tensor:
        """Write images ``(B, D)``; the log-probability is log 1/N Σ_n P(x|n)."""
        log_lik = self.log_likelihoods(x)
        points = np.array([self._pop_point(stack, each) for each in log_lik])
        self.pixels.push(stack, x, self.logits[points])
        stack.push_uniform(points, self.samples)
        return log_lik.logsumexp(-1) - math.log(self.samples)

    def pop(self, stack: BitStack, count: int, block: int) -> Tensor:
        """Read images ``(count, D)``; a point that has no posterior to speak of is of other numbers."""
        points = stack.pop_uniform(np.full(count, self.samples))
        x = self.pixels.pop(stack, self.logits[points])
        for log_lik, point in reversed([*zip(self.log_likelihoods(x), points, strict=True)]):
            likely, weights = _likely(log_lik)
            if point not in likely:
                raise ValueError(f"point {point} is none that the image could be of")
            stack.push_choices(np.searchsorted(likely, [point]), weights)
        return x

    def log_likelihoods(self, x: Tensor) -> Tensor:
        """log P(x|n) of all points, ``(B, D) → (B, N)``, nats: products of bits and multiples of a step, so exact."""
        return x @ self.logits.mT - self.log_partition

    def _pop_point(self, stack: BitStack, log_lik: Tensor) -> int:
        likely, weights = _likely(log_lik)
        return int(likely[stack.pop_choices(weights)[0]])


def _likely(log_lik: Tensor) -> tuple[Ints, Floats]:
    """Which points have any posterior to speak of, ``(M,)``, and how much, ``(1, M)``."""
    above = log_lik - log_lik.max()
    likely = (above > -math.log(LARGEST)).nonzero().squeeze(-1)
    return likely.numpy(), above[likely].exp().unsqueeze(0).numpy()
