"""Sums of exponentials without denormal numbers.

Below 1.2e-38 a float32 number has fewer digits and is called denormal. Some processors compute with such numbers ten to
a hundred times as slowly, and the weights of a trained model underflow by the thousand. Here an exponent is cut where
its exponential is too small to change a sum.
"""

import math
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import hardshrink


def rounding(dtype: torch.dtype) -> float:
    """log ε, ε the distance from 1 to the next number: −15.9 in float32, −36.0 in float64."""
    return math.log(torch.finfo(dtype).eps)


def share(log_share: Tensor) -> Tensor:
    """e^x of x ≤ 0, at least ε²."""
    return log_share.clamp(min=2 * rounding(log_share.dtype)).exp()


def normalised_weights(log_w: Tensor, dim: int) -> Tensor:
    """v_n = w_n / Σ_n w_n over one axis, in the shape of ``log_w``, each at least ε² of the largest one.

    What N cut weights add to a sum is at most N ε² of it.
    """
    largest = log_w.detach().amax(dim, keepdim=True)
    return log_w.maximum(largest + 2 * rounding(log_w.dtype)).softmax(dim)


def without_tiny(cotangent: Tensor, largest: Tensor, dtype: torch.dtype) -> Tensor:
    """0 in the place of cotangents below ε² of the largest: what they are multiplied with would be denormal.

    Args:
        cotangent: of any shape.
        largest: numbers of which the largest is about as large.
        dtype: the type that ε is of.
    """
    if cotangent.device.type != "cpu" or not cotangent.numel():
        return cotangent  # other devices compute with denormal numbers as fast as with any
    size = min(float(largest.detach().abs().max()), torch.finfo(dtype).max)  # so that infinities stay
    return hardshrink(cotangent, size * torch.finfo(dtype).eps ** 2)


class _LogSumExp(torch.autograd.Function):
    """log Σ_n exp ℓ_n = ℓ_max + log Σ_n exp(ℓ_n − ℓ_max), with at least ε² for each: the shares v are the gradient."""

    @staticmethod
    def forward(ctx: Any, log_w: Tensor, dim: int) -> Tensor:
        largest = log_w.amax(dim, keepdim=True)
        weights = (log_w - largest).clamp_(min=2 * rounding(log_w.dtype)).exp_()
        total = weights.sum(dim, keepdim=True)
        ctx.save_for_backward(log_w, weights.div_(total))
        ctx.dim = dim
        return torch.where(largest.isinf(), largest, largest + total.log()).squeeze(dim)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None]:
        log_w, weights = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative is wanted: the kept weights are a constant
            weights = normalised_weights(log_w, ctx.dim)
        return without_tiny(cotangent.unsqueeze(ctx.dim) * weights, cotangent, cotangent.dtype), None


def log_sum_exp(log_w: Tensor, dim: int) -> Tensor:
    """log Σ exp over one axis, in nats; −∞ where every entry is −∞. It can be differentiated twice."""
    return cast(Tensor, _LogSumExp.apply(log_w, dim))
