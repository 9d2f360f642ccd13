"""The bounds against closed forms: z ~ N(0, 1), x|z ~ N(z, 1), so that p(x) = N(x; 0, 2)."""

import math

import pytest
import torch
from torch import Tensor

from lvm_lightning.objectives.bounds import elbo, iw_elbo, log_sum_exp, nested_iw_elbo
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
    torch.testing.assert_close(nested_iw_elbo(log_w), LOG_P, atol=1e-12, rtol=0)
    torch.testing.assert_close(iw_elbo(log_w[0]), LOG_P, atol=1e-12, rtol=0)
    torch.testing.assert_close(elbo(log_w[0]), LOG_P, atol=1e-12, rtol=0)


def test_iw_elbo_rises_with_n_to_log_p() -> None:
    bounds = torch.stack([nested_iw_elbo(log_weights(4000, n)) for n in (1, 4, 16, 256)])
    assert (bounds.diff(dim=0) > 0).all()
    assert (bounds[:3] < LOG_P).all()  # at N = 256 the gap is as small as the noise
    torch.testing.assert_close(bounds[-1], LOG_P, atol=0.01, rtol=0)


def test_one_inner_sample_is_the_elbo_and_one_outer_the_iw_elbo() -> None:
    log_w = log_weights(64)
    torch.testing.assert_close(nested_iw_elbo(log_w.unsqueeze(1)), elbo(log_w))
    torch.testing.assert_close(nested_iw_elbo(log_w.unsqueeze(0)), iw_elbo(log_w))


def test_nested_axes_are_outer_then_inner() -> None:
    """J = 2 bounds of N = 3 samples, by hand; swapped axes and a mean in probability space both differ."""
    log_w = log_weights(2, 3)
    by_hand = torch.stack([log_w[j].exp().mean(0).log() for j in range(2)]).mean(0)
    torch.testing.assert_close(nested_iw_elbo(log_w), by_hand)
    assert not torch.isclose(nested_iw_elbo(log_w.transpose(0, 1)), by_hand).any()
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
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-300)


def test_weights_of_zero_have_the_logarithm_minus_infinity() -> None:
    log_w = torch.tensor([[-math.inf, -math.inf, 0.0], [-math.inf, 1.0, 0.0]])
    torch.testing.assert_close(log_sum_exp(log_w, 0), torch.tensor([-math.inf, 1.0, math.log(2)]))


@pytest.mark.parametrize(
    ("bound", "shape"),
    [(elbo, (3,)), (elbo, (0, 2)), (iw_elbo, (1, 2, 3)), (iw_elbo, (0, 1)), (nested_iw_elbo, (2, 3))],
)
def test_wrong_axes_are_refused(bound: object, shape: tuple[int, ...]) -> None:
    assert callable(bound)
    with pytest.raises(ValueError, match=r"log_w: must have shape \(.*got \("):
        bound(torch.zeros(shape))


def test_no_sample_inside_the_logarithm_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        nested_iw_elbo(torch.zeros(4, 0, 2))
