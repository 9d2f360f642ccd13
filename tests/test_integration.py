"""Points under the prior: uniform one by one, stratified together; quadrature against closed forms."""

import math

import pytest
import torch
from torch import Tensor

from lvm_lightning.densities import Points, StandardNormal, normal_grid
from lvm_lightning.densities.points import UNIFORM, iid_uniform, sobol_uniform
from lvm_lightning.evaluation.quadrature import GridQuadrature
from tests.conftest import assert_within


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("points", ["iid", "sobol"])
def test_shape_type_range_and_seed(points: Points) -> None:
    u = UNIFORM[points](64, 5, 3, generator(3))
    assert u.shape == (64, 5, 3)
    assert u.dtype == torch.float64
    assert (u > 0).all()
    assert (u < 1).all()
    torch.testing.assert_close(u, UNIFORM[points](64, 5, 3, generator(3)), atol=0, rtol=0)
    assert not torch.equal(u, UNIFORM[points](64, 5, 3, generator(4)))


@pytest.mark.parametrize("points", ["iid", "sobol"])
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


def test_examples_have_scrambles_of_their_own() -> None:
    u = sobol_uniform(8, 2, 2, generator(0))
    assert not torch.isclose(u[:, 0], u[:, 1]).any()


def test_sobol_integrates_better_than_iid() -> None:
    prior = StandardNormal(2)

    def error(points: Points) -> float:
        z = torch.stack([prior.icdf(UNIFORM[points](128, 1, 2, generator(s))) for s in range(200)])
        likelihood = (-8 * (z - 0.5).square().sum(-1)).exp()
        return float(likelihood.mean(1).std())

    assert error("sobol") < error("iid") / 4


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
