"""Numbers that a processor computes slowly: denormal ones anywhere, and bfloat16 where it has no products of them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from counters import Denormals
from torch.nn.functional import softplus

from lvm_lightning.command import trainer
from lvm_lightning.data.loader import Batch
from lvm_lightning.densities import (
    Bernoulli,
    ContinuousBernoulli,
    FlowPrior,
    GaussianPosterior,
    InverseAutoregressiveFlow,
    PixelwiseGaussian,
    VampPrior,
)
from lvm_lightning.evaluation import Evaluator, Given
from lvm_lightning.evaluation.fitted import FittedImportance
from lvm_lightning.evaluation.quadrature import Exact
from lvm_lightning.evaluation.standard import ImportanceSampling
from lvm_lightning.modules import GaussianVAE, PriorIWAE
from lvm_lightning.modules.base import LatentVariableModule
from lvm_lightning.networks import MLP
from lvm_lightning.objectives import CUBO, Jackknife, Renyi
from lvm_lightning.support.log_space import log_sum_exp, normalised_weights, without_tiny
from lvm_lightning.support.processor import has_bfloat16

D, B = 784, 20


def network(fan_in: int, fan_out: int) -> MLP:
    return MLP(fan_in, fan_out, hidden=(64,), activation="Tanh")


def sharp(model: LatentVariableModule) -> LatentVariableModule:
    """With logits as far from 0, and likelihoods as far from each other, as in a model that was trained for long."""
    with torch.no_grad():
        for parameter in model.model.decoder.parameters():
            parameter.mul_(40 / model.model.likelihood.parameters_per_pixel**3)
    return model


def batch() -> Batch:
    return Batch.of(torch.randint(2, (B, D), generator=torch.Generator().manual_seed(2)).float())


def activated(name: Any) -> Callable[[int, int], MLP]:
    return lambda fan_in, fan_out: MLP(fan_in, fan_out, hidden=(64, 64), activation=name)


PRIOR: dict[str, dict[str, Any]] = {
    "shared": {"inner_samples": 512},
    "own": {"inner_samples": 64, "share_points": False},
    "Jensen": {"outer_samples": 64, "inner_samples": 1},
    "Rényi": {"inner_samples": 64, "bound": Renyi(0.5)},
    "CUBO": {"inner_samples": 64, "bound": CUBO(2)},
    "SiLU": {"inner_samples": 512, "decoder": activated("SiLU")},
    "GELU": {"inner_samples": 512, "decoder": activated("GELU")},
    "Softplus": {"inner_samples": 512, "decoder": activated("Softplus")},
    "jackknife": {"inner_samples": 16, "bound": Jackknife(2)},
}
VAE: dict[str, dict[str, Any]] = {
    "IWAE": {"inner_samples": 50},
    "VAE": {},
    "doubly reparameterised": {"inner_samples": 50, "estimator": "doubly_reparameterised", "kl_warmup": 1.0},
    "pooled": {"outer_samples": 5, "inner_samples": 10, "decoder_bound": "pooled", "roulette": 0.05},
    "softplus": {"inner_samples": 8, "posterior": lambda K: GaussianPosterior(K, "softplus")},
    "flows": {"inner_samples": 8, "posterior": InverseAutoregressiveFlow, "prior": FlowPrior},
    "VampPrior": {"inner_samples": 8, "prior": lambda K: VampPrior(K, 9)},
    "pixelwise": {"inner_samples": 8, "likelihood": PixelwiseGaussian},
    "continuous": {"inner_samples": 8, "likelihood": ContinuousBernoulli},
}


def model_of(kind: str) -> LatentVariableModule:
    torch.manual_seed(0)
    if kind in PRIOR:
        return sharp(PriorIWAE(**({"decoder": network} | PRIOR[kind])))
    model = sharp(GaussianVAE(latent_dim=8, encoder=network, decoder=network, **VAE[kind]))
    model.training_steps = 10  # as a trainer would say: a warm-up of 10 steps
    return model


@pytest.mark.parametrize("kind", [*PRIOR, *VAE])
def test_a_sharp_models_step_has_no_denormals(kind: str) -> None:
    model, counted = model_of(kind), Denormals()
    with counted:
        output = model.training_step(batch(), 0)
        assert isinstance(output, dict)
        output["loss"].backward()
    assert counted.found == {}
    assert counted.seen > 10**5
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_the_count_finds_them() -> None:
    with Denormals() as counted:
        torch.full((3,), -90.0).exp()
    assert counted.found == {"aten.exp.default": 3}


EVALUATORS: dict[str, Callable[[], Evaluator]] = {
    "importance sampling": lambda: ImportanceSampling(100, 1.0),
    "quadrature": lambda: Exact(0.2),
    "fitted proposals": lambda: FittedImportance(50, torch.Generator().manual_seed(0)),
}


@pytest.mark.parametrize("name", EVALUATORS)
def test_an_evaluation_has_none(name: str) -> None:
    model, evaluator, counted = (
        model_of("own" if name != "importance sampling" else "IWAE"),
        EVALUATORS[name](),
        Denormals(),
    )
    given = Given(model.model, model.propose(batch().x), batch(), torch.Generator().manual_seed(0))
    with counted, torch.no_grad():
        found = list(evaluator.measure(given))
    assert counted.found == {}
    assert all(measured.values.isfinite().all() for measured in found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sums_of_exponentials_keep_their_digits(dtype: torch.dtype) -> None:
    log_w = (300 * torch.randn(500, 40, dtype=torch.float64)).to(dtype)
    rounding = torch.finfo(dtype).eps
    oracle = log_w.double()
    torch.testing.assert_close(log_sum_exp(log_w, 0).double(), oracle.logsumexp(0), rtol=rounding, atol=0)
    weights = normalised_weights(log_w, 0)
    torch.testing.assert_close(weights.double(), oracle.softmax(0), rtol=0, atol=2 * rounding)
    assert weights.min() > rounding**2 / 10


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cut_logits_change_no_likelihood(dtype: torch.dtype) -> None:
    """By the bound that chooses where to cut: 784 pixels move by less than 2e-6 nats, and 1e-15 in float64."""
    rounding = torch.finfo(dtype).eps
    logits = torch.linspace(-100, 20, 784 * 50).flip(0).view(784, 50).mT.to(dtype)
    for x in (torch.zeros(50, 784), torch.ones(50, 784)):
        exact = (x * logits.double() - softplus(logits.double())).sum(-1)
        found = Bernoulli().log_prob(logits, x.to(dtype)).double()
        assert ((found - exact).abs() < 784 * rounding / 50 + 8 * rounding * exact.abs()).all()
    low = torch.full((1, 784), -30.0, dtype=torch.float64)
    assert 0 < -Bernoulli().log_prob(low.to(dtype), torch.zeros(1, 784, dtype=dtype)).item() < 2e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("pixels", [1, 2, 6, 12, 64, 783, 784])
@pytest.mark.parametrize("largest", [-17.0, 5.0, 15.0, 30.0, 60.0, 100.0])
def test_pixels_that_share_a_logarithm(largest: float, pixels: int, dtype: torch.dtype) -> None:
    """Whatever number of pixels is multiplied, the sum is that of softplus, and no product overflows.

    Among the lowest are logits whose e^l is too small to change 1: it is not lost.
    """
    logits = torch.rand(20, pixels, dtype=torch.float64) * -abs(largest) / 2 + largest
    logits[0] = largest
    exact = torch.logaddexp(logits.to(dtype).double(), torch.zeros(())).sum(-1)
    found = -Bernoulli().log_prob(logits.to(dtype), torch.zeros(20, pixels, dtype=dtype)).double()
    rounding = torch.finfo(dtype).eps
    assert ((found - exact).abs() <= pixels * rounding / 50 + 8 * rounding * exact).all()


@pytest.mark.parametrize("name", ["SiLU", "GELU", "Softplus"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cut_activations_are_far_below_the_rounding_of_1(name: Any, dtype: torch.dtype) -> None:
    x = torch.linspace(-100, 20, 2000, dtype=dtype)
    layer = activated(name)(1, 1)[1]
    inputs, given = x.clone().requires_grad_(), x.clone().requires_grad_()
    found, expected = layer(inputs + 0), getattr(torch.nn, name)()(given)
    bound = torch.finfo(dtype).eps / 50
    torch.testing.assert_close(found, expected, rtol=0, atol=bound)
    slopes = [torch.autograd.grad(value.sum(), leaf)[0] for value, leaf in ((found, inputs), (expected, given))]
    torch.testing.assert_close(*slopes, rtol=0, atol=bound)


def test_infinite_cotangents_stay() -> None:
    for cotangent, expected in [
        (torch.tensor([torch.inf, 1.0, 1e-30]), [torch.inf, 0, 0]),
        (torch.tensor([-1.0, 1e-10, 1e-20]), [-1, pytest.approx(1e-10), 0]),
    ]:
        assert without_tiny(cotangent, cotangent, torch.float32).tolist() == expected
    cotangent = torch.tensor([torch.nan, 1.0])
    assert without_tiny(cotangent, cotangent, torch.float32).isnan().any()


@pytest.mark.parametrize("bfloat16", [True, False])
@pytest.mark.parametrize("accelerator", ["cpu", "auto"])
def test_bfloat16_is_float32_on_a_processor_without_its_products(
    bfloat16: bool, accelerator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "has_bfloat16", lambda device: bfloat16)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    told: list[str] = []
    monkeypatch.setattr(trainer, "rank_zero_info", told.append)
    made = trainer.Trainer(precision="bf16-mixed", accelerator=accelerator, logger=False)
    assert made.precision == ("bf16-mixed" if bfloat16 else "32-true")
    assert ["this processor has no bfloat16 products" in line for line in told] == [True] * (not bfloat16)


def test_other_devices_keep_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "has_bfloat16", lambda device: False)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert trainer.precision_here("bf16-mixed", "auto") == "bf16-mixed"
    assert trainer.precision_here("bf16-mixed", "gpu") == "bf16-mixed"
    assert has_bfloat16("cuda")
