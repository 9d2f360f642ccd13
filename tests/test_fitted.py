"""Proposals fitted to each image, against a posterior in closed form and against quadrature."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lvm_lightning.data.loader import Batch
from lvm_lightning.densities import (
    Bernoulli,
    FlowPrior,
    Gaussian,
    GaussianPosterior,
    InverseAutoregressiveFlow,
    Likelihood,
    PixelwiseGaussian,
    Prior,
    StandardNormal,
    VampPrior,
)
from lvm_lightning.densities.priors import standard_normal_log_prob
from lvm_lightning.evaluation import EvaluationSettings, Given
from lvm_lightning.evaluation.fitted import FittedFromEncoder
from lvm_lightning.evaluation.fitting import BestPilots, FittedProposals, Mixture
from lvm_lightning.evaluation.quadrature import GridQuadrature
from lvm_lightning.modules import ExponentialPosterior, GaussianVAE
from lvm_lightning.networks import MLP
from lvm_lightning.objectives import iw_elbo
from tests.conftest import assert_within
from tests.linear_gaussian import BIAS, LIKELIHOOD, K, W, X, log_p, posterior
from tests.small import small_trainer


def draw(q: Mixture, samples: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    B, dim = q.mean.shape[1:]
    noise = torch.randn(samples, B, dim, dtype=q.mean.dtype, generator=generator)
    return q.sample(noise, torch.rand(samples, B, dtype=q.mean.dtype, generator=generator))


def decode(z: Tensor) -> Tensor:
    mean: Tensor = z @ W.T + BIAS
    return mean


def test_on_a_linear_gaussian_model_the_fit_is_the_posterior_and_every_weight_is_p_of_x() -> None:
    pilots = torch.randn(50, K, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    fit = FittedProposals(
        decode,
        LIKELIHOOD,
        BestPilots(decode, LIKELIHOOD, pilots),
        widen=1.0,
        prior_weight=1e-30,
    )
    x = X.expand(3, -1)
    q = fit(x)
    mean, log_sigma = posterior()
    torch.testing.assert_close(q.mean[:-1], mean.expand(4, 3, K), atol=1e-9, rtol=0)
    covariance = torch.linalg.inv(q.factor[0] @ q.factor[0].mT)
    torch.testing.assert_close(covariance, torch.diag((2 * log_sigma).exp()).expand(3, K, K), atol=1e-9, rtol=0)
    z = draw(q, 100)
    log_w = LIKELIHOOD.log_prob(z @ W.T + BIAS, x) + standard_normal_log_prob(z) - q.log_prob(z)
    torch.testing.assert_close(log_w, log_p().expand(100, 3), atol=1e-8, rtol=0)


class _Pixels:
    """A Bernoulli model whose posteriors are narrow and have several modes."""

    def __init__(self, dim: int, pixels: int = 12) -> None:
        torch.manual_seed(0)
        self.decoder = MLP(dim, pixels, hidden=[16], activation="Tanh")
        for layer in self.decoder:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=1.5)
        self.likelihood, self.dim = Bernoulli(), dim
        z = torch.randn(40, dim)
        self.x = self.likelihood.sample(self.decode(z), torch.Generator().manual_seed(1))

    def decode(self, z: Tensor) -> Tensor:
        with torch.no_grad():
            decoded: Tensor = self.decoder(z)
        return decoded

    def bound(self, samples: int, seed: int, widen: float = 1.2) -> Tensor:
        pilots = torch.randn(200, self.dim, generator=torch.Generator().manual_seed(7))
        fit = FittedProposals(
            self.decoder, self.likelihood, BestPilots(self.decoder, self.likelihood, pilots), widen=widen
        )
        q = fit(self.x)
        z = draw(q, samples, seed)
        log_lik = self.likelihood.log_prob(self.decode(z), self.x)
        return iw_elbo(log_lik + standard_normal_log_prob(z) - q.log_prob(z))


def test_the_bound_reaches_quadrature_and_stays_below_it() -> None:
    model = _Pixels(2)
    exact = GridQuadrature(model.decode, model.likelihood.log_prob, 2, spacing=0.02).measure(model.x)[0]
    gap = exact - torch.stack([model.bound(2000, seed) for seed in range(20)])
    bias = gap.var(0) / 2  # of the logarithm of an average
    assert ((gap.mean(0) - bias).abs() < 4 * gap.std(0) / 20**0.5).all()
    assert (gap.std(0) < 0.1).all()
    loose = torch.stack([model.bound(2, seed) for seed in range(200)])
    gap = exact - loose
    assert (gap.mean(0) > -3 * gap.std(0) / 200**0.5).all()
    assert gap.mean() > 0.05


def test_it_beats_as_many_prior_samples_by_nats_in_more_dimensions() -> None:
    model = _Pixels(6, pixels=200)
    z = torch.randn(500, 40, 6, generator=torch.Generator().manual_seed(0))
    of_prior = iw_elbo(model.likelihood.log_prob(model.decode(z), model.x))
    assert model.bound(500, 0).mean() > of_prior.mean() + 3


def test_the_fit_works_in_inference_mode_with_activations_that_write_over_their_input() -> None:
    torch.manual_seed(0)
    decoder, likelihood = MLP(3, 12, hidden=[8], activation="ELU"), Bernoulli()
    x = torch.randint(2, (5, 12)).float()
    with torch.inference_mode():
        q = FittedProposals(decoder, likelihood, BestPilots(decoder, likelihood, torch.randn(20, 3)))(x)
    assert q.mean.shape == (5, 5, 3)
    assert bool(torch.stack([part.isfinite().all() for part in (q.log_weight, q.mean, q.factor)]).all())


def test_a_mixture_integrates_to_one_and_is_sampled_as_it_says() -> None:
    generator = torch.Generator().manual_seed(0)
    A = torch.randn(3, 1, 2, 2, generator=generator, dtype=torch.float64)
    factor = torch.linalg.cholesky(A @ A.mT + torch.eye(2))
    weight = torch.tensor([[0.5], [0.3], [0.2]], dtype=torch.float64)
    q = Mixture(weight.log(), torch.randn(3, 1, 2, generator=generator, dtype=torch.float64), factor)
    axis = torch.arange(-12, 12, 0.02, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis).unsqueeze(1)
    density = q.log_prob(grid).exp() * 0.02**2
    assert math.isclose(float(density.sum()), 1, abs_tol=1e-9)
    z = draw(q, 100_000)
    for power in (1, 2):
        exact = (density.unsqueeze(-1) * grid**power).sum(0)
        sampled = z**power
        assert_within(sampled, exact, 4)


@pytest.mark.parametrize(
    ("likelihood", "parameters"),
    [
        (Bernoulli(), torch.tensor([[-2.0, 0.3, 1.5]])),
        (Gaussian(0.4), torch.tensor([[-0.5, 0.0, 0.7]])),
        (PixelwiseGaussian(0.3), torch.tensor([[-0.5, 0.2, -3.0, 0.4]])),
    ],
)
def test_information_is_the_mean_square_of_the_score(likelihood: Likelihood, parameters: Tensor) -> None:
    n = 200_000
    given = parameters.expand(n, -1)
    x = likelihood.sample(given, torch.Generator().manual_seed(0))
    leaf = given.clone().requires_grad_()
    likelihood.log_prob(leaf, x).sum().backward()
    assert leaf.grad is not None
    square = leaf.grad.square()
    assert_within(square, likelihood.information(parameters)[0], 4)


PRIORS: dict[str, Callable[[int], Prior]] = {
    "standard normal": StandardNormal,
    "flow": lambda K: FlowPrior(K, hidden=(8,)),
    "VampPrior": lambda K: VampPrior(K, 5),
}


def small(fan_in: int, fan_out: int) -> MLP:
    return MLP(fan_in, fan_out, hidden=[8], activation="Tanh")


def with_an_encoder(prior: str, posterior: Any = GaussianPosterior) -> GaussianVAE:
    """An encoder that is far too sure of what it does not know, and a decoder that says much of z.

    (A VampPrior is made of what the encoder says: it is to be less sure.)
    """
    torch.manual_seed(3)
    model = GaussianVAE(2, data_dim=12, encoder=small, decoder=small, prior=PRIORS[prior], posterior=posterior)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "decoder" in name and parameter.ndim == 2:
                parameter.mul_(2)
        # log σ, or what softplus makes σ of
        list(model.encoder.parameters())[-1][2:4] = -1.5 if prior == "VampPrior" else -3
    return model.requires_grad_(False)


def values(evaluator: FittedFromEncoder, model: GaussianVAE, x: Tensor, seed: int = 0) -> dict[str, Tensor]:
    given = Given(model.model, model.propose(x), Batch.of(x), torch.Generator().manual_seed(seed))
    return {measured.name: measured.values for measured in evaluator.measure(given)}


@pytest.mark.parametrize(
    ("prior", "posterior"),
    [*((prior, GaussianPosterior) for prior in PRIORS), *((p, InverseAutoregressiveFlow) for p in list(PRIORS)[:2])],
)
def test_from_an_encoder_the_bound_reaches_log_p_and_stays_below_it(prior: str, posterior: Any) -> None:
    model = with_an_encoder(prior, posterior=posterior)
    x = model.model.sample(30, torch.Generator().manual_seed(1)).x
    axis = torch.arange(-8, 8, 0.1)
    grid = torch.cartesian_prod(axis, axis).unsqueeze(1)
    log_lik, log_prior = model.model.log_joint(x, grid)
    exact = (log_lik + log_prior + 2 * math.log(0.1)).logsumexp(0)
    evaluator, name = FittedFromEncoder(samples=1000), "log p(x) ≥ L_1000 (fitted proposals)"
    gap = exact - torch.stack([values(evaluator, model, x, seed)[name] for seed in range(20)])
    bias = gap.var(0) / 2  # of the logarithm of an average
    assert ((gap.mean(0) - bias).abs() < 4 * gap.std(0) / 20**0.5 + 1e-4).all()
    assert gap.mean() < 0.02
    of_encoder = iw_elbo(model.model.log_weights(x, model.propose(x), 1000, torch.Generator().manual_seed(0)))
    assert (exact - of_encoder).mean() > (0.01 if prior == "VampPrior" else 0.5)


def test_it_stands_beside_the_encoders_own_bound(tmp_path: Path) -> None:
    model = with_an_encoder("standard normal")
    model.settings = EvaluationSettings(samples=40, evaluators=[FittedFromEncoder(samples=30)])
    x = torch.randint(2, (20, 12), generator=torch.Generator().manual_seed(0)).float()
    small_trainer(tmp_path).test(model, DataLoader(TensorDataset(x), batch_size=10))
    found = {quantity.name: quantity for quantity in model.evaluation}
    for name, samples in (("log p(x) ≥ L_40", 40), ("log p(x) ≥ L_30 (fitted proposals)", 30)):
        assert (found[name].kind, found[name].samples, found[name].images) == ("lower bound", samples, 20)
    for name in ("effective sample size", "Pareto k of the weights"):
        assert found[name].samples == 40
        assert found[f"{name} (fitted proposals)"].samples == 30


def test_a_given_one_takes_the_place_of_the_tests_own(tmp_path: Path) -> None:
    model = GaussianVAE(3, data_dim=12, encoder=small, decoder=small)
    model.settings = EvaluationSettings(samples=40, evaluators=[FittedFromEncoder(samples=30)])
    x = torch.randint(2, (20, 12), generator=torch.Generator().manual_seed(0)).float()
    small_trainer(tmp_path).test(model, DataLoader(TensorDataset(x), batch_size=10))
    found = {quantity.name: quantity for quantity in model.evaluation}
    fitted = [name for name in found if "fitted" in name]
    assert [name for name in fitted if "L_" in name] == [
        "log p(x) ≥ L_30 (fitted proposals)",
        "error of L_30 (fitted proposals)",
        "log p(x) − ELBO ≥ L_30 (fitted proposals) − ELBO",
    ]
    assert next(iter(found)) == fitted[0]  # what a test leads with
    assert all(found[name].images == 20 for name in fitted)


def test_the_error_of_a_bound_is_what_it_lacks() -> None:
    """On a model whose log p(x) is known: L_S + its error is log p(x), up to their noise."""
    model = with_an_encoder("standard normal")
    x = model.model.sample(30, torch.Generator().manual_seed(1)).x
    evaluator = FittedFromEncoder(samples=8, rates=(0.3,), widen=2.0)
    runs = [values(evaluator, model, x, seed) for seed in range(200)]
    lacking = torch.stack([run["error of L_8 (fitted proposals)"] for run in runs]).mean(0)
    best = values(FittedFromEncoder(samples=20_000), model, x)["log p(x) ≥ L_20000 (fitted proposals)"]
    gap = best - torch.stack([run["log p(x) ≥ L_8 (fitted proposals)"] for run in runs]).mean(0)
    assert float(gap.mean()) > 0.01
    assert float(lacking.mean() / gap.mean()) == pytest.approx(1, abs=0.25)


def test_a_prior_of_positive_numbers_is_not_served() -> None:
    assert FittedFromEncoder().lacks(ExponentialPosterior().model) == "a prior of all real numbers"
