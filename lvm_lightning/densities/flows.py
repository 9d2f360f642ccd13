"""Normalising flows: as a prior, and on top of a diagonal Gaussian as a proposal."""

from collections.abc import Sequence
from typing import Literal, cast

from torch import Tensor, nn
from torch.func import functional_call
from zuko.flows import MAF, NICE

from lvm_lightning.densities.likelihoods import float32_or_better
from lvm_lightning.densities.priors import NoisePrior, standard_normal_log_prob
from lvm_lightning.densities.proposals import DiagonalGaussian, GaussianPosterior, NoiseProposal, Posterior, Scale
from lvm_lightning.support.argtypes import PositiveInt


class FlowPrior(NoisePrior):
    """Learned prior: a flow over a standard normal, of affine maps whose slopes and shifts depend on other dimensions.

        log p(z) = log N(f(z); 0, I) + log abs det ∂f/∂z

    A masked autoregressive map takes each dimension by those before it: the density takes one pass, a sample K. A
    coupling takes half of the dimensions by the other half: both take one pass, and each map does less.

    Args:
        dim: number K of latent dimensions.
        depth: number of maps.
        hidden: widths of each map's hidden layers.
        kind: of the maps.

    Raises:
        ValueError: if there is no other dimension for a coupling.

    Reference:
        Papamakarios et al., Masked Autoregressive Flow for Density Estimation, 2017, eq. 3; Dinh et al., Density
        estimation using Real NVP, 2017, eq. 7 and 8 (couplings); Chen et al., Variational Lossy Autoencoder, 2017,
        section 3.2 (the flow as a prior).
    """

    def __init__(
        self,
        dim: int,
        depth: PositiveInt = 2,
        hidden: Sequence[PositiveInt] = (256, 256),
        kind: Literal["masked", "coupling"] = "masked",
    ) -> None:
        super().__init__(dim)
        if kind == "coupling" and dim < 2:
            raise ValueError(f"prior.kind: coupling needs two latent dimensions or more, got {dim}; set it to masked")
        self.flow = {"masked": MAF, "coupling": NICE}[kind](dim, transforms=depth, hidden_features=tuple(hidden))

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density in nats: ``(*, K) → (*,)``."""
        noise, log_jacobian = self.flow.transform().call_and_ladj(z)
        return cast(Tensor, standard_normal_log_prob(noise) + log_jacobian)

    def transform(self, noise: Tensor) -> Tensor:
        """f⁻¹."""
        return cast(Tensor, self.flow.transform().inv(noise))

    def noise_of(self, z: Tensor) -> Tensor:
        """f(z), in one pass: the ε that :meth:`transform` makes z of."""
        return cast(Tensor, self.flow.transform()(z))


class Flow(nn.Module):
    """z = T(z₀; c), a composition of affine autoregressive maps with context c.

    Args:
        dim: number K of dimensions.
        context: width of c.
        depth: number of maps; each takes the dimensions in the reverse order of the one before it.
        hidden: widths of each map's hidden layers.
    """

    def __init__(self, dim: int, context: int, depth: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.maps = MAF(dim, context, depth, hidden_features=tuple(hidden)).transform

    def forward(self, z: Tensor, context: Tensor, invert: bool = False) -> tuple[Tensor, Tensor]:
        """T(z; c) or its inverse, ``(*S, B, K)``, and log abs det of its Jacobian, ``(*S, B)``; c is ``(B, C)``.

        Forwards all dimensions at once; inverted one after the other, K passes a map.
        """
        transform = self.maps(context)
        return cast(tuple[Tensor, Tensor], (transform.inv if invert else transform).call_and_ladj(z))


class FlowProposal(NoiseProposal):
    """q(z|x) of z = T(z₀; c), z₀ ~ N(μ, diag σ²).

        log q(z|x) = log N(z₀; μ, diag σ²) − log abs det ∂T/∂z₀

    Args:
        base: the distribution of z₀.
        flow: T.
        context: c, ``(B, C)``.
        parameters: values of the flow's parameters by name; its own let their gradient flow.
    """

    def __init__(self, base: DiagonalGaussian, flow: Flow, context: Tensor, parameters: dict[str, Tensor]) -> None:
        self.base, self.flow, self.context, self.parameters = base, flow, context, parameters

    @property
    def like(self) -> Tensor:
        """As the base's."""
        return self.base.like

    @property
    def location(self) -> Tensor:
        """T(μ; c): a point of high density, not the mean."""
        return self._map(self.base.mean)[0]

    def rsample(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """z = T(μ + σ ε; c), in one pass a map."""
        z0, log_q0 = self.base.rsample(noise)
        z, log_jacobian = self._map(z0)
        return z, log_q0 - log_jacobian

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z|x); K passes a map, as T has to be inverted."""
        z0, log_jacobian = self._map(z, invert=True)
        return self.base.log_prob(z0) + log_jacobian

    def detached(self) -> "FlowProposal":
        """With the encoder and the flow held fixed."""
        fixed = {name: parameter.detach() for name, parameter in self.parameters.items()}
        return FlowProposal(self.base.detached(), self.flow, self.context.detach(), fixed)

    def widened(self, factor: float) -> "FlowProposal":
        """The flow of a wider base."""
        return FlowProposal(self.base.widened(factor), self.flow, self.context, self.parameters)

    def _map(self, z: Tensor, invert: bool = False) -> tuple[Tensor, Tensor]:
        return cast(tuple[Tensor, Tensor], functional_call(self.flow, self.parameters, (z, self.context, invert)))


class InverseAutoregressiveFlow(Posterior):
    """h = (μ, s, c) → an inverse autoregressive flow with context c over N(μ, diag σ²).

    Args:
        latent_dim: number K of latent dimensions.
        depth: number of autoregressive maps.
        hidden: widths of each map's hidden layers.
        context: width of c; K by default.
        scale: how σ comes from s, ``exp`` or ``softplus``.

    Reference:
        Kingma et al., Improving Variational Inference with Inverse Autoregressive Flow, 2016, eq. 10.
    """

    factorised = False

    def __init__(
        self,
        latent_dim: int,
        depth: PositiveInt = 2,
        hidden: Sequence[PositiveInt] = (256, 256),
        context: PositiveInt | None = None,
        scale: Scale = "softplus",
    ) -> None:
        super().__init__()
        self.base = GaussianPosterior(latent_dim, scale)
        context = context or latent_dim
        self.flow = Flow(latent_dim, context, depth, hidden)
        self.features = self.base.features + context

    def forward(self, h: Tensor) -> FlowProposal:
        """Features ``(B, 2K + C)`` → the proposal."""
        base, context = float32_or_better(h).tensor_split([self.base.features], dim=-1)
        return FlowProposal(self.base(base), self.flow, context, dict(self.flow.named_parameters()))
