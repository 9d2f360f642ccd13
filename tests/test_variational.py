"""The Gaussian closest to p(z|x): where it is known in closed form, and by what must hold of it elsewhere."""

import math
from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from lvm_lightning.densities import GaussianPosterior, InverseAutoregressiveFlow
from lvm_lightning.densities.priors import standard_normal_log_prob
from lvm_lightning.evaluation import Budget, EvaluationSettings, annealing
from lvm_lightning.evaluation.fitted import BUDGETS, WIDEN, FittedFromEncoder, closest_gaussian
from lvm_lightning.evaluation.quadrature import Exact
from lvm_lightning.evaluation.starts import Start, from_fit
from lvm_lightning.evaluation.variational import GaussianFit, _root, widened
from lvm_lightning.modules import GaussianVAE
from tests.conftest import assert_within
from tests.linear_gaussian import BIAS, LIKELIHOOD, K, W, X, posterior
from tests.test_fitted import small, with_an_encoder


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_on_a_linear_gaussian_model_one_whole_step_is_the_posterior() -> None:
    x = X.expand(3, -1)

    def log_joint(z: Tensor) -> Tensor:
        return LIKELIHOOD.log_prob(z @ W.T + BIAS, x) + standard_normal_log_prob(z)

    mean, log_sigma = posterior()
    start = mean.expand(3, K) + 0.1 * torch.randn(3, K, dtype=torch.float64, generator=generator())
    fit = GaussianFit(log_joint, rates=(1.0,))
    found, factor = fit(start, 2 * torch.eye(K).double().expand(3, K, K), generator())
    torch.testing.assert_close(found, mean.expand(3, K), atol=1e-9, rtol=0)
    covariance = torch.linalg.inv(factor @ factor.mT)
    torch.testing.assert_close(covariance, torch.diag((2 * log_sigma).exp()).expand(3, K, K), atol=1e-9, rtol=0)


@pytest.mark.parametrize("dim", [3, 10])
def test_at_the_end_the_average_slope_is_zero_and_the_precision_the_average_curvature(dim: int) -> None:
    """On a skewed density, whose mode is not where its mass is."""

    def log_joint(z: Tensor) -> Tensor:
        return (z - 2 * z.exp()).sum(-1) - 0.5 * z.square().sum(-1)

    rates = [0.7] * 5 + [1 / (i + 2) for i in range(60)]
    fit = GaussianFit(log_joint, rates)
    mean, factor = fit(torch.zeros(1, dim).double(), torch.eye(dim).double().unsqueeze(0), generator())
    precision = (factor @ factor.mT)[0]
    noise = torch.randn(20_000, dim, dtype=torch.float64, generator=generator(1))
    z = mean + torch.linalg.solve(factor[0].mT, noise.unsqueeze(-1)).squeeze(-1)
    slope, curvature = 1 - 2 * z.exp() - z, 2 * z.exp() + 1  # both factorise
    assert (slope.mean(0).abs() < 4 * slope.std(0) / 20_000**0.5 + 0.05).all()  # the points are exact for cubic slopes
    assert ((precision.diagonal() / curvature.mean(0) - 1).abs() < 0.08).all()
    mode = torch.tensor(-0.3748)  # of z − 2 e^z − z²/2
    assert float(1 - 2 * mode.exp() - mode) == pytest.approx(0, abs=1e-3)
    assert ((mean - mode).abs() > 0.1).all()


def test_a_curvature_that_is_not_positive_definite_leaves_a_precision_that_is() -> None:
    A = torch.diag_embed(torch.tensor([[1.0, -3.0], [2.0, 0.5], [1.0, -1e6], [float("nan"), 1.0]]))
    root = _root(A, 0.7)
    assert bool((root.diagonal(dim1=-2, dim2=-1) > 0).all())
    torch.testing.assert_close((root @ root.mT)[1], torch.diag(torch.tensor([1.7, 0.65])))
    torch.testing.assert_close((root @ root.mT)[0], torch.diag(torch.tensor([1.0, 1 - 4 * 0.175])))
    torch.testing.assert_close(root[2:], torch.eye(2).expand(2, 2, 2))


def test_widening_leaves_the_directions_of_which_x_says_nothing() -> None:
    precision = torch.diag(torch.tensor([1.0, 101.0]))
    wide = widened(torch.linalg.cholesky(precision).unsqueeze(0), 2.0)[0]
    torch.testing.assert_close(wide @ wide.mT, torch.diag(torch.tensor([1.0, 26.0])))


@pytest.mark.parametrize("budget", get_args(Budget))
def test_a_budget_buys_samples_up_to_those_that_are_asked_for(budget: Budget) -> None:
    model = GaussianVAE(3, data_dim=12, encoder=small, decoder=small)
    for most in (100, 100_000, None):
        model.settings = EvaluationSettings(samples=most, log_p=budget)
        best = model.evaluators()[0]
        assert isinstance(best, FittedFromEncoder)
        assert best.samples == min(most or 10_000, BUDGETS[budget][0])
        assert len(best.rates) == len(BUDGETS[budget][1])


def test_where_log_p_is_exact_it_stands_first_and_nothing_is_fitted() -> None:
    evaluators = GaussianVAE(2, data_dim=12, encoder=small, decoder=small).evaluators()
    assert isinstance(evaluators[0], Exact)
    assert not any(isinstance(evaluator, FittedFromEncoder) for evaluator in evaluators)


def by_grid(model: GaussianVAE, x: Tensor) -> Tensor:
    axis = torch.arange(-8, 8, 0.2)
    log_lik, log_prior = model.model.log_joint(x, torch.cartesian_prod(axis, axis).unsqueeze(1))
    return (log_lik + log_prior + 2 * math.log(0.2)).logsumexp(0)


@pytest.mark.parametrize("prior", ["standard normal", "flow"])
@pytest.mark.parametrize("posterior", [GaussianPosterior, InverseAutoregressiveFlow])
def test_annealed_from_the_fit_four_temperatures_reach_log_p_from_both_sides(prior: str, posterior: Any) -> None:
    model = with_an_encoder(prior, posterior).requires_grad_(False)
    like, lows, highs = torch.zeros(40, 12), [], []
    for seed in range(20):
        g = generator(seed)
        x, z = model.model.simulate(like, g)
        start = from_fit(model.model, x, model.propose(x), g)
        path = annealing.Path(start.log_base, ratio(start), annealing.sigmoid_schedule(4), leapfrog=3)
        steps, exact = annealing.tune(path, start.draw(4), g), by_grid(model, x)
        from_z = start.coordinates(z).expand(16, *z.shape)
        lows.append(annealing.lower_bound(annealing.forward(path, start.draw(16), steps, g)) - exact)
        highs.append(annealing.upper_bound(annealing.backward(path, from_z, steps, g)) - exact)
    low, high = torch.cat(lows).double(), torch.cat(highs).double()
    for off in (low, high):
        assert abs(float(off.mean())) < 0.02 + 3 * float(off.std()) / len(low) ** 0.5
    assert float(low.mean()) < 3 * float(low.std()) / len(low) ** 0.5
    assert float(high.mean()) > -3 * float(high.std()) / len(low) ** 0.5
    assert float((high - low).mean()) < 0.05


def ratio(start: Start) -> Callable[[Tensor], Tensor]:
    return lambda u: start.log_joint(u) - start.log_base(u)


def test_coordinates_and_points_are_each_others_inverse() -> None:
    model = with_an_encoder("standard normal")
    x = model.model.sample(5, generator()).x
    begin = from_fit(model.model, x, model.propose(x), generator())
    mean, factor = closest_gaussian(model.model, x, model.propose(x), generator())
    z = mean + 0.3
    u = begin.coordinates(z)
    log_lik, log_prior = model.model.log_joint(x, z)
    volume = -widened(factor, WIDEN).diagonal(dim1=-2, dim2=-1).log().sum(-1)
    again = begin.log_joint(u.unsqueeze(0))[0]
    torch.testing.assert_close(again, log_lik + log_prior + volume, atol=1e-4, rtol=0)
    assert_within(begin.draw(2000).flatten(), torch.tensor(0.0), 4)
