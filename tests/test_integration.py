"""Points under the prior: uniform one by one, stratified together; quadrature against closed forms."""

import math

import pytest
import torch
from torch import Tensor

from lvm_lightning.densities import Points, StandardNormal, normal_grid
from lvm_lightning.densities.points import UNIFORM, iid_uniform, korobov, lattice_uniform, sobol_uniform
from lvm_lightning.evaluation.quadrature import GridQuadrature
from tests.conftest import assert_within


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("points", list(UNIFORM))
def test_shape_type_range_and_seed(points: Points) -> None:
    u = UNIFORM[points](64, 5, 3, generator(3))
    assert u.shape == (64, 5, 3)
    assert u.dtype == torch.float64
    assert (u > 0).all()
    assert (u < 1).all()
    torch.testing.assert_close(u, UNIFORM[points](64, 5, 3, generator(3)), atol=0, rtol=0)
    assert not torch.equal(u, UNIFORM[points](64, 5, 3, generator(4)))


@pytest.mark.parametrize("points", list(UNIFORM))
def test_every_point_is_uniform(points: Points) -> None:
    """Moments of each single point over fresh sets: E u = 1/2, E u² = 1/3, E u₁u₂ = 1/4."""
    u = torch.stack([UNIFORM[points](4, 2, 2, generator(seed)) for seed in range(3000)]).flatten(1, 2)
    assert_within(u, 0.5, errors=4)
    assert_within(u.square(), 1 / 3, errors=4)
    assert_within(u.prod(-1), 0.25, errors=4)


def test_sobol_puts_one_point_in_each_elementary_interval_for_every_example() -> None:
    u = sobol_uniform(64, 3, 2, generator(0))  # a (0, 6, 2)-net in base 2
    for a in range(7):
        cells = (u * torch.tensor([2**a, 2 ** (6 - a)])).floor()
        cell = cells[..., 0] * 2 ** (6 - a) + cells[..., 1]
        assert (cell.sort(0).values == torch.arange(64).unsqueeze(1)).all()


@pytest.mark.parametrize("points", list(UNIFORM))
def test_examples_have_points_of_their_own(points: Points) -> None:
    u = UNIFORM[points](8, 2, 2, generator(0))
    assert not torch.isclose(u[:, 0], u[:, 1]).any()


@pytest.mark.parametrize("samples", [1, 2, 7, 64])
def test_a_lattice_is_a_group_whose_points_are_spread_along_each_axis(samples: int) -> None:
    """Differences of points are points again, modulo 1; and each axis has its S values at equal distances."""
    u = lattice_uniform(samples, 1, 3, generator(0)).squeeze(1)
    steps = ((u - u[0]).remainder(1) * samples).round().long() % samples
    members = {tuple(step) for step in steps.tolist()}
    assert len(members) == samples
    assert {tuple((a - b) % samples for a, b in zip(p, q, strict=True)) for p in members for q in members} == members
    assert (steps.sort(0).values == torch.arange(samples).unsqueeze(1)).all()


def test_a_lattice_integrates_waves_exactly_but_those_of_its_dual() -> None:
    """E exp(2πi h·u) is 0 for h ≠ 0, and so is the mean over the points, unless h·g = 0 modulo S."""
    S, g = 61, korobov(61, 2)
    u = lattice_uniform(S, 1, 2, generator(1)).squeeze(1)
    for h in torch.cartesian_prod(torch.arange(-5, 6), torch.arange(-5, 6)):
        mean = torch.polar(torch.ones(S, dtype=torch.float64), 2 * math.pi * (u @ h.double())).mean().abs()
        assert float(mean) == pytest.approx(float(int(h @ g) % S == 0), abs=1e-12)


@pytest.mark.parametrize(
    ("points", "dim", "samples", "ratio"), [("sobol", 2, 128, 4), ("lattice", 2, 128, 20), ("lattice", 8, 4096, 2)]
)
def test_spread_points_integrate_better_than_iid(points: Points, dim: int, samples: int, ratio: float) -> None:
    prior = StandardNormal(dim)

    def error(kind: Points) -> float:
        z = torch.stack([prior.icdf(UNIFORM[kind](samples, 1, dim, generator(s))) for s in range(200)])
        likelihood = (-8 / dim * (z - 0.5).square().sum(-1)).exp()
        return float(likelihood.mean(1).std())

    assert error(points) < error("iid") / ratio


def test_prior_density_is_normalised_and_icdf_has_its_moments() -> None:
    prior = StandardNormal(2)
    z, log_weight = normal_grid(2, spacing=0.1, radius=8)
    torch.testing.assert_close(prior.log_prob(z) + 2 * math.log(0.1), log_weight)
    torch.testing.assert_close(log_weight.exp().sum(), torch.tensor(1.0, dtype=torch.float64), atol=1e-12, rtol=0)
    points = prior.icdf(iid_uniform(20_000, 1, 2, generator(0)))
    assert_within(points, 0.0)
    assert_within(points.square(), 1.0)


@pytest.mark.parametrize("dim", [1, 2])
def test_grid_integrates_moments_of_the_prior(dim: int) -> None:
    z, log_weight = normal_grid(dim)
    weight = log_weight.exp()
    outside = math.exp(-(5.0**2) / 2)  # prior mass that the ball of radius 5 leaves out, for K = 2
    torch.testing.assert_close(weight.sum(), torch.tensor(1.0, dtype=torch.float64), atol=2 * outside, rtol=0)
    torch.testing.assert_close(weight @ z, torch.zeros(dim, dtype=torch.float64), atol=1e-12, rtol=0)
    second = weight @ z.square()
    torch.testing.assert_close(second, torch.ones(dim, dtype=torch.float64), atol=40 * outside, rtol=0)


def test_grid_of_three_dimensions_is_refused() -> None:
    with pytest.raises(ValueError, match="dim: quadrature serves 1 or 2 latent dimensions, got 3"):
        normal_grid(3)


@pytest.mark.parametrize("dim", [1, 2])
def test_quadrature_equals_the_closed_form_of_a_linear_gaussian_model(dim: int) -> None:
    """x = A z + ε: p(x) = N(x; 0, A Aᵀ + σ² I), with a posterior about as sharp as a trained decoder's."""
    A, sigma, data_dim = torch.randn(dim, 6), 0.3, 6

    def log_lik(mean: Tensor, x: Tensor) -> Tensor:
        squares = ((x - mean) / sigma).square().sum(-1)
        return -0.5 * (squares + data_dim * math.log(2 * math.pi * sigma**2))

    x = torch.randn(50, dim) @ A + sigma * torch.randn(50, data_dim)
    covariance = A.double().T @ A.double() + sigma**2 * torch.eye(data_dim)
    exact = torch.distributions.MultivariateNormal(torch.zeros(data_dim).double(), covariance).log_prob(x.double())
    quadrature = GridQuadrature(lambda z: z @ A, log_lik, dim)
    torch.testing.assert_close(quadrature.measure(x)[0].double(), exact, atol=1e-3, rtol=0)
