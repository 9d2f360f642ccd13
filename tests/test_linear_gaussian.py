"""Every bound on a model whose log p(x), posterior and divergences are closed forms."""

import itertools
import math

import pytest
import torch

from lvm_lightning.objectives import CUBO, Jackknife, Renyi, elbo, iw_elbo, nested
from tests.conftest import assert_within
from tests.linear_gaussian import kl, log_p, log_weights, posterior, renyi_divergence, slope, wrong


def test_the_exact_posterior_makes_the_log_weights_constant() -> None:
    log_w = log_weights(*posterior(), 3, 5, 100)
    assert (log_w - log_p()).abs().max() < 1e-9
    for bound in (nested(iw_elbo, log_w), nested(Renyi(0.5), log_w), elbo(log_w[0]), iw_elbo(log_w[0])):
        assert (bound - log_p()).abs().max() < 1e-9


def test_the_elbo_lies_below_log_p_by_the_kl_divergence() -> None:
    assert_within(elbo(log_weights(*wrong(), 1, 20, 20_000)[0]), log_p() - kl(*wrong()))


@pytest.mark.parametrize("alpha", [0.2, 0.5, 0.8])
def test_the_renyi_bound_of_many_samples_lies_below_log_p_by_the_renyi_divergence(alpha: float) -> None:
    values = nested(Renyi(alpha), log_weights(*wrong(), 1, 10_000, 300))
    expected = log_p() - renyi_divergence(*wrong(), alpha)
    assert abs(float(values.mean() - expected)) < 3 * float(values.std()) / 300**0.5 + 1e-4  # + O(1/N)
    assert float(renyi_divergence(*wrong(), alpha)) > 0.02


def test_more_samples_tighten_the_bound() -> None:
    log_w = log_weights(*wrong(), 64, 1, 20_000)
    one, eight, all64 = (nested(iw_elbo, log_w.view(64 // n, n, -1)) for n in (1, 8, 64))
    assert_within(one, log_p() - kl(*wrong()))
    for lower, higher in [(one, eight), (eight, all64)]:
        difference = higher - lower
        assert float(difference.mean()) > 5 * float(difference.std()) / len(difference) ** 0.5
    assert float(all64.mean()) < float(log_p()) + 3 * float(all64.std()) / len(all64) ** 0.5


def test_the_renyi_bound_falls_with_alpha_from_iw_elbo_to_elbo() -> None:
    log_w = log_weights(*wrong(), 1, 16, 20_000)
    bounds = [nested(Renyi(alpha), log_w) for alpha in (0.0, 0.25, 0.5, 0.75, 0.999)]
    for higher, lower in itertools.pairwise(bounds):
        assert (higher >= lower - 1e-12).all()  # on each draw, by the inequality of power means
        assert float((higher - lower).mean()) > 1e-3
    torch.testing.assert_close(bounds[0], nested(iw_elbo, log_w), atol=1e-12, rtol=0)
    near_one = nested(Renyi(1 - 1e-7), log_w)
    torch.testing.assert_close(near_one, elbo(log_w[0]), atol=1e-5, rtol=0)
    torch.testing.assert_close(Renyi(0.5)(log_w[0]), bounds[2], atol=1e-12, rtol=0)


def test_the_gap_of_the_importance_weighted_bound_falls_as_one_over_n() -> None:
    sizes = [8, 16, 32, 64, 128]
    log_w = log_weights(*wrong(), 128, 1, 40_000)
    gaps = [float(log_p() - nested(iw_elbo, log_w.view(128 // n, n, -1)).mean()) for n in sizes]
    assert abs(slope(sizes, torch.tensor(gaps)) + 1) < 0.1


def test_the_jackknife_is_its_equation() -> None:
    """Every subset of the samples by hand, also where one weight carries everything."""
    log_w = torch.cat([log_weights(*wrong(), 1, 7, 20)[0], torch.full((7, 1), -1000.0, dtype=torch.float64)], 1)
    log_w[3, -1] = 0.0
    means = {}
    for n in (5, 6, 7):
        means[n] = torch.stack([iw_elbo(log_w[list(c)]) for c in itertools.combinations(range(7), n)]).mean(0)
    torch.testing.assert_close(Jackknife(1)(log_w), 7 * means[7] - 6 * means[6], rtol=1e-11, atol=1e-11)
    expected = 24.5 * means[7] - 36 * means[6] + 12.5 * means[5]
    torch.testing.assert_close(Jackknife(2)(log_w), expected, rtol=1e-11, atol=1e-11)
    single = log_w[:, :-1].float() - 500  # far from 0, in float32
    torch.testing.assert_close(Jackknife(2)(single), expected[:-1].float() - 500, rtol=0, atol=1e-3)


def expected_gap(n: int, grid: float = 0.1) -> float:
    """E L_N − log p(x) for the wrong proposal, by quadrature.

    E log Σ r_n = ∫ (e^{−t} − M(t)^N) dt/t with M(t) = E e^{−t r} and r = w/p(x); trapezoids in log t and in z.
    """
    (m, s), (mean, log_sigma) = posterior(), wrong()
    noise = torch.arange(-9, 9 + grid / 2, grid, dtype=torch.float64)
    z = mean + log_sigma.exp() * noise.unsqueeze(-1)
    log_ratio = log_sigma - s - 0.5 * ((z - m) / s.exp()) ** 2 + 0.5 * noise.unsqueeze(-1) ** 2  # (points, K)
    ratio = (log_ratio[:, :1] + log_ratio[:, 1]).exp().flatten()
    density = torch.exp(-0.5 * noise**2)
    weight = (density.unsqueeze(-1) * density).flatten() / density.sum() ** 2
    log_t = torch.arange(-36, 8, 0.1, dtype=torch.float64)
    transform = torch.stack([(weight * torch.expm1(-ratio * t)).sum() for t in log_t.exp()])
    integrand = torch.exp(-log_t.exp()) - (n * torch.log1p(transform)).exp()
    return float(0.1 * integrand.sum()) - math.log(n)


def test_the_jackknifes_bias_falls_with_its_order() -> None:
    """Nowozin 2018, section 4: as N⁻² and N⁻³. Its expectation is the same sum of expectations of L_N."""
    sizes = [64, 128, 256]
    gap = {n - left: expected_gap(n - left) for n in sizes for left in (0, 1, 2)}
    first = torch.tensor([n * gap[n] - (n - 1) * gap[n - 1] for n in sizes])
    second = [n**2 / 2 * gap[n] - (n - 1) ** 2 * gap[n - 1] + (n - 2) ** 2 / 2 * gap[n - 2] for n in sizes]
    assert abs(slope(sizes, torch.tensor([gap[n] for n in sizes]).abs()) + 1) < 0.05
    assert abs(slope(sizes, first.abs()) + 2) < 0.1
    assert abs(slope(sizes, torch.tensor(second).abs()) + 3) < 0.2


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("n", [4, 8])
def test_the_jackknife_of_draws_has_that_bias(n: int, order: int) -> None:
    error = (Jackknife(order)(log_weights(*wrong(), 1, n, 200_000)[0]) - log_p()).unsqueeze(-1)
    gap = [expected_gap(n - left) for left in range(order + 1)]
    by_order = {1: (n, 1 - n), 2: (n**2 / 2, -((n - 1) ** 2), (n - 2) ** 2 / 2)}
    assert_within(error, torch.tensor([sum(c * g for c, g in zip(by_order[order], gap, strict=True))]).double())
    assert abs(float(error.mean())) < abs(gap[0]) / 3


@pytest.mark.parametrize("order", [1.5, 2.0, 3.0])
def test_cubo_of_many_samples_lies_above_log_p_by_the_renyi_divergence(order: float) -> None:
    """(n−1)/n D_n(p(z|x) ‖ q) = −D_{1−n}(q ‖ p(z|x))."""
    limit = log_p() - renyi_divergence(*wrong(), 1 - order)
    assert float(limit - log_p()) > 0.02
    values = CUBO(order)(log_weights(*wrong(), 1, 10_000, 300)[0])
    assert abs(float(values.mean() - limit)) < 3 * float(values.std()) / 300**0.5 + 1e-3  # + O(1/N)
    assert float(values.mean()) > float(log_p())


def test_cubo_rises_with_n_from_below_log_p_to_its_limit() -> None:
    log_w = log_weights(*wrong(), 1, 512, 4000)[0]
    means = [nested(CUBO(), log_w.view(512 // n, n, -1)).mean() for n in (2, 8, 32, 512)]
    for lower, higher in itertools.pairwise(means):
        assert float(higher - lower) > 0.001
    assert float(means[0]) < float(log_p())  # of two samples it is no upper bound
    assert float(means[-1]) > float(log_p())


def test_cubo_tends_to_log_p_as_q_tends_to_the_posterior() -> None:
    log_p_x, gaps = float(log_p()), []
    for distance in (1.0, 0.5, 0.25, 0.0):
        q = wrong(0.35 * distance, 0.2 * distance)
        value = float(CUBO()(log_weights(*q, 1, 10_000, 100)[0]).mean())
        assert value == pytest.approx(log_p_x - float(renyi_divergence(*q, -1)), abs=2e-3)
        gaps.append(value - log_p_x)
    assert gaps[0] > gaps[1] > gaps[2] > 0
    assert abs(gaps[3]) < 1e-9
