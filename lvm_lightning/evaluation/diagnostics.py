"""What a posterior does with its latent dimensions, and how noisy a gradient is."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import Parameter

ACTIVE = 0.01
"""Activity above which a latent dimension counts as active (Burda et al. 2016, appendix C)."""

BLOCK = 500
"""Rows of the pairwise densities that are computed at a time."""


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
    constant = constant.sum(-1)
    log_sums = [
        (constant - 0.5 * part.square() @ precision.T + part @ (mean * precision).T).logsumexp(-1)  # over (m, n)
        for part in z.split(BLOCK)
    ]
    return torch.cat(log_sums) - torch.log(torch.tensor(len(mean), dtype=torch.float64))


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
    parts = zip(groups, mean.split(sizes), variance.split(sizes), strict=True)
    return {name: _ratio(*moments) for name, *moments in parts}


def _ratio(mean: Tensor, variance: Tensor) -> float:
    noisy = variance > 0
    return float((mean[noisy].abs() / variance[noisy].sqrt()).mean())
