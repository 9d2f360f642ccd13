"""What a posterior does with its latent dimensions."""

from torch import Tensor

ACTIVE = 0.01
"""Activity above which a latent dimension counts as active (Burda et al. 2016, appendix C)."""


def activity(mean: Tensor) -> Tensor:
    """Variance over images of the posterior mean: A_k = Var_x(E_q[z_k]), ``(n, K) → (K,)``.

    Reference:
        Burda et al., Importance Weighted Autoencoders, 2016, section 5.2.
    """
    return mean.double().var(0)


def active_units(mean: Tensor) -> int:
    """Number of latent dimensions whose activity is above 0.01."""
    return int((activity(mean) > ACTIVE).sum())
