"""Likelihoods: normalised, the same for shared and own points, and in float32 under autocast."""

import itertools
import math

import pytest
import torch
from scipy.integrate import quad

from lvm_lightning.densities import (
    Bernoulli,
    ContinuousBernoulli,
    Gaussian,
    GaussianLikelihood,
    Likelihood,
    PixelwiseGaussian,
)
from lvm_lightning.support.processor import bfloat16_products
from tests.conftest import kept_for_backward

BERNOULLI = Bernoulli()


def test_probabilities_of_all_images_sum_to_one() -> None:
    logits = 3 * torch.randn(5, 1, 4, dtype=torch.float64)
    every_x = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4)), dtype=torch.float64)
    total = BERNOULLI.log_prob(logits, every_x).exp().sum(-1)
    torch.testing.assert_close(total, torch.ones(5, dtype=torch.float64), atol=1e-12, rtol=0)


def test_agrees_with_torch_distributions() -> None:
    logits, x = 3 * torch.randn(6, 10, 20), torch.randint(2, (10, 20)).float()
    oracle = torch.distributions.Bernoulli(logits=logits.double()).log_prob(x.double()).sum(-1)
    torch.testing.assert_close(BERNOULLI.log_prob(logits, x).double(), oracle, atol=1e-4, rtol=0)


@pytest.mark.parametrize("samples", [(6,), (2, 3)])
def test_shared_points_are_the_same_numbers(samples: tuple[int, ...]) -> None:
    logits, x = torch.randn(*samples, 1, 20, dtype=torch.float64), torch.randint(2, (10, 20)).double()
    own = BERNOULLI.log_prob(logits.expand(*samples, 10, 20), x)
    torch.testing.assert_close(BERNOULLI.log_prob(logits, x), own, atol=1e-12, rtol=0)


@pytest.mark.parametrize("shape", [(4, 3, 5), (4, 1, 5), (2, 2, 3, 5), (2, 2, 1, 5), (1, 5)])
def test_the_written_out_gradient_is_the_numerical_one(shape: tuple[int, ...]) -> None:
    logits = torch.randn(*shape, dtype=torch.float64, requires_grad=True)
    x = torch.rand(3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(BERNOULLI.log_prob, (logits, x))


def test_keeps_one_tensor_of_the_size_of_the_logits() -> None:
    logits, x = torch.randn(6, 10, 20, requires_grad=True), torch.randint(2, (10, 20)).float()
    with kept_for_backward() as kept:
        BERNOULLI.log_prob(logits, x)
    assert sorted(kept) == [10 * 20, 6 * 10 * 20]


@pytest.mark.parametrize("points", [1, 10])
def test_a_bfloat16_gradient_is_the_rounded_float32_one(points: int) -> None:
    logits, x = torch.randn(6, points, 20).bfloat16(), torch.randint(2, (10, 20)).float()
    gradients = []
    for given in (logits, logits.float()):
        leaf = given.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            (gradient,) = torch.autograd.grad(BERNOULLI.log_prob(leaf, x).sum(), leaf)
        assert gradient.dtype == given.dtype
        gradients.append(gradient)
    assert torch.equal(gradients[0], gradients[1].bfloat16())


@pytest.mark.parametrize("points", [1, 10])
def test_stays_in_float32_under_autocast(points: int) -> None:
    logits, x = torch.randn(6, points, 784).bfloat16(), torch.randint(2, (10, 784)).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        log_prob = BERNOULLI.log_prob(logits, x)
    oracle = BERNOULLI.log_prob(logits.double(), x.double())
    assert log_prob.dtype == torch.float32
    torch.testing.assert_close(log_prob.double(), oracle, atol=2e-4, rtol=0)


@pytest.mark.parametrize("likelihood", [Bernoulli(), ContinuousBernoulli()])
@pytest.mark.parametrize("points", [1, 10])
def test_a_bfloat16_gradient_is_that_of_its_cotangents(points: int, likelihood: Likelihood) -> None:
    """Within a rounding of the result, and, with points that are shared, within one of each cotangent.

    Where every image has a pixel and its mean is almost 1, the two sums over images must cancel: they take the same
    rounded cotangents.
    """
    logits, w = (5 * torch.randn(6, points, 784)).bfloat16(), torch.rand(6, 10)
    x = torch.randint(2, (10, 784)).float()
    logits[..., :20], x[:, :20] = 12.0, 1.0
    leaf, exact = logits.clone().requires_grad_(), logits.double().requires_grad_()
    (found,) = torch.autograd.grad(likelihood.log_prob(leaf, x), leaf, w)
    (oracle,) = torch.autograd.grad(likelihood.log_prob(exact, x.double()), exact, w.double())
    near = torch.finfo(torch.bfloat16).eps
    rounded = near * w.sum(-1).view(6, 1, 1).double() if points == 1 else 0.0
    assert ((found.double() - oracle).abs() <= near * oracle.abs() + rounded + 1e-6).all()
    assert (found[..., :20].abs() < 1e-4 * w.sum()).all() or isinstance(likelihood, ContinuousBernoulli)


def test_float32_products_stay_what_they_are() -> None:
    """Products of bfloat16 units are asked for around the likelihood alone, and also an error ends that."""
    before = torch.backends.mkldnn.matmul.fp32_precision  # type: ignore[attr-defined]
    logits = torch.randn(6, 1, 784).bfloat16().requires_grad_()
    BERNOULLI.log_prob(logits, torch.zeros(10, 784)).sum().backward()
    with bfloat16_products():
        assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"  # type: ignore[attr-defined]
    with pytest.raises(ZeroDivisionError), bfloat16_products():
        raise ZeroDivisionError
    assert torch.backends.mkldnn.matmul.fp32_precision == before  # type: ignore[attr-defined]


@pytest.mark.parametrize("points", [1, 2])
def test_extreme_logits_stay_finite(points: int) -> None:
    logits = torch.tensor([1e4, -1e4]).expand(3, points, 2)
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    log_prob = BERNOULLI.log_prob(logits, x)
    torch.testing.assert_close(log_prob, torch.tensor([0.0, -2e4]).expand(3, 2))


def test_samples_have_the_bernoulli_means() -> None:
    logits = torch.tensor([-2.0, 0.0, 3.0])
    x = BERNOULLI.sample(logits.expand(40_000, 3), torch.Generator().manual_seed(1))
    mean = BERNOULLI.mean(logits)
    assert set(x.unique().tolist()) == {0.0, 1.0}
    assert ((x.mean(0) - mean).abs() < 3 * (mean * (1 - mean) / 40_000).sqrt()).all()


# Gaussian pixels

GAUSSIANS: dict[str, tuple[GaussianLikelihood, list[float]]] = {
    "fixed": (Gaussian(0.3), [0.2]),
    "learned": (Gaussian(0.3, learn_sigma=True), [0.2]),
    "pixelwise": (PixelwiseGaussian(), [0.2, -1.7]),
    "at its floor": (PixelwiseGaussian(floor=0.1), [0.2, -1e4]),
}


@pytest.mark.parametrize("case", GAUSSIANS)
def test_the_gaussian_density_integrates_to_one(case: str) -> None:
    likelihood, numbers = GAUSSIANS[case]
    parameters = torch.tensor(numbers, dtype=torch.float64)

    def density(x: float) -> float:
        return float(likelihood.log_prob(parameters.view(1, 1, -1), torch.tensor([[x]]).double()).detach().exp())

    assert quad(density, -10, 10, points=[0.2], epsabs=1e-10)[0] == pytest.approx(1.0, abs=1e-7)


def test_784_pixels_of_unit_variance_carry_the_normalising_constant() -> None:
    """½ · 784 · log 2π = 720.4 nats, which implementations that drop the constant do not report."""
    x = torch.randn(3, 784)
    log_prob = Gaussian().log_prob(x.unsqueeze(0), x)
    torch.testing.assert_close(log_prob, torch.full((1, 3), -720.448), atol=0.01, rtol=0)
    assert 392 * math.log(2 * math.pi) == pytest.approx(720.4, abs=0.05)


@pytest.mark.parametrize("likelihood", [Gaussian(0.4), PixelwiseGaussian()])
@pytest.mark.parametrize("points", [1, 10])
def test_gaussians_agree_with_torch_distributions(likelihood: GaussianLikelihood, points: int) -> None:
    parameters, x = torch.randn(6, points, 20 * likelihood.parameters_per_pixel), torch.randn(10, 20)
    mean, log_sigma = likelihood.mean_and_log_sigma(parameters.double())
    oracle = torch.distributions.Normal(mean, log_sigma.exp()).log_prob(x.double()).sum(-1)
    torch.testing.assert_close(likelihood.log_prob(parameters, x).double(), oracle, atol=1e-3, rtol=1e-5)
    assert likelihood.log_prob(parameters, x).shape == (6, 10)


def test_pixelwise_parameters_are_means_and_then_log_variances() -> None:
    mean, log_sigma = PixelwiseGaussian(floor=0.01).mean_and_log_sigma(torch.tensor([1.0, 2.0, 0.0, 2.0]))
    assert mean.tolist() == [1.0, 2.0]
    torch.testing.assert_close(log_sigma, 0.5 * torch.tensor([1.0001, math.e**2 + 0.0001]).log())


def test_a_density_is_lower_by_d_log_2_on_twice_the_scale() -> None:
    x, mean = torch.rand(4, 784), torch.rand(1, 4, 784)
    narrow, wide = Gaussian(0.1).log_prob(mean, x), Gaussian(0.2).log_prob(2 * mean - 1, 2 * x - 1)
    torch.testing.assert_close(wide, narrow - 784 * math.log(2), atol=0.01, rtol=0)


@pytest.mark.parametrize("points", [1, 10])
def test_gaussians_stay_in_float32_under_autocast(points: int) -> None:
    mean, x = torch.randn(6, points, 784).bfloat16(), torch.randn(10, 784)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        log_prob = Gaussian().log_prob(mean, x)
    assert log_prob.dtype == torch.float32
    torch.testing.assert_close(log_prob.double(), Gaussian().log_prob(mean.double(), x.double()), atol=1e-2, rtol=0)


def test_a_learned_sigma_finds_the_residuals_and_stays_above_its_floor() -> None:
    likelihood = Gaussian(0.3, learn_sigma=True, floor=0.25)
    for target, expected in [(0.5, 0.5), (0.05, 0.25)]:
        x = target * torch.randn(1000, 20)
        optimizer = torch.optim.Adam(likelihood.parameters(), lr=0.1)
        for _ in range(400):
            optimizer.zero_grad()
            (-likelihood.log_prob(torch.zeros(1, 1, 20), x).mean()).backward()
            optimizer.step()
        assert float(likelihood.sigma.detach()) == pytest.approx(expected, abs=0.01)
        assert float(likelihood.sigma.detach()) >= 0.25


def test_extreme_pixelwise_variances_stay_finite_with_their_gradients() -> None:
    parameters = torch.tensor([0.0, 1.0, 1e4, -1e4], requires_grad=True)
    log_prob = PixelwiseGaussian().log_prob(parameters.view(1, 1, 4), torch.zeros(1, 2)).sum()
    (gradient,) = torch.autograd.grad(log_prob, parameters)
    assert log_prob.isfinite()
    assert gradient.isfinite().all()


def test_a_learned_sigma_below_its_floor_is_refused() -> None:
    with pytest.raises(ValueError, match=r"sigma: a learned σ must start above its floor 0.1, got 0.05"):
        Gaussian(0.05, learn_sigma=True, floor=0.1)


@pytest.mark.parametrize(("likelihood", "width"), [(Gaussian(0.4), 3), (PixelwiseGaussian(floor=0.2), 6)])
def test_gaussian_samples_have_their_mean_and_sigma(likelihood: GaussianLikelihood, width: int) -> None:
    parameters = torch.linspace(-2, 1, width)
    mean, log_sigma = likelihood.mean_and_log_sigma(parameters)
    x = likelihood.sample(parameters.expand(40_000, width), torch.Generator().manual_seed(1))
    assert ((x.mean(0) - mean).abs() < 4 * log_sigma.exp() / 40_000**0.5).all()
    torch.testing.assert_close(x.std(0), log_sigma.exp().expand(3), rtol=0.02, atol=0)
    torch.testing.assert_close(likelihood.mean(parameters), mean)


@pytest.mark.parametrize("likelihood", [BERNOULLI, Gaussian()])
def test_the_parameters_of_a_mean_have_that_mean(likelihood: Likelihood) -> None:
    mean = torch.tensor([0.0, 0.2, 0.9, 1.0])
    torch.testing.assert_close(likelihood.mean(likelihood.parameters_of_mean(mean)), mean, atol=2e-6, rtol=0)
