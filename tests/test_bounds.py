"""The bounds against closed forms: z ~ N(0, 1), x|z ~ N(z, 1), so that p(x) = N(x; 0, 2)."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from lvm_lightning.objectives import (
    CUBO,
    Bound,
    Jackknife,
    Renyi,
    elbo,
    estimate,
    iw_elbo,
    log_sum_exp,
    lower_bound,
    nested,
    upper_bound,
)
from tests.conftest import assert_within

X = torch.tensor([-1.0, 0.3, 2.0], dtype=torch.float64)
LOG_P = -0.5 * (math.log(4 * math.pi) + X**2 / 2)
JENSEN = -0.5 * (math.log(2 * math.pi) + X**2 + 1)


def log_weights(*samples: int) -> Tensor:
    """log p(x|z) with z from the prior, ``(*samples, 3)``."""
    z = torch.randn(*samples, 1, dtype=torch.float64)
    return -0.5 * (math.log(2 * math.pi) + (X - z) ** 2)


def test_elbo_is_the_mean_log_weight() -> None:
    assert_within(elbo(log_weights(400, 200).permute(1, 0, 2).reshape(200, -1)).view(400, 3), JENSEN)


def test_iw_elbo_is_the_log_of_the_mean_weight() -> None:
    log_w = log_weights(7)
    torch.testing.assert_close(iw_elbo(log_w), log_w.exp().mean(0).log())


def test_constant_weights_give_log_p_exactly() -> None:
    log_w = LOG_P.expand(4, 8, 3)
    torch.testing.assert_close(nested(iw_elbo, log_w), LOG_P, atol=1e-12, rtol=0)
    torch.testing.assert_close(iw_elbo(log_w[0]), LOG_P, atol=1e-12, rtol=0)
    torch.testing.assert_close(elbo(log_w[0]), LOG_P, atol=1e-12, rtol=0)


def test_iw_elbo_rises_with_n_to_log_p() -> None:
    bounds = torch.stack([nested(iw_elbo, log_weights(4000, n)) for n in (1, 4, 16, 256)])
    assert (bounds.diff(dim=0) > 0).all()
    assert (bounds[:3] < LOG_P).all()  # at N = 256 the gap is as small as the noise
    torch.testing.assert_close(bounds[-1], LOG_P, atol=0.01, rtol=0)


def test_one_inner_sample_is_the_elbo_and_one_outer_the_iw_elbo() -> None:
    log_w = log_weights(64)
    torch.testing.assert_close(nested(iw_elbo, log_w.unsqueeze(1)), elbo(log_w))
    torch.testing.assert_close(nested(iw_elbo, log_w.unsqueeze(0)), iw_elbo(log_w))


def test_nested_axes_are_outer_then_inner() -> None:
    """J = 2 bounds of N = 3 samples, by hand; swapped axes and a mean in probability space both differ."""
    log_w = log_weights(2, 3)
    by_hand = torch.stack([log_w[j].exp().mean(0).log() for j in range(2)]).mean(0)
    torch.testing.assert_close(nested(iw_elbo, log_w), by_hand)
    assert not torch.isclose(nested(iw_elbo, log_w.transpose(0, 1)), by_hand).any()
    assert (iw_elbo(log_w.flatten(0, 1)) > by_hand).all()


def test_softmax_weighted_log_weights_are_not_the_bound() -> None:
    """The surrogate of well-known implementations lies above the bound, here above log p(x) itself."""
    log_w = log_weights(20_000)
    surrogate = (log_w.softmax(0) * log_w).sum(0)
    assert (surrogate > LOG_P).all()
    assert (iw_elbo(log_w) < surrogate).all()


def test_log_weights_far_below_the_smallest_float_stay_finite() -> None:
    log_w = torch.tensor([[-2.0e4], [-2.0e4 + math.log(3)]])
    torch.testing.assert_close(iw_elbo(log_w), torch.tensor([-2.0e4 + math.log(2)]))


def test_log_sum_exp_is_torchs_with_its_gradient() -> None:
    log_w = 300 * torch.randn(3, 7, 4, dtype=torch.float64)
    torch.testing.assert_close(log_sum_exp(log_w, 1), log_w.logsumexp(1), rtol=1e-14, atol=1e-13)
    for scale in (1.0, 300.0):
        leaf = (scale * torch.randn(3, 7, 4, dtype=torch.float64)).requires_grad_()
        (found,) = torch.autograd.grad(log_sum_exp(leaf, 1).square().sum(), leaf)
        (expected,) = torch.autograd.grad(leaf.logsumexp(1).square().sum(), leaf)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-28)  # weights below 5e-32 are cut


def test_weights_of_zero_have_the_logarithm_minus_infinity() -> None:
    log_w = torch.tensor([[-math.inf, -math.inf, 0.0], [-math.inf, 1.0, 0.0]])
    torch.testing.assert_close(log_sum_exp(log_w, 0), torch.tensor([-math.inf, 1.0, math.log(2)]))


@pytest.mark.parametrize(
    ("bound", "shape"),
    [
        *[(elbo, (3,)), (elbo, (0, 2)), (iw_elbo, (3,)), (iw_elbo, (0, 1)), (partial(nested, iw_elbo), (2, 3))],
        *[(family, shape) for family in (Renyi(0.5), CUBO(), Jackknife()) for shape in ((0, 2), (2,))],
    ],
)
def test_wrong_axes_are_refused(bound: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"log_w: must have shape \(.*got \("):
        bound(torch.zeros(shape))


def test_no_sample_inside_the_logarithm_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        nested(iw_elbo, torch.zeros(4, 0, 2))


@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_log_sum_exp_has_a_second_derivative(scale: float) -> None:
    log_w = (scale * torch.randn(3, 5, 2, dtype=torch.float64)).requires_grad_()
    of_axis = partial(log_sum_exp, dim=1)
    assert torch.autograd.gradcheck(of_axis, log_w)
    assert torch.autograd.gradgradcheck(of_axis, log_w)


def test_a_bound_reduces_the_first_axis_alone() -> None:
    log_w = log_weights(6, 4)
    bounds: list[Bound] = [elbo, iw_elbo, Renyi(0.5), CUBO(), Jackknife(1), Jackknife(2)]
    for bound in bounds:
        expected = torch.stack([bound(row) for row in log_w.unbind(1)])
        torch.testing.assert_close(bound(log_w), expected)
        torch.testing.assert_close(nested(bound, log_w.transpose(0, 1)), expected.mean(0))


def test_a_bound_says_what_it_is() -> None:
    @upper_bound()
    def the_largest_weight(log_w: Tensor) -> Tensor:
        return log_w.amax(0)

    @estimate("median")
    def of_users(log_w: Tensor) -> Tensor:
        return log_w.median(0).values

    labels = [(bound.kind, bound.title) for bound in (elbo, iw_elbo, the_largest_weight, of_users)]
    assert labels[:2] == [("lower bound", "ELBO"), ("lower bound", "bound")]
    assert labels[2:] == [("upper bound", "the largest weight"), ("stochastic estimate", "median")]
    assert (Renyi(0.5).kind, Renyi(0.5).title) == ("lower bound", "Rényi bound α=0.5")
    assert (CUBO().kind, CUBO().title) == ("upper bound", "CUBO upper bound of order 2")
    assert (Jackknife(2).kind, Jackknife(2).title) == ("stochastic estimate", "jackknife estimate of order 2")
    assert lower_bound("mine")(lambda log_w: log_w[0]).title == "mine"


@pytest.mark.parametrize("alpha", [1.0, -0.1, 1.5, float("nan")])
def test_orders_that_divide_by_zero_or_bound_nothing_are_refused(alpha: float) -> None:
    with pytest.raises(ValueError, match=r"alpha: must be in \[0, 1\), got .*; the limit α → 1 is the ELBO"):
        Renyi(alpha)


@pytest.mark.parametrize("order", [1.0, 0.5, math.inf, math.nan])
def test_orders_of_cubo_that_are_no_upper_bound_are_refused(order: float) -> None:
    with pytest.raises(ValueError, match=r"^order: must be above 1, got"):
        CUBO(order)


@pytest.mark.parametrize("order", [0, 3])
def test_other_orders_of_the_jackknife_are_refused(order: int) -> None:
    with pytest.raises(ValueError, match=f"^order: must be 1 or 2, got {order}"):
        Jackknife(order)


def test_too_few_samples_are_refused() -> None:
    for bound, least in [(CUBO(), 2), (Jackknife(1), 2), (Jackknife(2), 3)]:
        assert bound(torch.zeros(least, 1)).abs() < 1e-6
        with pytest.raises(
            ValueError, match=f"^log_w: must have at least {least} samples for .*, got {least - 1}; take"
        ):
            bound(torch.zeros(least - 1, 1))
