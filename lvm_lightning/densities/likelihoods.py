"""Conditional densities p(x|z): the decoder's output and x in, nats with every constant out.

Samples come first: the decoder's output is ``(*S, B, P·D)`` with P parameters a pixel, or ``(*S, 1, P·D)`` when the
batch shares its latent points; x is ``(B, D)``; a log-likelihood is ``(*S, B)``.
"""

import math
from abc import ABC, abstractmethod
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import softplus

from lvm_lightning.support.argtypes import PositiveFloat


class Likelihood(nn.Module, ABC):
    """Abstract p(x|z) with independent pixels.

    Attributes:
        parameters_per_pixel: P, how many numbers of a pixel the decoder puts out.
        support: ``binary`` when x must hold zeros and ones, ``real`` when it may hold anything. A data module whose
            ``values`` are not binary is refused by a binary likelihood before training.
        density: whether the number is a density, in nats that depend on the scale of x, and not a probability.
    """

    parameters_per_pixel: int = 1
    support: Literal["binary", "real"]
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


class Bernoulli(Likelihood):
    """Independent Bernoulli pixels on logits.

        log p(x|z) = Σ_j x_j l_j − softplus(l_j),   l = decoder(z),  x_j ∈ {0, 1}

    It is a probability: nats per image, at most 0. On values other than 0 and 1 the expression is no
    log-probability of anything, which is why :attr:`support` is checked before training.
    """

    support = "binary"
    density = False

    def log_prob(self, logits: Tensor, x: Tensor) -> Tensor:
        """Log-probability of every x under every latent point.

        Shared points take one matrix product over all pairs instead of a ``(*S, B, D)`` tensor. Runs in
        float32 or better also under autocast: in bfloat16 the sums over D pixels are off by tenths of a nat.

        Args:
            logits: ``(*S, B, D)``, or ``(*S, 1, D)`` when the points are shared by the batch.
            x: zeros and ones, ``(B, D)``.

        Returns:
            ``(*S, B)``, nats.
        """
        with torch.autocast(logits.device.type, enabled=False):
            return cast(Tensor, _BernoulliLogProb.apply(logits, x))

    def mean(self, logits: Tensor) -> Tensor:
        """E[x|z] = sigmoid(l), the Bernoulli means: same shape as ``logits``, in [0, 1]. Not a sample of x."""
        return logits.sigmoid()

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


class _BernoulliLogProb(torch.autograd.Function):
    """Σ_j x_j l_j − softplus(l_j), which keeps nothing of the size of the logits but the logits.

    Autograd would keep two more such tensors and make five on the way back; here

        ∂/∂l_j = x_j − sigmoid(l_j),   ∂/∂x_j = l_j

    and pieces small enough for a processor's cache are worked on in float32 or better one after the other.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(logits, x)
        x = _float32_or_better(x, logits)
        shared = logits.shape[-2] == 1
        rows = logits.reshape(-1, *logits.shape[-2:])  # (S, B, D) or (S, 1, D)
        log_prob = []
        for part in rows.split(_piece(rows)):
            exact = _float32_or_better(part)
            on = exact.squeeze(-2) @ x.mT if shared else (exact * x).sum(-1)
            log_prob.append(on - softplus(exact).sum(-1))
        return torch.cat(log_prob).view(*logits.shape[:-2], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, Tensor | None]:
        logits, given = ctx.saved_tensors
        to_x = None
        if ctx.needs_input_grad[1]:
            to_x = (cotangent.unsqueeze(-1) * logits).sum_to_size(given.shape).to(given.dtype)
        if not ctx.needs_input_grad[0]:
            return None, to_x
        x = _float32_or_better(given, logits)
        to_logits = torch.empty_like(logits, memory_format=torch.contiguous_format)
        rows = logits.reshape(-1, *logits.shape[-2:])
        g = cotangent.reshape(len(rows), -1, 1)  # (S, B, 1)
        size = _piece(rows)
        for part, weight, out in zip(rows.split(size), g.split(size), to_logits.view_as(rows).split(size), strict=True):
            exact = _float32_or_better(part)
            mean = torch.sigmoid(exact, out=out if out.dtype == exact.dtype else None)
            if logits.shape[-2] == 1:
                with torch.autocast(mean.device.type, enabled=False):
                    on = weight.squeeze(-1) @ x
                torch.sub(on.unsqueeze(-2), mean.mul_(weight.sum(-2, keepdim=True)), out=mean)
            else:
                torch.sub(x, mean, out=mean).mul_(weight)
            if mean is not out:
                out.copy_(mean)
        return to_logits, to_x


def _piece(rows: Tensor) -> int:
    """How many of the first axis make a piece: 2 MB in float32 on a processor, everything elsewhere."""
    each = rows[0].numel() if len(rows) else 1
    return max(1, 2**19 // each) if rows.device.type == "cpu" else max(1, len(rows))


def _float32_or_better(tensor: Tensor, like: Tensor | None = None) -> Tensor:
    """In float32, or in float64 where it (or its like) is."""
    return tensor.to(torch.promote_types((tensor if like is None else like).dtype, torch.float32))


class GaussianLikelihood(Likelihood):
    """Independent Gaussian pixels, abstract in where the standard deviation comes from.

        log p(x|z) = −½ Σ_j [ ((x_j − m_j)/σ_j)² + 2 log σ_j + log 2π ]

    It is a density: nats per image on the scale of x. On x in [−1, 1] it is D log 2 nats lower than on [0, 1], and on
    grey levels it grows without limit as σ → 0 unless the data are dequantised.
    """

    support = "real"
    density = True

    @abstractmethod
    def mean_and_log_sigma(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """m ``(*, D)`` and log σ, which broadcasts against it."""

    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        """Log-density of every x under every latent point, ``(*S, B)`` in nats, in float32 or better."""
        with torch.autocast(parameters.device.type, enabled=False):
            mean, log_sigma = self.mean_and_log_sigma(_float32_or_better(parameters))
            scaled = (x - mean) * (-log_sigma).exp()
            constant = 0.5 * x.shape[-1] * math.log(2 * math.pi)
            return -0.5 * scaled.square().sum(-1) - log_sigma.expand(mean.shape).sum(-1) - constant

    def mean(self, parameters: Tensor) -> Tensor:
        """E[x|z] = m."""
        return self.mean_and_log_sigma(parameters)[0]

    def sample(self, parameters: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """x = m + σ ε."""
        mean, log_sigma = self.mean_and_log_sigma(parameters)
        return mean + log_sigma.exp() * torch.randn(mean.shape, generator=generator).to(mean)

    def parameters_of_mean(self, mean: Tensor) -> Tensor:
        """The mean itself."""
        return mean


class Gaussian(GaussianLikelihood):
    """Gaussian pixels with one standard deviation for all: m = decoder(z), σ fixed or learned.

    Args:
        sigma: σ, or where a learned σ starts.
        learn_sigma: whether σ is a parameter of the model.
        floor: least value of a learned σ.

    Raises:
        ValueError: if a learned σ starts at its floor or below.
    """

    def __init__(self, sigma: PositiveFloat = 1.0, learn_sigma: bool = False, floor: PositiveFloat = 1e-3) -> None:
        super().__init__()
        if learn_sigma and sigma <= floor:
            raise ValueError(f"likelihood.sigma: a learned σ must start above its floor {floor:g}, got {sigma:g}")
        self.fixed_sigma = None if learn_sigma else sigma
        self.floor = floor
        if learn_sigma:
            self.log_excess = nn.Parameter(torch.tensor(math.log(sigma - floor)))

    @property
    def sigma(self) -> Tensor:
        """σ, ``()``; learned, it is floor + exp(its parameter)."""
        if self.fixed_sigma is not None:
            return torch.tensor(self.fixed_sigma, dtype=torch.float64)
        return self.floor + self.log_excess.exp()

    def information(self, parameters: Tensor) -> Tensor:
        """1/σ²."""
        return self.sigma.to(parameters).pow(-2).expand_as(parameters)

    def mean_and_log_sigma(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """The decoder's output, and log σ ``()``."""
        return parameters, self.sigma.log().to(parameters)


class PixelwiseGaussian(GaussianLikelihood):
    """Gaussian pixels with a mean and a variance each: (m, s) = decoder(z), σ² = floor² + exp(s).

    The decoder puts out the D means first and the D numbers s behind them.

    Args:
        floor: least value of σ. Without one, a pixel that never varies sends the density to infinity.
    """

    parameters_per_pixel = 2

    def __init__(self, floor: PositiveFloat = 1e-2) -> None:
        super().__init__()
        self.floor = floor

    def mean_and_log_sigma(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """m and log σ, both ``(*, D)``."""
        mean, log_variance = parameters.chunk(2, dim=-1)
        log_floor = torch.full_like(log_variance, 2 * math.log(self.floor))
        return mean, 0.5 * torch.logaddexp(log_variance, log_floor)

    def information(self, parameters: Tensor) -> Tensor:
        """1/σ² of m, and ½ (∂ log σ²/∂s)² of s."""
        _, log_sigma = self.mean_and_log_sigma(parameters)
        variance = (2 * log_sigma).exp()
        share = parameters.chunk(2, dim=-1)[1].exp() / variance
        return torch.cat([1 / variance, 0.5 * share.square()], dim=-1)
