"""Backward passes through the samples that carry weight: the gradient of all samples, for less."""

import copy
import itertools
from pathlib import Path
from typing import Any, ClassVar, get_args

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lvm_lightning.data.loader import Batch
from lvm_lightning.densities import (
    ContinuousBernoulli,
    Gaussian,
    InverseAutoregressiveFlow,
    PixelwiseGaussian,
    VampPrior,
)
from lvm_lightning.modules import GaussianVAE, PriorIWAE
from lvm_lightning.modules import skipping as steps
from lvm_lightning.modules.base import LatentVariableModule
from lvm_lightning.networks import MLP
from lvm_lightning.objectives import CUBO, DecoderBound, Estimator, Jackknife, Renyi, iw_elbo
from lvm_lightning.support import skipping
from lvm_lightning.support.randomness import generator_for
from lvm_lightning.support.skipping import NEGLIGIBLE, Skipping, rounded_up
from tests.conftest import assert_within
from tests.small import small_trainer

D, B = 40, 10


class Counting(nn.Module):
    """A network that counts the points that it maps, with and without a graph."""

    points: ClassVar[dict[bool, int]]

    def __init__(self, fan_in: int, fan_out: int) -> None:
        super().__init__()
        self.network = MLP(fan_in, fan_out, hidden=(16,))
        Counting.points = {True: 0, False: 0}

    def forward(self, z: Tensor) -> Tensor:
        Counting.points[torch.is_grad_enabled()] += z.shape[:-1].numel()
        mapped: Tensor = self.network(z)
        return mapped


def network(fan_in: int, fan_out: int) -> MLP:
    return MLP(fan_in, fan_out, hidden=(16,))


def sharp(model: LatentVariableModule) -> LatentVariableModule:
    """With a decoder whose likelihoods differ by many nats from sample to sample, as a trained one's do."""
    with torch.no_grad():
        for parameter in model.model.decoder.parameters():
            parameter.mul_(6)
    return model.double()


def vae(**options: Any) -> LatentVariableModule:
    torch.manual_seed(1)
    return sharp(GaussianVAE(latent_dim=4, data_dim=D, encoder=network, decoder=Counting, **options))


def batch() -> Batch:
    return Batch.of(torch.randint(2, (B, D), generator=torch.Generator().manual_seed(2)).double())


def gradient(model: LatentVariableModule, x: Batch, step: int = 0) -> dict[str, Tensor]:
    model = copy.deepcopy(model)
    model.noise_seed = step
    output = model.training_step(x, 0)
    assert isinstance(output, dict)
    output["loss"].backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def distance(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Norm of the difference, as a share of the gradient's."""
    assert found.keys() == expected.keys()
    off, whole = (
        torch.stack([t.norm() for t in tensors]).norm()
        for tensors in ([found[n] - expected[n] for n in found], expected.values())
    )
    return float(off / whole)


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small batches skip too."""
    monkeypatch.setattr(steps, "LEAST", 1)


BOUNDS = {"L_N": iw_elbo, "Rényi": Renyi(0.5), "CUBO": CUBO(2), "jackknife": Jackknife(1)}


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("decoder_bound", get_args(DecoderBound))
@pytest.mark.parametrize("estimator", get_args(Estimator))
@pytest.mark.parametrize(("J", "N"), [(1, 64), (4, 16)])
def test_the_gradient_is_that_of_all_samples(
    J: int, N: int, estimator: Estimator, decoder_bound: DecoderBound, bound: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for warmup in (0, 0.5):  # a KL weight of 1, and of 0.2
        model = vae(
            outer_samples=J, inner_samples=N, bound=BOUNDS[bound], estimator=estimator, decoder_bound=decoder_bound,
            kl_warmup=warmup,
        )  # fmt: skip
        model.training_steps = 10
        expected = gradient(model, batch())
        monkeypatch.setattr(steps, "LEAST", 1)
        assert distance(gradient(model, batch()), expected) < 1e-5
        monkeypatch.undo()


LIKELIHOODS = {
    "continuous Bernoulli": ContinuousBernoulli,
    "Gaussian": lambda: Gaussian(learn_sigma=True),
    "pixelwise Gaussian": PixelwiseGaussian,
}


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_a_likelihoods_own_parameters_get_their_gradient(likelihood: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = vae(inner_samples=32, likelihood=LIKELIHOODS[likelihood], posterior=InverseAutoregressiveFlow)
    expected = gradient(model, batch())
    monkeypatch.setattr(steps, "LEAST", 1)
    assert distance(gradient(model, batch()), expected) < 1e-5


def test_a_prior_that_uses_the_encoder_gets_its_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    model = vae(inner_samples=32, prior=lambda K: VampPrior(K, 4))
    expected = gradient(model, batch())
    monkeypatch.setattr(steps, "LEAST", 1)
    assert distance(gradient(model, batch()), expected) < 1e-5


def test_roulette_is_refused_where_points_are_shared() -> None:
    with pytest.raises(ValueError, match=r"^roulette: needs points of each image's own, got 0.05 .*share_points to f"):
        PriorIWAE(roulette=0.05)
    assert PriorIWAE(roulette=0.05, share_points=False).roulette == 0.05


@pytest.mark.usefixtures("always")
def test_few_samples_are_evaluated_with_a_graph() -> None:
    model = sharp(PriorIWAE(latent_dim=2, inner_samples=256, share_points=False, decoder=Counting, data_dim=D))
    gradient(model, batch())
    assert Counting.points[False] == B * 256
    assert 0 < Counting.points[True] < B * 256 / 8


@pytest.mark.parametrize("m", [0, 1, 15, 31, 32, 33, 1000, 1343, 12_500])
def test_kept_samples_come_in_few_numbers_and_the_added_ones_carry_nothing(m: int) -> None:
    index, cotangent = torch.arange(m).flip(0) + 7, torch.rand(m) + 1
    more_index, more = rounded_up(index, cotangent)
    assert m <= len(more) <= m * 17 / 16
    assert f"{len(more):b}"[5:].count("1") == 0
    assert torch.equal(more[:m], cotangent)
    assert torch.equal(more_index[:m], index)
    assert not more[m:].any()
    assert set(more_index.tolist()) == set(index.tolist())


@pytest.mark.usefixtures("always")
def test_where_every_sample_matters_a_first_small_portion_tells_so() -> None:
    model = PriorIWAE(inner_samples=64, share_points=False, decoder=Counting, data_dim=D)  # fresh: weights are alike
    gradient(model.double(), batch())
    assert Counting.points == {False: 64, True: B * 64}  # one image is evaluated twice


@pytest.mark.usefixtures("always")
def test_a_model_that_has_use_for_its_samples_is_looked_at_again_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    model = PriorIWAE(inner_samples=64, share_points=False, decoder=Counting, data_dim=D).double()
    looked = []
    for step in range(2 * steps.AGAIN + 1):
        monkeypatch.setattr(PriorIWAE, "global_step", step)
        before = Counting.points[False]
        model.training_step(batch(), 0)
        looked += [step] if Counting.points[False] > before else []
    assert looked == [0, steps.AGAIN, 2 * steps.AGAIN]


def test_a_resumed_run_knows_whether_to_look(tmp_path: Path) -> None:
    """A sharp model looks at each step, a fresh one does not; both go on so."""
    for kept in (0.01, 0.9):
        model = PriorIWAE(inner_samples=4, data_dim=D, decoder=network, output_bias="zero")
        trainer = small_trainer(tmp_path, max_steps=1, limit_val_batches=0)
        loader = DataLoader(TensorDataset(batch().x.float()), batch_size=B)
        trainer.fit(model, loader, loader)
        model.kept.share = kept
        trainer.save_checkpoint(tmp_path / "some.ckpt")
        resumed = PriorIWAE(inner_samples=4, data_dim=D, decoder=network, output_bias="zero")
        resumed.on_load_checkpoint(torch.load(tmp_path / "some.ckpt", weights_only=True))
        assert resumed.kept.share == round(kept)
        resumed.on_load_checkpoint({})  # one that was written before
        assert resumed.kept.share == 0


def test_portions_are_larger_where_few_samples_get_a_graph() -> None:
    x = Batch.of(torch.randint(2, (64, D), generator=torch.Generator().manual_seed(3)).double())
    for make, portions in ((sharp, 1), (lambda model: model.double(), 4)):  # of 15.5 images for each of 256 samples
        model = make(PriorIWAE(latent_dim=2, inner_samples=256, share_points=False, decoder=Counting, data_dim=D))
        sizes: list[int] = []
        model.model.decoder.register_forward_pre_hook(
            lambda _, given, sizes=sizes: sizes.append(len(given[0])) if torch.is_grad_enabled() else None
        )
        model.training_step(x, 0)
        assert len(sizes) == 1 + portions  # the small one at first


def test_few_samples_in_all_are_left_to_autograd() -> None:
    for options in ({"inner_samples": 4}, {"inner_samples": 64}):
        gradient(vae(**options), batch())
        assert Counting.points[False] == 0


@pytest.mark.usefixtures("always")
def test_a_bfloat16_network_gets_the_gradient_of_all_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Autocast keeps weights that it has converted: without a graph at first, they would be found without one later."""
    model = vae(inner_samples=64).float()
    x = batch()._replace(x=batch().x.float())
    for pays in (1.0, -1.0):  # always, and in the first portion alone
        monkeypatch.setattr(skipping, "PAYS", pays)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = gradient(model, x)
        with monkeypatch.context() as whole, torch.autocast("cpu", dtype=torch.bfloat16):
            whole.setattr(steps, "LEAST", 10**9)
            assert distance(found, gradient(model, x)) < 0.02


def test_what_is_left_out_is_negligible() -> None:
    cotangent = torch.randn(50, 20, dtype=torch.float64).mul(10).exp()
    index, kept = Skipping(0.0, torch.Generator()).choose(cotangent)
    assert len(index) < 1000
    assert torch.equal(kept, cotangent.flatten()[index])
    assert cotangent.sum() - kept.sum() <= NEGLIGIBLE * cotangent.sum()


def test_what_is_not_a_number_is_not_left_out() -> None:
    for roulette in (0.0, 0.1):
        for value in (torch.nan, torch.inf):
            cotangent = torch.full((9, 2), 1e-9)
            cotangent[3, 1] = value
            _, kept = Skipping(roulette, torch.Generator()).choose(cotangent)
            assert not kept.isfinite().all()


@pytest.mark.usefixtures("always")
def test_an_infinite_bound_has_an_infinite_gradient() -> None:
    model = vae(inner_samples=16)
    with torch.no_grad():
        next(model.model.decoder.parameters()).fill_(torch.nan)
    assert not all(g.isfinite().all() for g in gradient(model, batch()).values())


def test_russian_roulette_has_the_cotangents_expectation() -> None:
    cotangent = torch.linspace(-1, 1, 60, dtype=torch.float64).pow(3).view(20, 3)
    draws = torch.zeros(4000, cotangent.numel(), dtype=torch.float64)
    chance = Skipping(0.2, torch.Generator().manual_seed(1))
    for draw in draws:
        index, kept = chance.choose(cotangent)
        draw[index] = kept
    share = cotangent.abs() / (0.2 * cotangent.abs().sum(0))
    sometimes = ((share > 0.01) & (share < 1)).flatten()
    assert_within(draws[:, sometimes], cotangent.flatten()[sometimes], errors=4)
    torch.testing.assert_close(draws[:, (share >= 1).flatten()], cotangent[share >= 1].expand(4000, -1))
    assert len(index) < 40


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("estimator", get_args(Estimator))
def test_russian_roulette_is_unbiased(estimator: Estimator, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the same samples of z, so that all noise is the roulette's; along the gradient, where it adds up."""
    model, x = vae(inner_samples=32, estimator=estimator), batch()
    expected = torch.cat([g.flatten() for g in gradient(model, x).values()])
    along = []
    for repeat in range(100):
        chance = Skipping(0.3, generator_for(repeat, "roulette", 0))
        monkeypatch.setattr(model, "skipping", lambda _, chance=chance: chance)
        found = torch.cat([g.flatten() for g in gradient(model, x).values()])
        along.append(found @ expected / expected.square().sum())
    assert_within(torch.stack(along).unsqueeze(-1), 1.0, errors=3.5)
    assert 1e-4 < torch.stack(along).std() < 0.2


@pytest.mark.usefixtures("always")
def test_roulette_is_a_function_of_the_step() -> None:
    model = vae(inner_samples=32, roulette=0.3)
    assert distance(gradient(model, batch(), 1), gradient(model, batch(), 1)) == 0
    for first, second in itertools.combinations(range(3), 2):
        assert distance(gradient(model, batch(), first), gradient(model, batch(), second)) > 0
