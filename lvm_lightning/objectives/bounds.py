"""Bounds on log p(x) as pure functions of log importance weights.

``log_w = log p(x, z) − log q(z|x)`` in nats, samples first. A bound takes ``(N, *)`` and returns ``(*)`` in nats: one
number for each example, never a mean over the batch, never a loss. A new one is a decorated function::

    @lower_bound("between the ELBO and L_N")
    def halfway(log_w: Tensor) -> Tensor:
        return (elbo(log_w) + iw_elbo(log_w)) / 2
"""

import importlib
import inspect
import math
import sys
from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Literal, Protocol, cast

from jsonargparse.typing import register_type
from torch import Tensor

from lvm_lightning.support.argtypes import RULES
from lvm_lightning.support.log_space import log_sum_exp

Kind = Literal["lower bound", "upper bound", "stochastic estimate"]
"""What the expectation of a number is to log p(x): below it, above it, or near it on either side."""


class Bound(Protocol):
    """A function of log importance weights that says what it is."""

    @property
    def kind(self) -> Kind:
        """What its expectation is to log p(x)."""

    @property
    @abstractmethod
    def title(self) -> str:
        """What a table calls it, with its settings."""

    @abstractmethod
    def __call__(self, log_w: Tensor, /) -> Tensor:
        """``(N, *) → (*)``, nats."""


class BoundFamily(Bound):
    """A bound with settings: its instances are bounds. A config may give its classes by their bare names."""


if TYPE_CHECKING:
    BoundArgument = Bound
else:  # what a config may give: a class with its settings, or the name of a function, which is looked at and not called

    class _Function:
        """A function that says its kind."""

        @staticmethod
        def named(path: str) -> Bound:
            module, _, name = path.rpartition(".")
            found = getattr(importlib.import_module(module or __name__), name)
            if not (inspect.isfunction(found) and hasattr(found, "kind")):
                raise ValueError(f"{path} does not say its kind")
            return cast(Bound, found)

        @staticmethod
        def path(function: Bound) -> str:
            room = function.__module__.rpartition(".")[0]  # from which its module's public names can be had too
            offered = getattr(sys.modules.get(room), function.__name__, None) is function
            return f"{room if offered else function.__module__}.{function.__name__}"

    register_type(
        _Function,
        serializer=_Function.path,
        deserializer=_Function.named,
        deserializer_exceptions=(ValueError, TypeError, AttributeError, ImportError),
        type_check=lambda value, _: inspect.isfunction(value),
    )
    RULES[_Function] = "the import path of a function under @lower_bound(), @upper_bound() or @estimate()"
    BoundArgument = BoundFamily | _Function

Reduction = Callable[[Tensor], Tensor]


def _labelled(kind: Kind, title: str = "") -> Callable[[Reduction], Bound]:
    def label(function: Reduction) -> Bound:
        vars(function).update(kind=kind, title=title or function.__name__.replace("_", " "))
        return cast(Bound, function)

    return label


lower_bound = partial(_labelled, "lower bound")
"""Decorator: the function's expectation is at most log p(x). Without a title it is called by its name."""
upper_bound = partial(_labelled, "upper bound")
"""Decorator: the function's limit for many samples is at least log p(x)."""
estimate = partial(_labelled, "stochastic estimate")
"""Decorator: the function is near log p(x), and bounds nothing."""


def require_samples(log_w: Tensor, least: int = 1, what: str = "a bound") -> None:
    """Refuse log weights with too few samples, or without an axis of examples.

    Raises:
        ValueError: unless they are ``(N, *)`` with N at least ``least``.
    """
    if log_w.ndim < 2 or len(log_w) == 0:
        raise ValueError(
            f"log_w: must have shape (N, *) with at least one sample, got {tuple(log_w.shape)}; "
            "put the samples first and the examples last"
        )
    if len(log_w) < least:
        raise ValueError(f"log_w: must have at least {least} samples for {what}, got {len(log_w)}; take more samples")


@lower_bound("ELBO")
def elbo(log_w: Tensor) -> Tensor:
    """Evidence lower bound, averaged over N samples.

        ELBO(x) = E_q[log w] ≈ 1/N Σ_n log w_n  ≤  log p(x)

    Args:
        log_w: log importance weights ``(N, *)`` in nats.

    Returns:
        The bound ``(*)`` in nats. N lowers its variance and leaves its expectation alone.

    Raises:
        ValueError: if ``log_w`` is not ``(N, *)`` with N ≥ 1.

    Reference:
        Kingma & Welling, Auto-Encoding Variational Bayes, 2014, eq. 2.
    """
    require_samples(log_w)
    return log_w.mean(0)


@lower_bound("bound")
def iw_elbo(log_w: Tensor) -> Tensor:
    """Importance-weighted bound with N samples.

        L_N(x) = E log 1/N Σ_n w_n ≈ logsumexp_n log w_n − log N  ≤  log p(x)

    Its expectation rises with N and tends to log p(x). N = 1 is the ELBO.

    Args:
        log_w: log importance weights ``(N, *)`` in nats.

    Returns:
        The bound ``(*)`` in nats.

    Raises:
        ValueError: if ``log_w`` is not ``(N, *)`` with N ≥ 1.

    Reference:
        Burda et al., Importance Weighted Autoencoders, 2016, eq. 8.
    """
    require_samples(log_w)
    return log_sum_exp(log_w, 0) - math.log(len(log_w))
