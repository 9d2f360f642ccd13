"""A normalising flow as a prior."""

from collections.abc import Sequence

from torch import Tensor
from zuko.flows import MAF

from lvm_lightning.densities.priors.base import NoisePrior
from lvm_lightning.densities.priors.standard_normal import standard_normal_log_prob
from lvm_lightning.support.argtypes import PositiveInt


class FlowPrior(NoisePrior):
    """Learned prior: a masked autoregressive flow over a standard normal.

        log p(z) = log N(f(z); 0, I) + log |det ∂f/∂z|

    Args:
        dim: number K of latent dimensions.
        depth: number of autoregressive transformations.
        hidden: widths of each transformation's hidden layers.

    Reference:
        Papamakarios et al., Masked Autoregressive Flow for Density Estimation, 2017, eq. 3; Chen et al., Variational
        Lossy Autoencoder, 2017, section 3.2 (the flow as a prior).
    """

    def __init__(self, dim: int, depth: PositiveInt = 2, hidden: Sequence[PositiveInt] = (256, 256)) -> None:
        super().__init__(dim)
        self.flow = MAF(dim, transforms=depth, hidden_features=tuple(hidden))

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density in nats: ``(*, K) → (*,)``."""
        noise, log_jacobian = self.flow.transform().call_and_ladj(z)
        log_p: Tensor = standard_normal_log_prob(noise) + log_jacobian
        return log_p

    def transform(self, noise: Tensor) -> Tensor:
        """f⁻¹, one latent dimension after the other."""
        z: Tensor = self.flow.transform().inv(noise)
        return z
