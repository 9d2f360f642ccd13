"""Lower bounds on log p(x) as pure functions of log importance weights.

``log_w = log p(x, z) − log q(z|x)`` in nats, samples first: ``(S, B)``, or ``(J, N, B)`` for J outer and N
inner samples. Each function returns the bound itself, one number an example, ``(B,)`` in nats: never a mean
over the batch, never a loss.
"""

import math
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def _require_axes(log_w: Tensor, shape: str, axes: int) -> None:
    if log_w.ndim != axes or 0 in log_w.shape[:-1]:
        raise ValueError(
            f"log_w: must have shape {shape} with at least one sample, got {tuple(log_w.shape)}; "
            "put the sample axes first and the examples last"
        )


class _LogSumExp(torch.autograd.Function):
    """log Σ_n exp ℓ_n = ℓ_max − log softmax(ℓ)_max: the softmax is the gradient, and its largest entry at least 1/N.

    On a processor ``exp`` takes 15 times as long where it underflows, as it does for most weights of a wide proposal;
    ``softmax`` does not.
    """

    @staticmethod
    def forward(ctx: Any, log_w: Tensor, dim: int) -> Tensor:
        weights = log_w.softmax(dim)
        ctx.save_for_backward(weights)
        ctx.dim = dim
        largest = log_w.amax(dim)
        return torch.where(largest.isinf(), largest, largest - weights.amax(dim).log())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None]:
        (weights,) = ctx.saved_tensors
        return cotangent.unsqueeze(ctx.dim) * weights, None


def log_sum_exp(log_w: Tensor, dim: int) -> Tensor:
    """log Σ exp over one axis, in nats; −∞ where every entry is −∞."""
    return cast(Tensor, _LogSumExp.apply(log_w, dim))


def elbo(log_w: Tensor) -> Tensor:
    """Evidence lower bound, averaged over S samples.

        ELBO(x) = E_q[log w] ≈ 1/S Σ_s log w_s  ≤  log p(x)

    Args:
        log_w: log importance weights ``(S, B)`` in nats.

    Returns:
        The bound ``(B,)`` in nats. S lowers its variance and leaves its expectation alone.

    Raises:
        ValueError: if ``log_w`` is not ``(S, B)`` with S ≥ 1.

    Reference:
        Kingma & Welling, Auto-Encoding Variational Bayes, 2014, eq. 2.
    """
    _require_axes(log_w, "(S, B)", 2)
    return log_w.mean(0)


def iw_elbo(log_w: Tensor) -> Tensor:
    """Importance-weighted bound with N samples.

        L_N(x) = E log 1/N Σ_n w_n ≈ logsumexp_n log w_n − log N  ≤  log p(x)

    Its expectation rises with N and tends to log p(x).

    Args:
        log_w: log importance weights ``(N, B)`` in nats.

    Returns:
        The bound ``(B,)`` in nats.

    Raises:
        ValueError: if ``log_w`` is not ``(N, B)`` with N ≥ 1.

    Reference:
        Burda et al., Importance Weighted Autoencoders, 2016, eq. 8.
    """
    _require_axes(log_w, "(N, B)", 2)
    return log_sum_exp(log_w, 0) - math.log(log_w.shape[0])


def nested_iw_elbo(log_w: Tensor) -> Tensor:
    """Mean over J of the importance-weighted bound with N samples.

        L_{J,N}(x) = 1/J Σ_j ( logsumexp_n log w_{j,n} − log N )  ≤  log p(x)

    The expectation is that of L_N whatever J is; J lowers the variance. N = 1 is the ELBO (under the prior
    as proposal: the Jensen bound), J = 1 the importance-weighted bound. The mean over J is taken outside
    the logarithm: inside it, the number would be L_{JN}.

    Args:
        log_w: log importance weights ``(J, N, B)`` in nats.

    Returns:
        The bound ``(B,)`` in nats.

    Raises:
        ValueError: if ``log_w`` is not ``(J, N, B)`` with J, N ≥ 1.

    Reference:
        Rainforth et al., Tighter Variational Bounds are Not Necessarily Better, 2018, eq. 9 (MIWAE).
    """
    _require_axes(log_w, "(J, N, B)", 3)
    return (log_sum_exp(log_w, 1) - math.log(log_w.shape[1])).mean(0)


def require_order(alpha: float, argument: str = "alpha") -> None:
    """Refuse an order that the Rényi bound divides by zero at, or that makes it no lower bound.

    Raises:
        ValueError: unless 0 ≤ α < 1.
    """
    if not 0 <= alpha < 1:
        raise ValueError(
            f"{argument}: must be in [0, 1), got {alpha:g}; the limit α → 1 is the ELBO, which is one inner sample "
            "with any α"
        )


def renyi(log_w: Tensor, alpha: float) -> Tensor:
    """Variational Rényi bound of order α with N samples.

        L_{α,N}(x) = E 1/(1−α) log 1/N Σ_n w_n^{1−α}  ≤  log p(x),   0 ≤ α < 1

    α = 0 is the importance-weighted bound, α → 1 the ELBO, and in between the expectation falls with α: one
    N gives a ladder of bounds. As N grows it rises to log p(x) − D_α(q ‖ p(z|x)), and only for α = 0 to log p(x).

    Args:
        log_w: log importance weights ``(N, B)`` in nats.
        alpha: order α.

    Returns:
        The bound ``(B,)`` in nats.

    Raises:
        ValueError: if ``log_w`` is not ``(N, B)`` with N ≥ 1, or α is outside [0, 1).

    Reference:
        Li & Turner, Rényi Divergence Variational Inference, 2016, eq. 10; theorem 2 for its place below log p(x).
    """
    _require_axes(log_w, "(N, B)", 2)
    return nested_renyi(log_w.unsqueeze(0), alpha)


def nested_renyi(log_w: Tensor, alpha: float) -> Tensor:
    """Mean over J of the Rényi bound of order α with N samples.

        L_{α,J,N}(x) = 1/J Σ_j 1/(1−α) ( logsumexp_n (1−α) log w_{j,n} − log N )  ≤  log p(x)

    α = 0 is :func:`nested_iw_elbo`; N = 1 is the ELBO over J samples, whatever α is.

    Args:
        log_w: log importance weights ``(J, N, B)`` in nats.
        alpha: order α.

    Returns:
        The bound ``(B,)`` in nats.

    Raises:
        ValueError: if ``log_w`` is not ``(J, N, B)`` with J, N ≥ 1, or α is outside [0, 1).

    Reference:
        Li & Turner, Rényi Divergence Variational Inference, 2016, eq. 10;
        Rainforth et al., Tighter Variational Bounds are Not Necessarily Better, 2018, eq. 9 (the mean over J).
    """
    _require_axes(log_w, "(J, N, B)", 3)
    require_order(alpha)
    return nested_iw_elbo((1 - alpha) * log_w) / (1 - alpha)
