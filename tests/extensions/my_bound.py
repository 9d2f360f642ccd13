"""A bound of one's own, between the ELBO and the importance-weighted bound."""

from torch import Tensor

from lvm_lightning.objectives import elbo, iw_elbo, lower_bound


@lower_bound("halfway bound")
def halfway(log_w: Tensor) -> Tensor:
    """½ (ELBO + L_N): a mean of two lower bounds is one, ``(N, *) → (*)``, nats."""
    return (elbo(log_w) + iw_elbo(log_w)) / 2
