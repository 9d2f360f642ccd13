"""What a bound's gradient estimators multiply ∂ℓ_n by, by automatic differentiation of any bound."""

import torch
from torch import Tensor

from lvm_lightning.objectives.bounds import Bound, nested

BLOCK = 2**18
"""Numbers that the second derivatives take at a time: they stay in a processor's cache."""


def cotangents(bound: Bound, log_w: Tensor) -> Tensor:
    """∂F/∂ℓ of the nested bound, ``(J, N, B)``."""
    leaf = log_w.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(nested(bound, leaf).sum(), leaf)
    return gradient


def doubly_reparameterised_cotangents(bound: Bound, log_w: Tensor) -> Tensor:
    """∂F/∂ℓ_n − ∂²F/∂ℓ_n² of the nested bound, ``(J, N, B)``.

    The score term that pathwise leaves in, −Σ_n g_n ∂log q/∂φ with g = ∂F/∂ℓ, is reparameterised once more: its
    expectation is that of −Σ_n ∂g_n/∂ℓ_n ∂ℓ_n/∂z_n ∂z_n/∂φ. For the importance-weighted bound this leaves the squared
    normalised weights. The difference loses digits where a weight is small, and is taken in float64.

    Reference:
        Tucker et al., Doubly Reparameterized Gradient Estimators for Monte Carlo Objectives, 2018, eq. 8.
    """
    leaf = log_w.detach().double().requires_grad_()
    (gradient,) = torch.autograd.grad(nested(bound, leaf).sum(), leaf, create_graph=True)
    if not gradient.requires_grad:  # the bound is linear
        return gradient.to(log_w.dtype)
    return (gradient.detach() - _diagonal(gradient, leaf)).to(log_w.dtype)


def _diagonal(gradient: Tensor, leaf: Tensor) -> Tensor:
    """∂g_n/∂ℓ_n for all n, ``(J, N, B)``: a backward pass for each n, many in one."""
    N = leaf.shape[1]
    columns: list[Tensor] = []
    for rows in torch.eye(N, dtype=leaf.dtype, device=leaf.device).split(max(1, BLOCK // leaf.numel())):
        one_hot = rows.view(-1, 1, N, 1).expand(-1, *leaf.shape)
        (second,) = torch.autograd.grad(gradient, leaf, one_hot, retain_graph=True, is_grads_batched=True)
        columns.append(second.diagonal(sum(c.shape[-1] for c in columns), 0, 2))  # (J, B, rows)
    return torch.cat(columns, -1).transpose(1, 2)
