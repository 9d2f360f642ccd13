"""Pixels in natural form: Bernoulli and continuous Bernoulli, sums over pixels and gradients written out."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import softplus

from lvm_lightning.densities.likelihoods import Likelihood, float32_or_better
from lvm_lightning.support.values import BINARY, UNIT

SMALL = 0.5
"""|l| below which the moments are Taylor series: their closed forms are differences of numbers of size 1/l."""
SERIES = (1 / 12, -1 / 720, 1 / 30240, -1 / 1209600, 1 / 47900160, -691 / 1307674368000)
"""Coefficients of l, l³, l⁵, … in A'(l) − ½, B_{2k}/(2k)!: exact to 2e-15 where |l| < SMALL."""
NEAR_ZERO = 1e-30
"""|l| from which on the ratios below are 0/0; at this value they already have their limits."""
CUT = 1e-3
"""Means are cut here: at a mean m near 0, −l = 1/m, and a bright pixel costs so many nats."""
NEWTON_STEPS = 20


class NaturalLikelihood(Likelihood):
    """Independent pixels of an exponential family on logits, abstract in its log-partition function A.

    log p(x|z) = Σ_j x_j l_j − A(l_j),   E[x_j|z] = A'(l_j),   l = decoder(z)
    """

    @abstractmethod
    def log_partition(self, logits: Tensor) -> Tensor:
        """A(l) of each pixel, in the shape of ``logits``."""

    @abstractmethod
    def mean(self, logits: Tensor, out: Tensor | None = None) -> Tensor:
        """E[x|z] = A'(l), in the shape of ``logits``; written to ``out`` where one is given."""

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
        """softplus(l)."""
        return softplus(logits)

    def mean(self, logits: Tensor, out: Tensor | None = None) -> Tensor:
        """E[x|z] = sigmoid(l), the Bernoulli means: same shape as ``logits``, in [0, 1]. Not a sample of x."""
        return torch.sigmoid(logits, out=out)

    def sample(self, logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """x ~ p(x|z): zeros and ones in the shape of ``logits``."""
        return (torch.rand(logits.shape, generator=generator).to(logits.device) < self.mean(logits)).to(logits.dtype)

    def information(self, logits: Tensor) -> Tensor:
        """p (1 − p) with p = sigmoid(l)."""
        p = logits.sigmoid()
        return p * (1 - p)

    def parameters_of_mean(self, mean: Tensor) -> Tensor:
        """The logit, cut at the means 1e-6 and 1 − 1e-6."""
        return torch.logit(mean, eps=1e-6)


class ContinuousBernoulli(NaturalLikelihood):
    """Independent continuous Bernoulli pixels on logits, for grey levels.

        log p(x|z) = Σ_j x_j l_j − softplus(l_j) + log C(λ_j),   λ_j = sigmoid(l_j),  x_j ∈ [0, 1]
        log C(λ) = log (l / tanh(l/2)),   so that   softplus(l) − log C(λ) = log ((e^l − 1)/l) = A(l)

    Without C the expression is no log-density of grey levels: its integral over [0, 1] is less than 1. It is a
    density: nats per image on the scale of x.

    Reference:
        Loaiza-Ganem & Cunningham, The continuous Bernoulli, 2019, section 3.
    """

    support = UNIT
    density = True

    def log_partition(self, logits: Tensor) -> Tensor:
        """A(l) = max(l, 0) + log((1 − e^{−|l|})/|l|): exact near l = 0 too, and without overflow at any l."""
        size = logits.abs().clamp(min=NEAR_ZERO)
        return logits.relu() + (-torch.expm1(-size) / size).log()

    def mean(self, logits: Tensor, out: Tensor | None = None) -> Tensor:
        """E[x|z] = A'(l) = 1/(1 − e^{−l}) − 1/l: same shape as ``logits``, in [0, 1]. It is not λ."""
        near, far, small = _apart(logits)
        direct = -1 / torch.expm1(-far) - 1 / far
        return torch.where(small, 0.5 + near * _even(SERIES, near), direct, out=out)

    def information(self, logits: Tensor) -> Tensor:
        """Var[x|z] = A''(l) = 1/l² − 1/(4 sinh²(l/2))."""
        near, far, small = _apart(logits)
        slopes = [(2 * k + 1) * c for k, c in enumerate(SERIES)]
        size = far.abs()
        return torch.where(small, _even(slopes, near), size.pow(-2) - (-size).exp() / torch.expm1(-size).square())

    def sample(self, logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """x ~ p(x|z) by the inverse distribution function: log(1 + u (e^l − 1))/l, turned round where l > 0."""
        u = torch.rand(logits.shape, generator=generator).to(logits)
        size = logits.abs().clamp(min=NEAR_ZERO)
        x = (torch.log1p(u * torch.expm1(-size)) / -size).clamp(0, 1)
        return torch.where(logits > 0, 1 - x, x)

    def parameters_of_mean(self, mean: Tensor) -> Tensor:
        """The l with A'(l) = mean, cut at the means 1e-3 and 1 − 1e-3, by Newton's method in float64.

        A' rises, convex below 0 and concave above, so that the steps from 0 go to the root without passing it.
        """
        target = mean.double().clamp(CUT, 1 - CUT)
        logits = torch.zeros_like(target)
        for _ in range(NEWTON_STEPS):
            logits = logits - (self.mean(logits) - target) / self.information(logits)
        return logits.to(mean)


def _apart(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """In float32 or better: arguments of the series and of the closed forms, and which of the two serves."""
    exact = float32_or_better(logits)
    small = exact.abs() < SMALL
    return exact.where(small, 0.0), exact.where(~small, 1.0), small


def _even(coefficients: Sequence[float], x: Tensor) -> Tensor:
    """Σ_k c_k x^{2k}."""
    square, total = x.square(), torch.zeros_like(x)
    for c in reversed(coefficients):
        total = total * square + c
    return total


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
        log_prob = []
        for part in rows.split(_piece(rows)):
            exact = float32_or_better(part)
            on = exact.squeeze(-2) @ x.mT if logits.shape[-2] == 1 else (exact * x).sum(-1)
            log_prob.append(on - likelihood.log_partition(exact).sum(-1))
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
        g = cotangent.reshape(len(rows), len(x), 1)  # (S, B, 1)
        size = _piece(rows)
        for part, weight, out in zip(rows.split(size), g.split(size), to_logits.view_as(rows).split(size), strict=True):
            exact = float32_or_better(part)
            mean = ctx.likelihood.mean(exact, out=out if out.dtype == exact.dtype else None)
            if logits.shape[-2] == 1:
                with torch.autocast(mean.device.type, enabled=False):
                    on = weight.squeeze(-1) @ x
                torch.sub(on.unsqueeze(-2), mean.mul_(weight.sum(-2, keepdim=True)), out=mean)
            else:
                torch.sub(x, mean, out=mean).mul_(weight)
            if mean is not out:
                out.copy_(mean)
        return to_logits, to_x, None


def _piece(rows: Tensor) -> int:
    """How many of the first axis make a piece: 2 MB in float32 on a processor, everything elsewhere."""
    return max(1, 2**19 // max(1, rows.shape[1:].numel()) if rows.device.type == "cpu" else len(rows))
