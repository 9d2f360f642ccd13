"""Every bound on a model whose log p(x), posterior and divergences are closed forms."""

import itertools

import pytest
import torch

from lvm_lightning.objectives.bounds import elbo, iw_elbo, nested_iw_elbo, nested_renyi, renyi
from tests.conftest import assert_within
from tests.linear_gaussian import kl, log_p, log_weights, posterior, renyi_divergence, slope, wrong


def test_the_exact_posterior_makes_the_log_weights_constant() -> None:
    log_w = log_weights(*posterior(), 3, 5, 100)
    assert (log_w - log_p()).abs().max() < 1e-9
    for bound in (nested_iw_elbo(log_w), nested_renyi(log_w, 0.5), elbo(log_w[0]), iw_elbo(log_w[0])):
        assert (bound - log_p()).abs().max() < 1e-9


def test_the_elbo_lies_below_log_p_by_the_kl_divergence() -> None:
    assert_within(elbo(log_weights(*wrong(), 1, 20, 20_000)[0]), log_p() - kl(*wrong()))


@pytest.mark.parametrize("alpha", [0.2, 0.5, 0.8])
def test_the_renyi_bound_of_many_samples_lies_below_log_p_by_the_renyi_divergence(alpha: float) -> None:
    values = nested_renyi(log_weights(*wrong(), 1, 10_000, 300), alpha)
    expected = log_p() - renyi_divergence(*wrong(), alpha)
    assert abs(float(values.mean() - expected)) < 3 * float(values.std()) / 300**0.5 + 1e-4  # + O(1/N)
    assert float(renyi_divergence(*wrong(), alpha)) > 0.02


def test_more_samples_tighten_the_bound() -> None:
    log_w = log_weights(*wrong(), 64, 1, 20_000)
    one, eight, all64 = (nested_iw_elbo(log_w.view(64 // n, n, -1)) for n in (1, 8, 64))
    assert_within(one, log_p() - kl(*wrong()))
    for lower, higher in [(one, eight), (eight, all64)]:
        difference = higher - lower
        assert float(difference.mean()) > 5 * float(difference.std()) / len(difference) ** 0.5
    assert float(all64.mean()) < float(log_p()) + 3 * float(all64.std()) / len(all64) ** 0.5


def test_the_renyi_bound_falls_with_alpha_from_iw_elbo_to_elbo() -> None:
    log_w = log_weights(*wrong(), 1, 16, 20_000)
    bounds = [nested_renyi(log_w, alpha) for alpha in (0.0, 0.25, 0.5, 0.75, 0.999)]
    for higher, lower in itertools.pairwise(bounds):
        assert (higher >= lower - 1e-12).all()  # on each draw, by the inequality of power means
        assert float((higher - lower).mean()) > 1e-3
    torch.testing.assert_close(bounds[0], nested_iw_elbo(log_w), atol=1e-12, rtol=0)
    near_one = nested_renyi(log_w, 1 - 1e-7)
    torch.testing.assert_close(near_one, elbo(log_w[0]), atol=1e-5, rtol=0)
    torch.testing.assert_close(renyi(log_w[0], 0.5), bounds[2], atol=1e-12, rtol=0)


def test_the_gap_of_the_importance_weighted_bound_falls_as_one_over_n() -> None:
    sizes = [8, 16, 32, 64, 128]
    log_w = log_weights(*wrong(), 128, 1, 40_000)
    gaps = [float(log_p() - nested_iw_elbo(log_w.view(128 // n, n, -1)).mean()) for n in sizes]
    assert abs(slope(sizes, torch.tensor(gaps)) + 1) < 0.1


@pytest.mark.parametrize("alpha", [1.0, -0.1, 1.5, float("nan")])
def test_orders_that_divide_by_zero_or_bound_nothing_are_refused(alpha: float) -> None:
    with pytest.raises(ValueError, match=r"alpha: must be in \[0, 1\), got .*; the limit α → 1 is the ELBO"):
        nested_renyi(torch.zeros(1, 2, 3), alpha)
    with pytest.raises(ValueError, match=r"alpha: must be in"):
        renyi(torch.zeros(2, 3), alpha)


@pytest.mark.parametrize("shape", [(0, 2), (2,), (1, 2, 3)])
def test_wrong_axes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"log_w: must have shape \(N, B\).*got \("):
        renyi(torch.zeros(shape), 0.5)
