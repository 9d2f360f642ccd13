"""Importance sampling, annealing and quadrature against log p(x) in closed form; how far weights can be believed."""

import math
from typing import Literal

import pytest
import torch
from scipy.stats import norm
from torch import Tensor

from lvm_lightning.densities import DiagonalGaussian, Gaussian, normal_grid
from lvm_lightning.densities.priors import standard_normal_log_prob
from lvm_lightning.evaluation import annealing
from lvm_lightning.evaluation import closed_forms as exponential
from lvm_lightning.evaluation.closed_forms import Problem
from lvm_lightning.evaluation.diagnostics import effective_sample_size, heavy, pareto_shape
from lvm_lightning.evaluation.quadrature import AdaptiveQuadrature, GridQuadrature
from lvm_lightning.modules import ExponentialPosterior
from lvm_lightning.objectives import iw_elbo
from lvm_lightning.studies import Anneal
from tests.conftest import assert_within
from tests.linear_gaussian import BIAS, LIKELIHOOD, D, K, S, W, X, log_p, log_weights, posterior, wrong

B = 40
SEEDS = 20


def covered(estimates: Tensor, exact: float, errors: float = 3.0) -> None:
    """At each seed, the mean over examples ``(seeds, B)`` is within 3 of its own standard errors of the exact value.

    The logarithm of an average is biased downwards by half its variance; the tolerance has room for that.
    """
    stderr = estimates.std(1) / B**0.5
    bias = estimates.var(1) / 2
    deviation = (estimates.mean(1) - exact).abs()
    assert (deviation < errors * stderr + bias).all()
    assert (stderr < 0.2).all()


def gaussian_path(start: str, steps: int) -> tuple[annealing.Path, DiagonalGaussian | None]:
    q = DiagonalGaussian(*(p.expand(B, K) for p in wrong(1.0, 0.3))) if start == "encoder" else None

    def log_base(z: Tensor) -> Tensor:
        return standard_normal_log_prob(z) if q is None else q.stopped_log_prob(z)

    def log_ratio(z: Tensor) -> Tensor:
        log_lik = LIKELIHOOD.log_prob(z @ W.T + BIAS, X.expand(B, D))
        return log_lik + standard_normal_log_prob(z) - log_base(z)

    return annealing.Path(log_base, log_ratio, annealing.sigmoid_schedule(steps), leapfrog=4), q


def starts(q: DiagonalGaussian | None, chains: int, generator: torch.Generator) -> Tensor:
    noise = torch.randn(chains, B, K, dtype=torch.float64, generator=generator)
    return noise if q is None else q.rsample(noise)[0]


def posterior_samples(generator: torch.Generator) -> Tensor:
    mean, log_sigma = posterior()
    return mean + log_sigma.exp() * torch.randn(B, K, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("start", ["prior", "encoder"])
def test_annealing_covers_log_p_and_the_sandwich_contains_it(start: str) -> None:
    path, q = gaussian_path(start, 40)
    lowers, uppers = [], []
    for seed in range(SEEDS):
        generator = torch.Generator().manual_seed(seed)
        tuned = annealing.tune(path, starts(q, 4, generator), generator)
        assert tuned.shape == (40, B)
        lowers.append(annealing.lower_bound(annealing.forward(path, starts(q, 4, generator), tuned, generator)))
        exact = posterior_samples(generator).expand(4, B, K)
        uppers.append(annealing.upper_bound(annealing.backward(path, exact, tuned, generator)))
    lower, upper = torch.stack(lowers), torch.stack(uppers)
    covered(lower, float(log_p()))
    assert (upper.mean(1) > log_p() - 3 * upper.std(1) / B**0.5).all()
    assert (lower.mean(1) < log_p() + 3 * lower.std(1) / B**0.5).all()
    assert float(lower.mean()) < float(log_p()) + 3 * float(lower.std()) / (SEEDS * B) ** 0.5
    assert float(upper.mean()) > float(log_p()) - 3 * float(upper.std()) / (SEEDS * B) ** 0.5
    assert float((upper - lower).mean()) > 0
    assert_within((lower - log_p()).exp().flatten(), 1.0)  # E w = p(x)
    assert_within((log_p() - upper).exp().flatten(), 1.0)  # E 1/w = 1/p(x)


def test_more_temperatures_narrow_the_sandwich() -> None:
    widths = []
    for steps in (3, 12, 48):
        path, q = gaussian_path("prior", steps)
        generator = torch.Generator().manual_seed(0)
        tuned = annealing.tune(path, starts(q, 2, generator), generator)
        lower = annealing.lower_bound(annealing.forward(path, starts(q, 2, generator), tuned, generator))
        exact = posterior_samples(generator).expand(2, B, K)
        widths.append(annealing.upper_bound(annealing.backward(path, exact, tuned, generator)) - lower)
    wide, middle, narrow = widths
    assert float(wide.mean()) > float(middle.mean()) > float(narrow.mean())
    assert abs(float(narrow.mean())) < float(wide.mean()) / 2


def test_without_a_path_annealing_is_importance_sampling_from_its_start() -> None:
    """One temperature: w = p(x, z)/p₀(z), and the transition never happens."""
    path, q = gaussian_path("encoder", 1)
    generator = torch.Generator().manual_seed(0)
    z = starts(q, 4, generator)
    log_w = annealing.forward(path, z, torch.ones(1, B, dtype=torch.float64), generator)
    torch.testing.assert_close(log_w, path.log_ratio(z))


def test_a_transition_leaves_its_density_invariant() -> None:
    """Exact samples of f_β stay exact samples; a step far too large is refused and changes nothing."""
    path, _ = gaussian_path("prior", 10)
    generator = torch.Generator().manual_seed(1)
    mean, log_sigma = posterior()
    z = mean + log_sigma.exp() * torch.randn(500, B, K, dtype=torch.float64, generator=generator)
    point = path.at(z)
    for _ in range(3):
        point, accept = annealing.transition(path, point, 1.0, torch.full((B,), 0.4, dtype=torch.float64), generator)
    assert 0.3 < float(accept.mean()) < 1
    assert not torch.equal(point.z, z)
    assert_within(point.z.flatten(0, 1), mean, errors=4)
    assert_within((point.z - mean).square().flatten(0, 1), (2 * log_sigma).exp(), errors=4)
    stuck, accept = annealing.transition(path, point, 1.0, torch.full((B,), 1e6, dtype=torch.float64), generator)
    assert float(accept.max()) == 0
    assert torch.equal(stuck.z, point.z)


def test_the_pilot_run_finds_steps_that_are_accepted_as_aimed() -> None:
    path, q = gaussian_path("prior", 150)
    generator = torch.Generator().manual_seed(0)
    for start in (0.02, 2.0):
        tuned = annealing.tune(path, starts(q, 8, generator), generator, start=start)
        point, accepted = path.at(posterior_samples(generator).expand(50, B, K)), []
        for _ in range(4):
            point, accept = annealing.transition(path, point, 1.0, tuned[-1], generator)
            accepted.append(accept.mean())
        assert 0.5 < float(torch.stack(accepted).mean()) < 0.85


def test_the_schedule_goes_from_0_to_1_and_is_slow_at_its_ends() -> None:
    betas = torch.tensor(annealing.sigmoid_schedule(100))
    assert (float(betas[0]), float(betas[-1]), len(betas)) == (0.0, 1.0, 101)
    steps = betas.diff()
    assert (steps > 0).all()
    assert float(steps[0]) < float(steps[50]) / 5
    with pytest.raises(ValueError, match="steps: must be at least 1, got 0"):
        annealing.sigmoid_schedule(0)


def test_importance_sampling_covers_log_p() -> None:
    estimates = torch.stack([iw_elbo(log_weights(*wrong(), 1, 500, B, seed)[0]) for seed in range(SEEDS)])
    covered(estimates, float(log_p()))


def test_quadrature_is_log_p() -> None:
    """The same grid as in evaluation, on the linear-Gaussian model in float64."""
    z, log_weight = normal_grid(K)
    log_lik = LIKELIHOOD.log_prob((z @ W.T + BIAS).unsqueeze(1), X.unsqueeze(0)).squeeze(1)
    assert float((log_lik + log_weight).logsumexp(0)) == pytest.approx(float(log_p()), abs=1e-5)
    quadrature = GridQuadrature(lambda z: z @ W.T.float() + BIAS.float(), Gaussian(S).log_prob, K)
    assert float(quadrature.measure(X.unsqueeze(0).float())[0]) == pytest.approx(float(log_p()), abs=1e-4)


@pytest.mark.parametrize("spacing", [1.5, 1.2, 1.0, 0.8, 0.6, 0.4])
def test_the_stated_error_of_a_grid_holds_for_99_examples_of_100(spacing: float) -> None:
    """From far too coarse to fine: the posterior's standard deviations are 0.42 and 0.76."""
    n = 4000
    x = BIAS + torch.randn(n, K, dtype=torch.float64) @ W.T + S * torch.randn(n, D, dtype=torch.float64)
    covariance = W @ W.T + S**2 * torch.eye(D, dtype=torch.float64)
    exact = torch.distributions.MultivariateNormal(BIAS, covariance).log_prob(x)
    quadrature = GridQuadrature(
        lambda z: z @ W.T.float() + BIAS.float(), Gaussian(S).log_prob, K, spacing=spacing, radius=8.0
    )
    value, error = quadrature.measure(x.float())
    above = (value - exact).abs() > error + 2e-4  # float32
    assert float(above.double().mean()) < 0.01 + 3 * (0.01 / n) ** 0.5


@pytest.mark.parametrize("tolerance", [3e-3, math.inf])
def test_what_lies_beyond_the_radius_is_counted_and_told(tolerance: float) -> None:
    """A likelihood that pulls the posterior out, to norm 5 and beyond: told, or measured on a denser lattice."""
    centre = torch.tensor([[5.0, 1.0], [5.6, 1.0], [0.1, 0.2]])
    quadrature = GridQuadrature(lambda z: z, Gaussian(0.2).log_prob, K, spacing=0.05, tolerance=tolerance)
    value, error = quadrature.measure(centre)
    variance = 1 + 0.2**2
    exact = -0.5 * centre.double().square().sum(-1) / variance - math.log(2 * math.pi * variance)
    assert ((value - exact).abs() <= error + 2e-4).all()
    if tolerance < 1:
        assert (error < tolerance).all()
        return
    assert error[0] > 0.1
    assert error[1] > 0.9
    assert error[2] < 1e-4


def test_adaptive_quadrature_is_log_p_for_one_latent_even_with_a_narrow_posterior() -> None:
    for sigma in (1.0, 0.1, 0.01):
        direction = torch.tensor([[1.0], [-0.5], [0.3]])
        x = torch.tensor([[0.5, -0.3, 0.2], [1.5, -0.7, 0.5]])
        quadrature = AdaptiveQuadrature(direction.T.__rmatmul__, Gaussian(sigma).log_prob)
        value, error = quadrature.measure(x)
        covariance = (direction @ direction.T).double() + sigma**2 * torch.eye(3, dtype=torch.float64)
        exact = torch.distributions.MultivariateNormal(torch.zeros(3, dtype=torch.float64), covariance)
        torch.testing.assert_close(value, exact.log_prob(x.double()), atol=0, rtol=2e-4)
        assert float(error.max()) < 1e-3
        assert quadrature.points > 21 * 64 / 2


# The exponential toy


OBSERVATIONS = torch.tensor([2.9, 1.7, 3.6, 3.0, 1.8], dtype=torch.float64)


@pytest.mark.parametrize("start", ["prior", "encoder"])
def test_the_toy_is_covered_by_importance_sampling_and_annealing(start: Literal["prior", "encoder"]) -> None:
    model = ExponentialPosterior()
    exact = exponential.log_marginal(Problem.of(OBSERVATIONS, 1.0, 1.0))
    x = OBSERVATIONS.expand(B, 5)
    anneal = Anneal(start=start, steps=60, chains=8, leapfrog=4)
    weights, annealed = [], []
    for seed in range(SEEDS):
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            weights.append(iw_elbo(model.model.log_weights(x, model.propose(x), 500, generator)))
        annealed.append(anneal.bounds(model, x, generator)[0])
    covered(torch.stack(weights), exact)
    covered(torch.stack(annealed), exact)


def test_the_toys_sandwich_contains_log_p_on_simulated_data() -> None:
    model, generator = ExponentialPosterior(), torch.Generator().manual_seed(0)
    x, z = model.model.simulate(torch.zeros(200, 5), generator)
    exact = model.log_marginal(x)[0]
    low, high = Anneal(steps=80, chains=8, leapfrog=4).bounds(model, x, generator, z)
    for difference in (exact - low, high - exact):
        assert float(difference.mean()) > -3 * float(difference.std()) / 200**0.5
        assert float(difference.mean()) < 0.2


# How far weights can be believed


def test_the_effective_sample_size_counts_equal_weights() -> None:
    log_w = torch.full((100, 2), -1e4)
    torch.testing.assert_close(effective_sample_size(log_w), torch.full((2,), 100.0, dtype=torch.float64))
    log_w[0] += 1e3
    torch.testing.assert_close(effective_sample_size(log_w), torch.ones(2, dtype=torch.float64))
    half = torch.cat([torch.zeros(30, 1), torch.full((70, 1), -math.inf)])
    assert float(effective_sample_size(half)) == pytest.approx(30)


@pytest.mark.parametrize("shape", [0.2, 0.5, 0.7, 1.0])
def test_the_fitted_tail_shape_is_that_of_the_weights(shape: float) -> None:
    u = torch.rand(20_000, 100, dtype=torch.float64)
    w = ((1 - u) ** -shape - 1) / shape  # generalised Pareto
    k = pareto_shape(w.log())
    regularised = (424 * shape + 5) / 434  # towards ½ by ten observations
    assert_within(k, regularised, errors=5)


def test_a_narrow_proposal_has_heavy_weights_and_a_wide_one_has_not() -> None:
    narrow = log_weights(*wrong(0.0, -0.7), 1, 5000, 20)[0]
    wide = log_weights(*wrong(0.0, 0.3), 1, 5000, 20)[0]
    # Var q = c² Var p with c < 1/√2: the weights have no variance; their tail has shape 1 − c².
    assert 0.55 < float(pareto_shape(narrow).mean()) < 0.95
    assert float(pareto_shape(wide).mean()) < 0.3
    assert float(effective_sample_size(wide).mean()) > 3000


def test_a_tail_needs_weights() -> None:
    with pytest.raises(ValueError, match="log_w: a tail needs at least 25 weights, got 24"):
        pareto_shape(torch.zeros(24, 3))


def test_widening_is_the_scale_of_q() -> None:
    q = DiagonalGaussian(torch.zeros(1, 1), torch.zeros(1, 1)).widened(2.0)
    expected = norm(0, 2).logpdf(0.7)
    assert float(q.stopped_log_prob(torch.tensor([[0.7]]))) == pytest.approx(float(expected))


@pytest.mark.parametrize(("samples", "most"), [(25, 0.2847), (100, 0.5), (500, 0.6295), (2000, 0.6971), (5000, 0.7)])
def test_fewer_samples_forgive_less(samples: int, most: float) -> None:
    assert heavy(samples) == pytest.approx(most, abs=1e-4)
