"""Gradient estimators: how the gradient of a bound flows into the decoder θ and the encoder φ.

The value is always the bound; only its gradient differs. With log-weights ℓ_n = log p_θ(x, z_n) − log q_φ(z_n|x),
z_n = z(ε_n, φ), and a bound F(ℓ), every estimator here has the form::

    ∇_θ = Σ_n g_n ∂ℓ_n/∂θ,            g_n = ∂F_θ/∂ℓ_n
    ∇_φ = Σ_n c_n dℓ_n/dφ             through z_n, and through the parameters of log q unless they are held fixed

    | estimator            | parameters of log q | c_n                    | ∇_φ is unbiased for                 |
    |----------------------|---------------------|------------------------|-------------------------------------|
    | pathwise             | live                | ∂F_φ/∂ℓ_n              | every bound                         |
    | sticking the landing | held fixed          | ∂F_φ/∂ℓ_n              | the ELBO (one inner sample) alone   |
    | doubly reparam.      | held fixed          | ∂F_φ/∂ℓ_n − ∂²F_φ/∂ℓ_n²| every bound that has ∂²F            |

With a weight β on (log p(z) − log q(z|x)) in ℓ, the second derivative takes it too: c_n = ∂F_φ/∂ℓ_n − β ∂²F_φ/∂ℓ_n².

Sticking-the-landing with more inner samples follows another objective's gradient (Finke & Thiery, On
Importance-Weighted Autoencoders, 2019); the reported value is the bound all the same. θ and φ may climb different
bounds, F_θ and F_φ, of the same samples. All derivatives of F are automatic: a new bound has every estimator.
"""

import dataclasses
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from lvm_lightning.objectives.bounds import Bound, iw_elbo
from lvm_lightning.support.log_space import without_tiny

Estimator = Literal["pathwise", "sticking_the_landing", "doubly_reparameterised"]
DecoderBound = Literal["same", "pooled"]
BLOCK = 2**18
"""Numbers that the second derivatives take at a time: they stay in a processor's cache."""


class Reparameterised(Protocol):
    """A proposal q(z|x) that is a differentiable function of noise."""

    def rsample(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """ε ``(*S, B, K)`` → z ``(*S, B, K)`` and log q(z|x) ``(*S, B)``, both functions of φ."""

    def stopped_log_prob(self, z: Tensor) -> Tensor:
        """log q(z|x) ``(*S, B)`` as a function of z alone: φ is held fixed."""


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


@dataclasses.dataclass(frozen=True)
class Objective:
    """A bound and the estimator of its gradient.

    Attributes:
        outer_samples: J, the number of bounds that are averaged.
        inner_samples: N, the number of samples inside the logarithm.
        bound: F, the bound of N samples.
        estimator: ``pathwise``, ``sticking_the_landing`` or ``doubly_reparameterised``.
        decoder_bound: what the decoder climbs: the ``same`` bound as the encoder, or the bound of all J·N samples
            ``pooled`` in one logarithm (partially importance-weighted, PIWAE). Pooled, it is also the number
            that is reported.

    Raises:
        ValueError: if there is no sample (J·N < 1), if the bound says no kind, needs more samples or gives anything but
            a number an example, or if the estimator is the doubly reparameterised one and F has no second derivative.

    Reference:
        Kingma & Welling 2014 (pathwise); Roeder et al., Sticking the Landing, 2017, eq. 7; Tucker et al. 2018, eq. 8;
        Rainforth et al., Tighter Variational Bounds are Not Necessarily Better, 2018, section 5 (MIWAE, PIWAE).
    """

    outer_samples: int = 1
    inner_samples: int = 1
    bound: Bound = iw_elbo
    estimator: Estimator = "pathwise"
    decoder_bound: DecoderBound = "same"

    def __post_init__(self) -> None:
        for name in ("outer_samples", "inner_samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: must be at least 1, got {getattr(self, name)}; a bound needs a sample")
        if not (hasattr(self.bound, "kind") and hasattr(self.bound, "title")):
            raise ValueError(
                f"bound: must say its kind, got {self.bound!r}; "
                "decorate it with @lower_bound(), @upper_bound() or @estimate()"
            )
        _require_meaning(self.bound, self.inner_samples, self.estimator)

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

    def bound_of(self, log_w: Tensor) -> Tensor:
        """The bound that is reported, ``(J, N, B) → (B,)``, nats: the decoder's."""
        return nested(self.bound, self._decoders(log_w))

    def surrogate(
        self, draw: Draw, log_lik: Tensor, log_prior: Tensor, kl_weight: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """What to raise, its gradient the estimator's and its value the weighted bound; and the bound.

        Args:
            draw: the samples.
            log_lik: log p(x|z) at ``draw.z``, ``(J, N, B)``.
            log_prior: log p(z) at ``draw.z``, ``(J, N, B)``.
            kl_weight: β in log w = log p(x|z) + β (log p(z) − log q(z|x)); only 1 makes the value a bound.

        Returns:
            ``(B,)`` each, nats; the bound without a gradient.
        """
        log_w = log_lik + kl_weight * (log_prior - draw.log_q)
        if self._apart:
            raised = self._in_two_ways(draw, log_lik + kl_weight * log_prior, log_w.detach(), kl_weight)
        else:
            raised = self.bound_of(log_w)
        if kl_weight == 1:
            return raised, raised.detach()
        return raised, self.bound_of((log_lik + (log_prior - draw.log_q)).detach())

    def _in_two_ways(self, draw: Draw, log_p: Tensor, fixed: Tensor, kl_weight: float) -> Tensor:
        """θ and φ take different cotangents of the log-weights ``fixed``: log p, weighted, minus β log q."""
        decoders = cotangents(self.bound, self._decoders(fixed)).view_as(fixed)
        if self.estimator == "doubly_reparameterised":
            encoders = doubly_reparameterised_cotangents(self.bound, fixed, kl_weight)
        else:
            encoders = cotangents(self.bound, fixed)
        (to_z,) = torch.autograd.grad(log_p, draw.z, encoders, retain_graph=True)
        theta = (decoders * log_p).sum((0, 1))
        phi = (to_z * draw.path).sum((0, 1, -1)) - kl_weight * (encoders * draw.log_q).sum((0, 1))
        return _with_gradient_of(theta + phi, value=self.bound_of(fixed))

    def _decoders(self, log_w: Tensor) -> Tensor:
        return log_w.flatten(0, 1).unsqueeze(0) if self.decoder_bound == "pooled" else log_w


def nested(bound: Bound, log_w: Tensor) -> Tensor:
    """Mean over J of the bound of N samples.

        F_{J,N}(x) = 1/J Σ_j F(log w_{j,1}, …, log w_{j,N})

    Its expectation is that of the bound with N samples, whatever J is; J lowers the variance. The mean over J is taken
    outside the logarithm: inside it, the number would be that of J·N samples.

    Args:
        bound: ``(N, *) → (*)``.
        log_w: log importance weights ``(J, N, B)`` in nats.

    Returns:
        The mean ``(B,)`` in nats.

    Raises:
        ValueError: if ``log_w`` is not ``(J, N, B)`` with J, N ≥ 1.

    Reference:
        Rainforth et al., Tighter Variational Bounds are Not Necessarily Better, 2018, eq. 9 (MIWAE).
    """
    if log_w.ndim != 3 or 0 in log_w.shape[:-1]:
        raise ValueError(
            f"log_w: must have shape (J, N, B) with at least one sample, got {tuple(log_w.shape)}; "
            "put the sample axes first and the examples last"
        )
    return bound(log_w.transpose(0, 1)).mean(0)


def cotangents(bound: Bound, log_w: Tensor) -> Tensor:
    """∂F/∂ℓ of the nested bound, ``(J, N, B)``."""
    leaf = log_w.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(nested(bound, leaf).sum(), leaf)
    return gradient


def doubly_reparameterised_cotangents(bound: Bound, log_w: Tensor, kl_weight: float = 1.0) -> Tensor:
    """∂F/∂ℓ_n − β ∂²F/∂ℓ_n² of the nested bound, ``(J, N, B)``.

    With ℓ = log p(x|z) + β (log p(z) − log q(z|x)) and g = ∂F/∂ℓ, pathwise leaves a score term in,
    −β Σ_n g_n ∂log q/∂φ. It is reparameterised once more: its expectation is that of
    −β Σ_n ∂g_n/∂ℓ_n ∂ℓ_n/∂z_n ∂z_n/∂φ. For the importance-weighted bound with β = 1 this leaves the squared normalised
    weights. The difference loses digits where a weight is small, and is taken in float64.

    Reference:
        Tucker et al., Doubly Reparameterized Gradient Estimators for Monte Carlo Objectives, 2018, eq. 8.
    """
    leaf = log_w.detach().double().requires_grad_()
    (gradient,) = torch.autograd.grad(nested(bound, leaf).sum(), leaf, create_graph=True)
    second = _diagonal(gradient, leaf) if gradient.requires_grad else torch.zeros(())  # a linear bound has none
    return without_tiny(gradient.detach() - kl_weight * second, gradient, log_w.dtype).to(log_w.dtype)


def _diagonal(gradient: Tensor, leaf: Tensor) -> Tensor:
    """∂g_n/∂ℓ_n for all n, ``(J, N, B)``: a backward pass for each n, many in one."""
    N = leaf.shape[1]
    columns: list[Tensor] = []
    for rows in torch.eye(N, dtype=leaf.dtype, device=leaf.device).split(max(1, BLOCK // leaf.numel())):
        one_hot = rows.view(-1, 1, N, 1).expand(-1, *leaf.shape)
        (second,) = torch.autograd.grad(gradient, leaf, one_hot, retain_graph=True, is_grads_batched=True)
        columns.append(second.diagonal(sum(c.shape[-1] for c in columns), 0, 2))  # (J, B, rows)
    return torch.cat(columns, -1).transpose(1, 2)


def _require_meaning(bound: Bound, samples: int, estimator: Estimator) -> None:
    """Try the bound on a few numbers, the same whenever it is asked."""
    log_w = torch.linspace(-1, 1, 2 * min(samples, 8), dtype=torch.float64).view(1, -1, 2)
    try:
        value = bound(log_w[0])
    except ValueError as error:
        raise ValueError(f"inner_samples: {str(error).removeprefix('log_w: ')}") from error
    if value.shape != (2,):
        raise ValueError(f"bound: must give one number an example, (N, B) → (B,), got {tuple(value.shape)} of (N, 2)")
    if estimator == "doubly_reparameterised" and not _has_second_derivative(bound, log_w):
        raise ValueError(
            f"estimator: doubly_reparameterised needs a bound with a second derivative, got the {bound.title}; "
            "set it to pathwise"
        )


@torch.enable_grad()
def _has_second_derivative(bound: Bound, log_w: Tensor) -> bool:
    """Whether autograd finds one; that of a maximum is 0 although its gradient jumps."""
    try:
        doubly = doubly_reparameterised_cotangents(bound, log_w)
    except RuntimeError:
        return False
    first = cotangents(bound, log_w)
    return not torch.equal(doubly, first) or torch.equal(first, cotangents(bound, log_w.flip(1)))


def _with_gradient_of(carrier: Tensor, *, value: Tensor) -> Tensor:
    """A tensor with one's value and the other's gradient."""
    return value.detach() + (carrier - carrier.detach())
