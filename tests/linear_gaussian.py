"""The oracle: z ~ N(0, I), x|z ~ N(W z + b, s² I) with orthogonal columns of W, in float64.

log p(x), the posterior (diagonal, as the columns are orthogonal) and every Rényi divergence of a diagonal Gaussian from
it are closed forms.
"""

import torch
from torch import Tensor

from lvm_lightning.densities import DiagonalGaussian, Gaussian
from lvm_lightning.densities.priors import standard_normal_log_prob
from lvm_lightning.objectives.estimators import Draw, Objective

K, D, S = 2, 4, 0.7
W = torch.linalg.qr(torch.randn(D, K, dtype=torch.float64, generator=torch.Generator().manual_seed(3)))[0] * (
    torch.tensor([1.5, 0.6], dtype=torch.float64)
)
BIAS = torch.tensor([0.3, -0.2, 0.1, 0.5], dtype=torch.float64)
X = torch.tensor([1.0, -1.2, 0.4, 0.8], dtype=torch.float64)
LIKELIHOOD = Gaussian(S).double()


def log_p() -> Tensor:
    """log N(x; b, W Wᵀ + s² I), ``()``."""
    covariance = W @ W.T + S**2 * torch.eye(D, dtype=torch.float64)
    log_prob: Tensor = torch.distributions.MultivariateNormal(BIAS, covariance).log_prob(X)
    return log_prob


def posterior() -> tuple[Tensor, Tensor]:
    """Mean ``(K,)`` and log σ ``(K,)`` of p(z|x)."""
    variance = 1 / (1 + W.square().sum(0) / S**2)
    return variance * (W.T @ (X - BIAS)) / S**2, 0.5 * variance.log()


def wrong(shift: float = 0.35, widen: float = 0.2) -> tuple[Tensor, Tensor]:
    """A proposal beside the posterior: shifted by so many of its standard deviations, and wider by e^widen."""
    mean, log_sigma = posterior()
    return mean + shift * log_sigma.exp(), log_sigma + widen


def kl(mean: Tensor, log_sigma: Tensor) -> Tensor:
    """KL(q ‖ p(z|x)), ``()``."""
    m, s = posterior()
    return (s - log_sigma + 0.5 * ((2 * (log_sigma - s)).exp() + ((mean - m) / s.exp()) ** 2 - 1)).sum()


def renyi_divergence(mean: Tensor, log_sigma: Tensor, alpha: float) -> Tensor:
    """D_α(q ‖ p(z|x)) = 1/(α−1) log ∫ q^α p^{1−α} dz, ``()``: Gil et al. 2013, table 2."""
    m, s = posterior()
    vq, vp = (2 * log_sigma).exp(), (2 * s).exp()
    mixed = alpha * vp + (1 - alpha) * vq
    logs = (1 - alpha) * 0.5 * vq.log() + alpha * 0.5 * vp.log() - 0.5 * mixed.log()
    return (0.5 * alpha * (mean - m) ** 2 / mixed + logs / (alpha - 1)).sum()


def log_joint(z: Tensor, bias: Tensor = BIAS) -> tuple[Tensor, Tensor]:
    """log p(x|z) and log p(z), ``(J, N, R)``; the decoder's bias may differ between examples, ``(R, D)``."""
    return LIKELIHOOD.log_prob(z @ W.T + bias, X.unsqueeze(0)), standard_normal_log_prob(z)


def log_weights(mean: Tensor, log_sigma: Tensor, J: int, N: int, repeats: int, seed: int = 0) -> Tensor:
    """``(J, N, repeats)`` of independent draws."""
    q = DiagonalGaussian(mean.expand(repeats, K), log_sigma.expand(repeats, K))
    noise = torch.randn(J, N, repeats, K, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    z, log_q = q.rsample(noise)
    log_lik, log_prior = log_joint(z)
    return log_lik + (log_prior - log_q)


def gradients(
    objective: Objective, parameters: tuple[Tensor, Tensor], repeats: int, seed: int = 0, kl_weight: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Independent gradients: of φ = (μ, log σ) ``(repeats, 2K)``, of θ = b ``(repeats, D)``; and the values."""
    mean, log_sigma = (p.expand(repeats, K).clone().requires_grad_() for p in parameters)
    bias = BIAS.expand(repeats, D).clone().requires_grad_()
    shape = (objective.outer_samples, objective.inner_samples, repeats, K)
    noise = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    draw: Draw = objective.draw(DiagonalGaussian(mean, log_sigma), noise)
    value, _ = objective.surrogate(draw, *log_joint(draw.z, bias), kl_weight)
    to_mean, to_log_sigma, to_bias = torch.autograd.grad(value.sum(), (mean, log_sigma, bias))
    return torch.cat([to_mean, to_log_sigma], -1), to_bias, value.detach()


def slope(x: list[int], y: Tensor) -> float:
    """Least-squares slope of log y over log x."""
    u, v = torch.tensor(x, dtype=torch.float64).log(), y.double().log()
    return float(((u - u.mean()) * (v - v.mean())).sum() / (u - u.mean()).square().sum())
