"""What a posterior does with its latent dimensions, how noisy a gradient is, and how far weights can be believed."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter

from lvm_lightning.support.log_space import log_sum_exp, share

ACTIVE = 0.01
"""Activity above which a latent dimension counts as active (Burda et al. 2016, appendix C)."""
BLOCK = 500
"""Rows of the pairwise densities that are computed at a time."""
TAIL = 25
"""Samples that a tail shape needs."""


class Latents(NamedTuple):
    """What a validation found about the proposals q(z|x) of its images.

    Attributes:
        location: where each q(z|x) lies, ``(n, K)``.
        kl: KL(q(z_k|x) ‖ N(0, 1)) in nats, ``(n, K)``; None where it has no closed form.
        label: labels, ``(n,)``.
    """

    location: Tensor
    kl: Tensor | None
    label: Tensor


def heavy(samples: int) -> float:
    """Pareto shape above which an importance-sampling estimate from S samples cannot be trusted.

        min(1 − 1/log₁₀ S, 0.7)

    Reference:
        Vehtari et al., Pareto Smoothed Importance Sampling, 2024, section 3.2.4.
    """
    return min(1 - 1 / math.log10(samples), 0.7)


def activity(mean: Tensor) -> Tensor:
    """Variance over images of the posterior mean: A_k = Var_x(E_q[z_k]), ``(n, K) → (K,)``.

    Reference:
        Burda et al., Importance Weighted Autoencoders, 2016, section 5.2.
    """
    return mean.double().var(0)


def active_units(mean: Tensor) -> int:
    """Number of latent dimensions whose activity is above 0.01."""
    return int((activity(mean) > ACTIVE).sum())


def log_aggregate(z: Tensor, mean: Tensor, log_sigma: Tensor) -> Tensor:
    """log 1/n Σ_j N(z; μ_j, diag σ_j²), of the aggregate posterior: ``(m, K)``, and two ``(n, K)`` → ``(m,)``, nats.

    Reference:
        Hoffman & Johnson, ELBO surgery, 2016, eq. 4.
    """
    z, mean, precision = z.double(), mean.double(), (-2 * log_sigma.double()).exp()
    constant = -log_sigma.double() - 0.5 * (mean.square() * precision) - 0.5 * torch.log(z.new_tensor(2 * torch.pi))
    pairs = (constant.sum(-1) - 0.5 * p.square() @ precision.T + p @ (mean * precision).T for p in z.split(BLOCK))
    log_sums = torch.cat([log_sum_exp(log_density, -1) for log_density in pairs])
    return log_sums - torch.log(torch.tensor(len(mean), dtype=torch.float64))


def mutual_information(z: Tensor, log_q: Tensor, mean: Tensor, log_sigma: Tensor) -> Tensor:
    """log q(z_i|x_i) − log q(z_i) with z_i ~ q(z|x_i): its mean is I_q(x; z), at most log n, ``(n,)``, nats.

    The mean KL splits: E KL(q(z|x) ‖ p(z)) = I_q(x; z) + KL(q(z) ‖ p(z)).

    Args:
        z: a sample of each proposal, ``(n, K)``.
        log_q: log q(z_i|x_i), ``(n,)``.
        mean: μ of each proposal, ``(n, K)``.
        log_sigma: log σ of each proposal, ``(n, K)``.

    Reference:
        Hoffman & Johnson, ELBO surgery, 2016, eq. 6.
    """
    return log_q.double() - log_aggregate(z, mean, log_sigma)


def signal_to_noise(
    loss: Callable[[int], Tensor], groups: Mapping[str, Sequence[Parameter]], repeats: int
) -> dict[str, float]:
    """Mean over the parameters of each group of |E g|/√Var g, g the gradient of a loss under fresh noise.

    Args:
        loss: number of the repeat → loss, with noise of its own.
        groups: what to differentiate by, by name.
        repeats: how often, at least 2.

    Raises:
        ValueError: if there are fewer than two repeats, which have no variance.

    Reference:
        Rainforth et al., Tighter Variational Bounds are Not Necessarily Better, 2018, eq. 10.
    """
    if repeats < 2:
        raise ValueError(f"gradient_repeats: must be at least 2, or 0 to leave it out, got {repeats}")
    wanted = [parameter for group in groups.values() for parameter in group]
    sizes = [sum(parameter.numel() for parameter in group) for group in groups.values()]
    total = squares = torch.zeros(sum(sizes), dtype=torch.float64, device=wanted[0].device)
    for repeat in range(repeats):
        gradient = torch.cat([part.flatten() for part in torch.autograd.grad(loss(repeat), wanted)]).double()
        total, squares = total + gradient, squares + gradient.square()
    mean = total / repeats
    variance = (squares / repeats - mean.square()) * repeats / (repeats - 1)
    ratios = (mean.abs() / variance.sqrt()).where(variance > 0, torch.nan)  # of what does not vary there is none
    return {name: float(part[~part.isnan()].mean()) for name, part in zip(groups, ratios.split(sizes), strict=True)}


def effective_sample_size(log_w: Tensor) -> Tensor:
    """(Σ w)² / Σ w², ``(S, B) → (B,)``: between 1 and S.

    Reference:
        Kong, A note on importance sampling using standardized weights, 1992.
    """
    log_w = log_w.double()
    return (2 * log_sum_exp(log_w, 0) - log_sum_exp(2 * log_w, 0)).exp()


def pareto_shape(log_w: Tensor) -> Tensor:
    """Shape k̂ of a generalised Pareto distribution fitted to the largest weights, ``(S, B) → (B,)``.

    The largest M = min(S/5, 3 √S) weights above the next one are fitted by Zhang & Stephens' empirical-Bayes estimate,
    with the weakly informative prior that pulls k̂ to ½ by ten observations. k̂ ≥ ½: the weights have no variance;
    k̂ > 0.7: the estimate cannot be believed at any feasible S.

    Raises:
        ValueError: if there are fewer than 25 weights, of which 5 make a tail.

    Reference:
        Vehtari et al., Pareto Smoothed Importance Sampling, 2024, section 3; Zhang & Stephens, A new and efficient
        estimation method for the generalized Pareto distribution, 2009, eq. 6–8.
    """
    if (S := len(log_w)) < TAIL:
        raise ValueError(f"log_w: a tail needs at least {TAIL} weights, got {S}")
    M = int(min(0.2 * S, 3 * math.sqrt(S)))
    largest = log_w.double().topk(M + 1, dim=0).values  # falling
    # Rounding makes ties of nearly equal weights: they then have no tail, and k̂ goes to its prior.
    shares = share(largest[: M + 1] - largest[0])
    excess = shares[:M].flip(0) - shares[M]  # (M, B), rising
    excess = excess.clamp_min(1e-300)
    m = 30 + int(math.sqrt(M))
    j = torch.arange(1, m + 1, dtype=torch.float64, device=log_w.device)
    quartile = excess[int(M / 4 + 0.5) - 1]
    b = (1 - (m / (j - 0.5)).sqrt()).unsqueeze(1) / (3 * quartile) + 1 / excess[-1]  # (m, B)
    k = (-b.unsqueeze(1) * excess).log1p().mean(1)  # (m, B)
    log_lik = M * ((-b / k).log() - k - 1)
    b_hat = (log_lik.nan_to_num(nan=-math.inf).softmax(0) * b).sum(0)
    k_hat = (-b_hat * excess).log1p().mean(0)
    return (M * k_hat + 5) / (M + 10)
