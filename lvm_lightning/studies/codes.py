"""Which code a trained module has, and images written with it and read again."""

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from lvm_lightning.densities import DiagonalGaussian, LatentPoints, Points, PriorProposal, prior_points
from lvm_lightning.evaluation.bits_back import BitsBack
from lvm_lightning.evaluation.coding import Code, MixtureCode, blocks, pixels_of
from lvm_lightning.evaluation.latent_codes import latent_code_of
from lvm_lightning.modules.base import LatentVariableModule
from lvm_lightning.support import UserError, generator_for
from lvm_lightning.support.bits import WORD, BitStack, ExhaustedError, Words, noise_words

START = 2**31
"""Number of the stream of noise that a stack starts with; those of the blocks are below."""


class Written(NamedTuple):
    """Images on a stack.

    Attributes:
        words: the stack.
        start: the noise that it started with, which lies below.
        log_p: the log-probability that the code gives each image, ``(n,)``, nats.
    """

    words: Words
    start: Words
    log_p: Tensor


@contextlib.contextmanager
def in_float64(module: LatentVariableModule) -> Iterator[None]:
    """The module in float64 on the processor, whatever it was on, while the block runs."""
    one = next(module.parameters())
    dtype, device = one.dtype, one.device
    module.double().cpu()
    try:
        with torch.no_grad():  # inference mode would keep the flow's Jacobian from its graph
            yield
    finally:
        module.to(device, dtype)


def mixture_points(module: LatentVariableModule, samples: int, seed: int) -> Tensor:
    """The points of a model without an encoder, ``(N, K)``: its own, or N points of its prior."""
    prior = module.model.prior
    if isinstance(prior, LatentPoints):
        return prior.points
    kind: Points = getattr(module, "points", "iid")
    return prior_points(prior, kind, samples, 1, generator_for(seed, "coding", 0)).squeeze(1)


def samples_of(module: LatentVariableModule, samples: int | None) -> int:
    """How many points each image takes: as asked, or as many as the bound that the module was trained on.

    Raises:
        UserError: if it has points of its own, and another number is asked for.
    """
    prior = module.model.prior
    if not isinstance(prior, LatentPoints):
        return samples or module.N
    own = len(prior.points)
    if samples not in (None, own):
        raise UserError(f"samples: must be the {own:,} points that the model has, got {samples:,}; leave it out")
    return own


def code_of(module: LatentVariableModule, samples: int, seed: int) -> Code:
    """The code of a module that is in float64.

    Raises:
        UserError: if it has none.
    """
    model, name = module.model, type(module).__name__
    pixels = pixels_of(model.likelihood)
    if pixels is None or not isinstance(module.hparams.get("data_dim"), int):
        given = type(model.likelihood).__name__
        raise UserError(f"model: a code needs binary images and a Bernoulli likelihood, got {name} with {given}")
    q = module.propose(torch.zeros(1, module.hparams["data_dim"], dtype=torch.float64))
    if isinstance(q, PriorProposal):
        points = mixture_points(module, samples, seed).double()
        return MixtureCode(pixels.parameters_of(model.decode(points)))
    latents = latent_code_of(model.prior)
    if isinstance(q, DiagonalGaussian) and latents is not None:
        return BitsBack(model, module.propose, pixels, latents, samples, seed)
    raise UserError(
        "model: a code needs Gaussian proposals, and StandardNormal or FlowPrior as prior, got "
        f"{type(q).__name__} and {type(model.prior).__name__}"
    )


def start_of(words: int, seed: int) -> Words:
    """The noise that a stack starts with."""
    return noise_words(words, seed, START)


def write(code: Code, x: Tensor, seed: int, tick: Callable[[int], object]) -> Written:
    """Write images ``(n, D)`` onto a stack that starts with a little noise, or with twice that until it is enough."""
    words = 2 + math.ceil(code.borrowed / WORD)
    while True:
        start = start_of(words, seed)
        stack, found = BitStack(start), []
        try:
            for number, block in enumerate(x.split([*blocks(len(x), code.borrowed)])):
                found.append(code.push(stack, block, number))
                tick(len(block))
        except ExhaustedError:
            tick(-sum(map(len, found)))
            words *= 2
            continue
        return Written(stack.words, start, torch.cat(found))


def read(code: Code, stack: BitStack, count: int, tick: Callable[[int], object]) -> Tensor:
    """Read images ``(count, D)`` from a stack, which then is as it started."""
    found = []
    for number, size in reversed([*enumerate(blocks(count, code.borrowed))]):
        found.append(code.pop(stack, size, number))
        tick(size)
    return torch.cat(found[::-1])
