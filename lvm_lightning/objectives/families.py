"""Bounds with settings: Rényi, CUBO and the jackknife. An instance is called as any bound: ``(N, *) → (*)``, nats."""

import dataclasses
import math
from typing import ClassVar

import torch
from torch import Tensor

from lvm_lightning.objectives.bounds import BoundFamily, Kind, iw_elbo, require_samples
from lvm_lightning.support.log_space import log_sum_exp, normalised_weights, without_tiny


@dataclasses.dataclass(frozen=True)
class Renyi(BoundFamily):
    """Variational Rényi bound of order α with N samples.

        L_{α,N}(x) = E 1/(1−α) log 1/N Σ_n w_n^{1−α}  ≤  log p(x),   0 ≤ α < 1

    α = 0 is the importance-weighted bound, α → 1 the ELBO, and in between the expectation falls with α: one
    N gives a ladder of bounds. As N grows it rises to log p(x) − D_α(q ‖ p(z|x)), and only for α = 0 to log p(x).
    N = 1 is the ELBO, whatever α is.

    Attributes:
        alpha: order α.

    Raises:
        ValueError: if α is outside [0, 1).

    Reference:
        Li & Turner, Rényi Divergence Variational Inference, 2016, eq. 10; theorem 2 for its place below log p(x).
    """

    kind: ClassVar[Kind] = "lower bound"
    alpha: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.alpha < 1:
            raise ValueError(
                f"alpha: must be in [0, 1), got {self.alpha:g}; the limit α → 1 is the ELBO, which is one inner sample "
                "with any α"
            )

    @property
    def title(self) -> str:
        """With the order."""
        return f"Rényi bound α={self.alpha:g}"

    def __call__(self, log_w: Tensor, /) -> Tensor:
        """``(N, *) → (*)``, nats."""
        power = 1 - self.alpha
        return iw_elbo(power * log_w) / power


@dataclasses.dataclass(frozen=True)
class CUBO(BoundFamily):
    """χ upper bound of order n, from N samples.

        CUBO_n(x) = 1/n log E_q[w^n] ≈ 1/n log 1/N Σ_k w_k^n,   n > 1
        CUBO_n(x) = log p(x) + (n−1)/n D_n(p(z|x) ‖ q)  ≥  log p(x)

    It is an upper bound in the limit of many samples alone. The mean over N samples is inside the logarithm, so that
    the expectation of the estimate lies below its limit, by Jensen's inequality, and for few samples or a poor q below
    log p(x) too: N = 1 would be the ELBO. It rises with N. Where the tails of q are too light, the limit is infinite
    and no estimate shows it.

    Attributes:
        order: n.

    Raises:
        ValueError: if n is not above 1, or when called with one sample.

    Reference:
        Dieng et al., Variational Inference via χ Upper Bound Minimization, 2017, section 2.
    """

    kind: ClassVar[Kind] = "upper bound"
    order: float = 2.0

    def __post_init__(self) -> None:
        if not 1 < self.order < math.inf:
            raise ValueError(f"order: must be above 1, got {self.order:g}; at 1 nothing is above log p(x)")

    @property
    def title(self) -> str:
        """With the order."""
        return f"CUBO upper bound of order {self.order:g}"

    def __call__(self, log_w: Tensor, /) -> Tensor:
        """``(N, *) → (*)``, nats."""
        require_samples(log_w, 2, "CUBO (one sample gives the ELBO, a lower bound)")
        return iw_elbo(self.order * log_w) / self.order


@dataclasses.dataclass(frozen=True)
class Jackknife(BoundFamily):
    """Jackknife estimate of log p(x): importance-weighted bounds of fewer samples cancel the leading bias.

        order 1:  N L_N − (N−1) L̄_{N−1},                                   bias O(N⁻²)
        order 2:  N²/2 L_N − (N−1)² L̄_{N−1} + (N−2)²/2 L̄_{N−2},             bias O(N⁻³)

    L̄_{N−m} is the mean of the bound over all ways to leave m of the N samples out. It bounds nothing: its expectation
    can lie on either side of log p(x). Its variance is larger than that of L_N, and far larger where one weight carries
    everything. Order 2 takes N² numbers an example. It is computed in float64.

    Attributes:
        order: 1 or 2.

    Raises:
        ValueError: if the order is another, or when called with no more samples than the order.

    Reference:
        Nowozin, Debiasing Evidence Approximations: On Importance-weighted Autoencoders and Jackknife Variational
        Inference, 2018, section 4.
    """

    kind: ClassVar[Kind] = "stochastic estimate"
    order: int = 1

    def __post_init__(self) -> None:
        if self.order not in (1, 2):
            raise ValueError(
                f"order: must be 1 or 2, got {self.order}; higher orders add more variance than they take bias"
            )

    @property
    def title(self) -> str:
        """With the order."""
        return f"jackknife estimate of order {self.order}"

    def __call__(self, log_w: Tensor, /) -> Tensor:
        """``(N, *) → (*)``, nats."""
        require_samples(log_w, self.order + 1, f"a jackknife of order {self.order}")
        exact = log_w.double()
        if exact.requires_grad and exact is not log_w:
            exact.register_hook(lambda cotangent: without_tiny(cotangent, cotangent, log_w.dtype))
        return self._of(exact).to(log_w.dtype)

    def _of(self, log_w: Tensor) -> Tensor:
        """L_N and its differences from the bounds of fewer samples: the weights of the bounds add up to 1."""
        N, total = len(log_w), log_sum_exp(log_w, 0)
        one = _without_each(log_w)
        first = one.mean(0) - total - math.log1p(-1 / N)  # L̄_{N−1} − L_N
        if self.order == 1:
            return total - math.log(N) - (N - 1) * first
        diagonal = torch.eye(N, dtype=torch.bool, device=log_w.device).view(N, N, *[1] * (log_w.ndim - 1))
        two = _without_each(log_w.unsqueeze(1).masked_fill(diagonal, -math.inf))  # (N, N, *)
        second = two.masked_fill(diagonal, 0).sum((0, 1)) / (N * (N - 1)) - total - math.log1p(-2 / N)
        return total - math.log(N) - (N - 1) ** 2 * first + (N - 2) ** 2 / 2 * second


def _without_each(log_w: Tensor) -> Tensor:
    """log Σ_{k≠n} w_k for each n, ``(N, *) → (N, *)``.

    With the normalised weight v_n it is log Σ_k w_k + log(1 − v_n). At most the largest weight can be near 1, where
    that difference would lose its digits; the sum without it is taken anew.
    """
    largest = torch.zeros_like(log_w, dtype=torch.bool).scatter(0, log_w.argmax(0, keepdim=True), True)
    rest = log_sum_exp(log_w.masked_fill(largest, -math.inf), 0)
    others = normalised_weights(log_w, 0).masked_fill(largest, 0)
    return torch.where(largest, rest, log_sum_exp(log_w, 0) + torch.log1p(-others))
