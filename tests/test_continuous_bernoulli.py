"""The continuous Bernoulli: its constant near ½ and far from it, moments, samples, and training on grey levels."""

import mpmath
import pytest
import torch
from scipy.integrate import quad
from torch import Tensor
from torch.nn.functional import softplus

from lvm_lightning.data.loader import Batch
from lvm_lightning.densities import Bernoulli, ContinuousBernoulli
from lvm_lightning.modules import GaussianVAE
from lvm_lightning.networks import MLP
from tests.conftest import assert_within, kept_for_backward
from tests.small import D

LIKELIHOOD = ContinuousBernoulli()
FROM_HALF = [0.0, *(10.0**-k for k in range(8, 0, -1)), 0.3, 0.49, 0.4999]
LOGITS = [
    sign * size
    for size in (0.0, 1e-8, 1e-4, 1e-2, 0.1, 0.49999, 0.5, 0.7, 2.0, 15.0, 90.0, 1e3, 1e5)
    for sign in (1, -1)
]


def logit(distance: float) -> Tensor:
    """The logit of λ = ½ + distance."""
    half = torch.tensor(0.5, dtype=torch.float64)
    return torch.log1p(distance / half) - torch.log1p(-distance / half)


def log_density(logits: Tensor, x: float) -> float:
    return float(LIKELIHOOD.log_prob(logits.view(1, 1, 1), torch.full((1, 1), x, dtype=torch.float64)))


def moment(logits: Tensor, power: int, about: float = 0.0) -> float:
    value: float = quad(lambda x: (x - about) ** power * mpmath.exp(log_density(logits, x)), 0, 1, epsabs=1e-12)[0]
    return value


@pytest.mark.parametrize("side", [1, -1])
@pytest.mark.parametrize("distance", FROM_HALF)
def test_the_density_integrates_to_one_and_has_its_mean_and_variance(distance: float, side: int) -> None:
    logits = side * logit(distance)
    mean = float(LIKELIHOOD.mean(logits))
    assert moment(logits, 0) == pytest.approx(1, abs=1e-10)
    assert moment(logits, 1) == pytest.approx(mean, abs=1e-10)
    assert moment(logits, 2, about=mean) == pytest.approx(float(LIKELIHOOD.information(logits)), abs=1e-10)


@pytest.mark.parametrize(("dtype", "exact"), [(torch.float64, 1e-15), (torch.float32, 3e-7)])
@pytest.mark.parametrize("given", LOGITS)
def test_every_function_of_a_logit_is_exact(given: float, dtype: torch.dtype, exact: float) -> None:
    """Against 300 digits, in which differences of large numbers cost nothing."""
    logits = torch.tensor(given, dtype=dtype)
    with mpmath.workdps(300):
        exp, number = mpmath.exp, mpmath.mpf(float(logits))
        oracle = {
            "log_partition": mpmath.log((exp(number) - 1) / number) if number else 0,
            "mean": 1 / (1 - exp(-number)) - 1 / number if number else 0.5,
            "information": 1 / number**2 - exp(number) / (exp(number) - 1) ** 2 if number else 1 / 12,
        }
    log_partition, mean = float(LIKELIHOOD.log_partition(logits)), float(LIKELIHOOD.mean(logits))
    assert log_partition == pytest.approx(float(oracle["log_partition"]), rel=exact, abs=exact)
    assert mean == pytest.approx(float(oracle["mean"]), rel=5 * exact)
    assert float(LIKELIHOOD.information(logits)) == pytest.approx(float(oracle["information"]), rel=1e3 * exact)


def test_the_constant_is_what_a_bernoulli_lacks() -> None:
    """log p − (Σ_j x_j l_j − softplus(l_j)) = log (l / tanh(l/2)), and log 2 at l = 0."""
    logits, x = 3 * torch.randn(5, 4, 6, dtype=torch.float64), torch.rand(4, 6, dtype=torch.float64)
    lacking = LIKELIHOOD.log_prob(logits, x) - Bernoulli().log_prob(logits, x)
    torch.testing.assert_close(lacking, (logits / (logits / 2).tanh()).log().sum(-1))
    zero = torch.zeros(1, 1, 1, dtype=torch.float64)
    assert log_density(zero, 0.3) == 0
    assert float(softplus(zero)) == pytest.approx(float(mpmath.log(2)))


@pytest.mark.parametrize("shape", [(4, 3, 5), (4, 1, 5), (2, 2, 3, 5)])
@pytest.mark.parametrize("scale", [1e-6, 0.3, 10])
def test_the_written_out_gradient_is_the_numerical_one(shape: tuple[int, ...], scale: float) -> None:
    logits = (scale * torch.randn(*shape, dtype=torch.float64)).requires_grad_()
    x = torch.rand(3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(LIKELIHOOD.log_prob, (logits, x))


@pytest.mark.parametrize("scale", [1e-6, 0.4, 30])
def test_the_information_is_the_means_slope_and_has_gradients_everywhere(scale: float) -> None:
    logits = torch.cat([scale * torch.randn(9, dtype=torch.float64), torch.zeros(1).double()]).requires_grad_()
    (slope,) = torch.autograd.grad(LIKELIHOOD.mean(logits).sum(), logits)
    torch.testing.assert_close(slope, LIKELIHOOD.information(logits), rtol=1e-9, atol=1e-12)
    (bend,) = torch.autograd.grad(LIKELIHOOD.information(logits).sum(), logits)
    assert bend.isfinite().all()


@pytest.mark.parametrize("number", LOGITS)
def test_samples_have_the_mean_and_the_variance(number: float) -> None:
    logits = torch.tensor([number])
    x = LIKELIHOOD.sample(logits.expand(40_000, 1), torch.Generator().manual_seed(1)).double()
    mean, variance = LIKELIHOOD.mean(logits.double()), LIKELIHOOD.information(logits.double())
    assert x.min() >= 0
    assert x.max() <= 1
    if abs(number) < 1e4:  # beyond, 1 − x has too few digits in float32
        assert_within(x, mean, errors=4)
        assert_within((x - mean).square(), variance, errors=4)


def test_the_parameters_of_a_mean_have_that_mean() -> None:
    mean = torch.tensor([0.0, 1e-3, 0.2, 0.4999999, 0.5, 0.9, 1.0])
    found = LIKELIHOOD.mean(LIKELIHOOD.parameters_of_mean(mean).double())
    torch.testing.assert_close(found, mean.double().clamp(1e-3, 1 - 1e-3), atol=1e-7, rtol=1e-6)


def test_extreme_logits_stay_finite_with_their_gradients() -> None:
    logits = torch.tensor([[[1e4, -1e4, 1e4, -1e4]]], requires_grad=True)
    log_prob = LIKELIHOOD.log_prob(logits, torch.tensor([[1.0, 0.0, 1.0, 0.0]]))
    (gradient,) = torch.autograd.grad(log_prob.sum(), logits)
    torch.testing.assert_close(log_prob, torch.tensor([[4 * 9.21034]]), atol=5e-3, rtol=0)  # float32 of sums of 2e4
    assert gradient.isfinite().all()


def test_keeps_one_tensor_of_the_size_of_the_logits() -> None:
    logits, x = torch.randn(6, 10, 20, requires_grad=True), torch.rand(10, 20)
    with kept_for_backward() as kept:
        LIKELIHOOD.log_prob(logits, x)
    assert sorted(kept) == [10 * 20, 6 * 10 * 20]


@pytest.mark.parametrize("points", [1, 10])
def test_stays_in_float32_under_autocast(points: int) -> None:
    logits, x = torch.randn(6, points, 784).bfloat16(), torch.rand(10, 784)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        log_prob = LIKELIHOOD.log_prob(logits, x)
    assert log_prob.dtype == torch.float32
    torch.testing.assert_close(log_prob.double(), LIKELIHOOD.log_prob(logits.double(), x.double()), atol=2e-3, rtol=0)


def test_a_vae_of_grey_levels_learns_more_than_the_pixel_means() -> None:
    """Three noisy grey patterns: the bound ends above what a model without a latent reaches."""
    pattern = torch.randint(2, (3, D)).float()
    x = (pattern[torch.randint(3, (300,))] * 0.8 + 0.2 * torch.rand(300, D)).clamp(0, 1)
    model = GaussianVAE(
        latent_dim=2,
        data_dim=D,
        likelihood=ContinuousBernoulli,
        encoder=lambda i, o: MLP(i, o, hidden=(32,)),
        decoder=lambda i, o: MLP(i, o, hidden=(32,)),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for step in range(400):
        output = model.training_step(Batch.of(x), step)
        assert isinstance(output, dict)
        optimizer.zero_grad()
        output["loss"].backward()
        optimizer.step()
    without = LIKELIHOOD.log_prob(LIKELIHOOD.parameters_of_mean(x.mean(0)).view(1, 1, D), x).mean()
    assert float(output["bound"]) > float(without) + 3
