"""What every likelihood p(x|z) offers: the decoder's output and x in, nats with every constant out; Bernoulli pixels.

Samples come first: the decoder's output is ``(*S, B, P·D)`` with P parameters a pixel, or ``(*S, 1, P·D)`` when the
batch shares its latent points; x is ``(B, D)``; a log-likelihood is ``(*S, B)``.
"""

import math
from abc import ABC, abstractmethod
from contextlib import nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import softplus

from lvm_lightning.support.log_space import rounding
from lvm_lightning.support.processor import bfloat16_products
from lvm_lightning.support.values import BINARY, Support


def float32_or_better(tensor: Tensor, like: Tensor | None = None) -> Tensor:
    """In float32, or in float64 where it (or its like) is."""
    return tensor.to(torch.promote_types((tensor if like is None else like).dtype, torch.float32))


CUT = 1e-6
"""Means of a Bernoulli are cut here and at 1 − 1e-6, where a logit is asked for."""
OVERFLOW = 80.0
"""Logits, and sums of logits, from which on e^l is not computed: in float32 it overflows at 88.7."""


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


class NaturalLikelihood(Likelihood):
    """Independent pixels of an exponential family on logits, abstract in its log-partition function A.

    log p(x|z) = Σ_j x_j l_j − A(l_j),   E[x_j|z] = A'(l_j),   l = decoder(z)
    """

    @abstractmethod
    def log_partition(self, logits: Tensor) -> Tensor:
        """A(l) of each pixel, in the shape of ``logits``."""

    def total_log_partition(self, logits: Tensor, scratch: Tensor) -> Tensor:
        """Σ_j A(l_j), ``(*, D) → (*,)``, without a gradient.

        Args:
            logits: l.
            scratch: of the same shape and type, to be written over. It may be the logits.
        """
        return self.log_partition(logits).sum(-1)

    @abstractmethod
    def mean(self, logits: Tensor, out: Tensor | None = None) -> Tensor:
        """E[x|z] = A'(l), in the shape of ``logits``, and in ``out`` (the logits, perhaps) if it is given."""

    def log_prob(self, logits: Tensor, x: Tensor) -> Tensor:
        """Log-probability or log-density of every x under every latent point.

        Shared points take one matrix product over all pairs instead of a ``(*S, B, D)`` tensor. Runs in
        float32 or better also under autocast: in bfloat16 the sums over D pixels are off by tenths of a nat.

        Args:
            logits: ``(*S, B, D)``, or ``(*S, 1, D)`` when the points are shared by the batch.
            x: values of :attr:`support`, ``(B, D)``.

        Returns:
            ``(*S, B)``, nats.
        """
        with torch.autocast(logits.device.type, enabled=False):
            return cast(Tensor, _NaturalLogProb.apply(logits, x, self))


class Bernoulli(NaturalLikelihood):
    """Independent Bernoulli pixels on logits.

        log p(x|z) = Σ_j x_j l_j − softplus(l_j),   l = decoder(z),  x_j ∈ {0, 1}

    It is a probability: nats per image, at most 0. On values other than 0 and 1 the expression is no
    log-probability of anything, which is why :attr:`support` is checked before training.
    """

    support = BINARY
    density = False

    def log_partition(self, logits: Tensor) -> Tensor:
        """softplus(l) = log(1 + e^l)."""
        return softplus(_floored(logits))

    def total_log_partition(self, logits: Tensor, scratch: Tensor) -> Tensor:
        """Σ_j log(1 + e^{l_j}) = Σ_k log Π_{j in k} (1 + e^{l_j}): on a processor, pixels share a logarithm.

        Pixels are put together by twos, up to eight, as long as no product of theirs can overflow. What is kept of a
        product is what it is above 1, (1 + a)(1 + b) − 1 = a + (b + a b), so that small numbers keep their digits.
        """
        logits = _floored(logits, scratch)
        if logits.device.type != "cpu" or not logits.numel() or (largest := float(logits.amax())) >= OVERFLOW:
            return softplus(logits).sum(-1)
        above = torch.exp(logits, out=scratch)
        for together in (2, 4, 8):
            half, odd = divmod(above.shape[-1], 2)
            if odd or together * largest > OVERFLOW:
                break
            a, b = above[..., :half], above[..., half:]
            above = a.add_(b.addcmul_(a, b))
        return above.log1p_().sum(-1)

    def mean(self, logits: Tensor, out: Tensor | None = None) -> Tensor:
        """E[x|z] = sigmoid(l), the Bernoulli means: same shape as ``logits``, in [0, 1]. Not a sample of x."""
        return torch.sigmoid(_floored(logits, out), out=out)

    def sample(self, logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """x ~ p(x|z): zeros and ones in the shape of ``logits``."""
        return (torch.rand(logits.shape, generator=generator).to(logits.device) < self.mean(logits)).to(logits.dtype)

    def information(self, logits: Tensor) -> Tensor:
        """p (1 − p) with p = sigmoid(l)."""
        p = _floored(logits).sigmoid()
        return p * (1 - p)

    def parameters_of_mean(self, mean: Tensor) -> Tensor:
        """The logit, cut at the means 1e-6 and 1 − 1e-6."""
        return torch.logit(mean, eps=CUT)


def _floored(logits: Tensor, out: Tensor | None = None) -> Tensor:
    """Logits, cut where softplus and sigmoid are a 50th of the rounding of 1: in float32 at −19.9, where both are 2e-9.

    Further below, both can take a processor ten times as long. The sum over 784 pixels moves by less than 2e-6 nats.
    Logits that are all above are not copied: to look at them takes less time.
    """
    least = rounding(logits.dtype) - 4
    if logits.device.type != "cpu" or not logits.numel() or float(logits.detach().amin()) >= least:
        return logits
    return torch.clamp(logits, min=least, out=out)


class _NaturalLogProb(torch.autograd.Function):
    """Σ_j x_j l_j − A(l_j), which keeps nothing of the size of the logits but the logits.

    Autograd would keep two more such tensors and make five on the way back for a Bernoulli; here

        ∂/∂l_j = x_j − A'(l_j),   ∂/∂x_j = l_j

    and pieces small enough for a processor's cache are worked on in float32 or better one after the other.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, x: Tensor, likelihood: NaturalLikelihood) -> Tensor:
        ctx.likelihood = likelihood
        ctx.save_for_backward(logits, x)
        x = float32_or_better(x, logits)
        rows = logits.reshape(math.prod(logits.shape[:-2]), *logits.shape[-2:])  # (S, B, D) or (S, 1, D)
        size, log_prob = _piece(rows), []
        scratch = torch.empty_like(rows[:size], dtype=x.dtype)
        with bfloat16_products() if _exact_in_bfloat16(likelihood, rows) else nullcontext():
            for part in rows.split(size):
                into = scratch[: len(part)]
                exact = part if part.dtype == x.dtype else into.copy_(part)
                on = exact.squeeze(-2) @ x.mT if logits.shape[-2] == 1 else (exact * x).sum(-1)
                log_prob.append(on - likelihood.total_log_partition(exact, into))
        return torch.cat(log_prob).view(*logits.shape[:-2], len(x))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        logits, given = ctx.saved_tensors
        to_x = None
        if ctx.needs_input_grad[1]:
            to_x = (cotangent.unsqueeze(-1) * logits).sum_to_size(given.shape).to(given.dtype)
        if not ctx.needs_input_grad[0]:
            return None, to_x, None
        x = float32_or_better(given, logits)
        to_logits = torch.empty_like(logits, memory_format=torch.contiguous_format)
        rows = logits.reshape(math.prod(logits.shape[:-2]), *logits.shape[-2:])
        shared, size, exact = logits.shape[-2] == 1, _piece(rows), _exact_in_bfloat16(ctx.likelihood, rows)
        if shared and exact:  # rounded before both sums, so that these stay equal where all pixels are
            cotangent = cotangent.to(logits.dtype).to(x.dtype)
        g = cotangent.reshape(len(rows), len(x), 1)  # (S, B, 1)
        scratch = torch.empty_like(rows[:size], dtype=x.dtype)
        products = bfloat16_products() if exact else nullcontext()
        with torch.autocast(x.device.type, enabled=False), products:
            for part, w, out in zip(rows.split(size), g.split(size), to_logits.view_as(rows).split(size), strict=True):
                whole = out.dtype == x.dtype
                into = out if whole else scratch[: len(part)]
                mean = ctx.likelihood.mean(part if whole else into.copy_(part), out=into)
                if shared:  # Σ_b w_b x_b − mean Σ_b w_b
                    on = (w.squeeze(-1) @ x).unsqueeze(-2)
                    torch.addcmul(on, w.sum(-2, keepdim=True), mean, value=-1, out=into)
                else:
                    torch.sub(x, mean, out=into).mul_(w)
                if not whole:
                    out.copy_(into)
        return to_logits, to_x, None


def _exact_in_bfloat16(likelihood: NaturalLikelihood, logits: Tensor) -> bool:
    """Whether a processor's bfloat16 units multiply logits with x as exactly as float32 does, which takes it longer.

    They do if both are bfloat16 numbers, as 0 and 1 are: no factor is rounded, and sums are float32.
    """
    return logits.device.type == "cpu" and logits.dtype == torch.bfloat16 and likelihood.support == BINARY


def _piece(rows: Tensor) -> int:
    """How many of the first axis make a piece: on a processor 1 MB in float32 a thread, everything elsewhere."""
    numbers = 2**18 * torch.get_num_threads()
    return max(1, numbers // max(1, rows.shape[1:].numel()) if rows.device.type == "cpu" else len(rows))
