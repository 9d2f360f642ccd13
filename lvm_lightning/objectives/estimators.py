"""Gradient estimators: how the gradient of a bound flows into the decoder θ and the encoder φ.

The value is always the bound; only its gradient differs. With log-weights ℓ_n = log p_θ(x, z_n) − log q_φ(z_n|x),
z_n = z(ε_n, φ), and a bound F(ℓ), every estimator here has the form

    ∇_θ = Σ_n g_n ∂ℓ_n/∂θ,            g_n = ∂F_θ/∂ℓ_n
    ∇_φ = Σ_n c_n dℓ_n/dφ             through z_n, and through the parameters of log q unless they are held fixed

| estimator            | parameters of log q | c_n                    | ∇_φ is unbiased for                 |
|----------------------|---------------------|------------------------|-------------------------------------|
| pathwise             | live                | ∂F_φ/∂ℓ_n              | every bound                         |
| sticking the landing | held fixed          | ∂F_φ/∂ℓ_n              | the ELBO (one inner sample) alone   |
| doubly reparam.      | held fixed          | ∂F_φ/∂ℓ_n − ∂²F_φ/∂ℓ_n²| every bound                         |

Sticking-the-landing with more inner samples follows another objective's gradient (Finke & Thiery, On
Importance-Weighted Autoencoders, 2019); the reported value is the bound all the same. θ and φ may climb different
bounds, F_θ and F_φ, of the same samples.
"""

import dataclasses
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from lvm_lightning.objectives.bounds import nested_renyi, require_order

Estimator = Literal["pathwise", "sticking_the_landing", "doubly_reparameterised"]
DecoderBound = Literal["same", "pooled"]


class Reparameterised(Protocol):
    """A proposal q(z|x) that is a differentiable function of noise."""

    def rsample(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """ε ``(*S, B, K)`` → z ``(*S, B, K)`` and log q(z|x) ``(*S, B)``, both functions of φ."""
        ...

    def stopped_log_prob(self, z: Tensor) -> Tensor:
        """log q(z|x) ``(*S, B)`` as a function of z alone: φ is held fixed."""
        ...


class Draw(NamedTuple):
    """Samples of a proposal, and how gradients reach them.

    Attributes:
        z: what the decoder and the prior are evaluated at, ``(J, N, B, K)``.
        path: the same numbers as a function of φ.
        log_q: log q(z|x), ``(J, N, B)``, nats.
    """

    z: Tensor
    path: Tensor
    log_q: Tensor


def cotangents(log_w: Tensor, alpha: float) -> Tensor:
    """∂F/∂ℓ for the nested Rényi bound: w^{1−α} normalised over the inner samples, over J; ``(J, N, B)``."""
    return ((1 - alpha) * log_w).softmax(1) / log_w.shape[0]


def doubly_reparameterised_cotangents(log_w: Tensor, alpha: float) -> Tensor:
    """∂F/∂ℓ_n − ∂²F/∂ℓ_n² for the nested Rényi bound: v (α + (1−α) v) / J, ``(J, N, B)``, with v as above.

    The score term that pathwise leaves in, −Σ_n g_n ∂log q/∂φ, is reparameterised once more: its expectation
    is that of −Σ_n ∂g_n/∂ℓ_n ∂ℓ_n/∂z_n ∂z_n/∂φ. For α = 0 this leaves the squared normalised weights.

    Reference:
        Tucker et al., Doubly Reparameterized Gradient Estimators for Monte Carlo Objectives, 2018, eq. 8.
    """
    v = ((1 - alpha) * log_w).softmax(1)
    return v * (alpha + (1 - alpha) * v) / log_w.shape[0]


@dataclasses.dataclass(frozen=True)
class Objective:
    """A bound and the estimator of its gradient.

    Attributes:
        outer_samples: J, the number of bounds that are averaged.
        inner_samples: N, the number of samples inside the logarithm.
        alpha: order of the Rényi bound; 0 is the importance-weighted bound.
        estimator: ``pathwise``, ``sticking_the_landing`` or ``doubly_reparameterised``.
        decoder_bound: what the decoder climbs: the ``same`` bound as the encoder, or the bound of all J·N samples
            ``pooled`` in one logarithm (partially importance-weighted, PIWAE). Pooled, it is also the number
            that is reported.

    Raises:
        ValueError: if there is no sample (J·N < 1), or α is outside [0, 1).

    Reference:
        Kingma & Welling 2014 (pathwise); Roeder et al., Sticking the Landing, 2017, eq. 7; Tucker et al. 2018, eq. 8;
        Rainforth et al., Tighter Variational Bounds are Not Necessarily Better, 2018, section 5 (MIWAE, PIWAE).
    """

    outer_samples: int = 1
    inner_samples: int = 1
    alpha: float = 0.0
    estimator: Estimator = "pathwise"
    decoder_bound: DecoderBound = "same"

    def __post_init__(self) -> None:
        for name in ("outer_samples", "inner_samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"model.{name}: must be at least 1, got {getattr(self, name)}; a bound needs a sample")
        require_order(self.alpha, "model.alpha")

    @property
    def _apart(self) -> bool:
        """Whether θ and φ take different cotangents, so that one backward pass cannot serve both."""
        return self.estimator == "doubly_reparameterised" or self.decoder_bound == "pooled"

    def draw(self, q: Reparameterised, noise: Tensor) -> Draw:
        """Samples of q from standard-normal noise ``(J, N, B, K)``."""
        path, log_q = q.rsample(noise)
        if self.estimator != "pathwise":
            log_q = _with_gradient_of(q.stopped_log_prob(path), value=log_q)
        z = path.detach().requires_grad_() if self._apart and torch.is_grad_enabled() else path
        return Draw(z, path, log_q)

    def bound(self, log_w: Tensor) -> Tensor:
        """The bound that is reported, ``(J, N, B) → (B,)``, nats: the decoder's."""
        return nested_renyi(self._decoders(log_w), self.alpha)

    def surrogate(self, draw: Draw, log_lik: Tensor, log_prior: Tensor, kl_weight: float = 1.0) -> Tensor:
        """What to raise: its value is the bound, its gradient the estimator's.

        Args:
            draw: the samples.
            log_lik: log p(x|z) at ``draw.z``, ``(J, N, B)``.
            log_prior: log p(z) at ``draw.z``, ``(J, N, B)``.
            kl_weight: β in log w = log p(x|z) + β (log p(z) − log q(z|x)); only 1 makes the value a bound.

        Returns:
            ``(B,)``, nats.
        """
        log_w = log_lik + kl_weight * (log_prior - draw.log_q)
        if not self._apart:
            return self.bound(log_w)
        fixed = log_w.detach()
        decoders = cotangents(self._decoders(fixed), self.alpha).view_as(fixed)
        doubly = self.estimator == "doubly_reparameterised"
        encoders = (doubly_reparameterised_cotangents if doubly else cotangents)(fixed, self.alpha)
        log_p = log_lik + kl_weight * log_prior
        (to_z,) = torch.autograd.grad(log_p, draw.z, encoders, retain_graph=True)
        theta = (decoders * log_p).sum((0, 1))
        phi = (to_z * draw.path).sum((0, 1, -1)) - kl_weight * (encoders * draw.log_q).sum((0, 1))
        return _with_gradient_of(theta + phi, value=self.bound(fixed))

    def _decoders(self, log_w: Tensor) -> Tensor:
        return log_w.flatten(0, 1).unsqueeze(0) if self.decoder_bound == "pooled" else log_w


def _with_gradient_of(carrier: Tensor, *, value: Tensor) -> Tensor:
    """A tensor with one's value and the other's gradient."""
    return value.detach() + (carrier - carrier.detach())
