"""GaussianVAE: its numbers are bounds whatever trains it, and the options change what they say and nothing else."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lvm_lightning.callbacks import EvaluationReport
from lvm_lightning.data.loader import Batch, ImageSet
from lvm_lightning.densities import (
    DiagonalGaussian,
    FlowPrior,
    Gaussian,
    GaussianPosterior,
    InverseAutoregressiveFlow,
    PixelwiseGaussian,
)
from lvm_lightning.evaluation import EvaluationSettings, Measured
from lvm_lightning.evaluation.diagnostics import active_units, activity
from lvm_lightning.modules import GaussianVAE
from lvm_lightning.networks import MLP, ConvDecoder, ConvEncoder
from lvm_lightning.objectives import Renyi, elbo, iw_elbo, nested
from lvm_lightning.objectives.estimators import Estimator
from tests.conftest import assert_within
from tests.small import D, SmallImages, batch_of, images, small_trainer

K = 2
ESTIMATORS: tuple[Estimator, ...] = get_args(Estimator)


def network(fan_in: int, fan_out: int) -> nn.Module:
    return MLP(fan_in, fan_out, hidden=(32,), activation="Tanh")


def small_flow(latent_dim: int) -> InverseAutoregressiveFlow:
    return InverseAutoregressiveFlow(latent_dim, hidden=(8,))


def small_vae(**options: Any) -> GaussianVAE:
    torch.manual_seed(0)
    defaults: dict[str, Any] = {"latent_dim": K, "data_dim": D, "encoder": network, "decoder": network}
    model = GaussianVAE(**(defaults | options))
    model.training_steps = 10  # as a trainer would say
    return model


CASES: dict[str, dict[str, Any]] = {
    "elbo": {},
    "iwae": {"inner_samples": 8},
    "nested": {"outer_samples": 3, "inner_samples": 4},
    "renyi": {"inner_samples": 4, "bound": Renyi(0.5)},
    "pooled": {"outer_samples": 3, "inner_samples": 4, "decoder_bound": "pooled"},
    "flow": {"posterior": small_flow, "inner_samples": 4},
    "flow prior": {"prior": lambda dim: FlowPrior(dim, hidden=(8,))},
    "coupling prior": {"prior": lambda dim: FlowPrior(dim, hidden=(8,), kind="coupling")},
    "gaussian": {"likelihood": lambda: Gaussian(0.5, learn_sigma=True), "inner_samples": 4},
    "pixelwise": {"likelihood": PixelwiseGaussian},
}


def bound_by_hand(model: GaussianVAE, x: Tensor) -> Tensor:
    """The first training step's bound of each image, from the densities."""
    hidden = torch.rand(len(x), D, generator=model.noise("dropout", 0)) < model.encoder_dropout
    q = model.propose(x.masked_fill(hidden, 0) / (1 - model.encoder_dropout))
    noise = torch.randn(model.samples, len(x), K, generator=model.noise("train", 0))
    z, log_q = q.rsample(noise)
    log_w = model.model.likelihood.log_prob(model.model.decode(z), x) + model.model.prior.log_prob(z) - log_q
    if model.objective.decoder_bound == "pooled":
        return iw_elbo(log_w)
    return nested(model.objective.bound, log_w.view(model.J, model.N, -1))


@pytest.mark.parametrize("encoder_dropout", [0.0, 0.3])
@pytest.mark.parametrize("case", CASES)
def test_the_training_step_is_the_bound_whatever_the_estimator(case: str, encoder_dropout: float) -> None:
    x = images(6)
    for estimator in ESTIMATORS:
        model = small_vae(**CASES[case], estimator=estimator, encoder_dropout=encoder_dropout)
        output = model.training_step(batch_of(x), 0)
        expected = bound_by_hand(model, x).mean()
        torch.testing.assert_close(output["bound"], expected)
        torch.testing.assert_close(output["loss"], -expected)
        output["loss"].backward()
        missing = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
        assert not missing


@pytest.mark.parametrize("case", ["elbo", "flow"])
def test_the_encoders_mean_gradient_is_the_estimators_common_one(case: str) -> None:
    x = images(1).expand(2000, D)
    gradients = []
    for seed, estimator in enumerate(ESTIMATORS):
        model = small_vae(**CASES[case] | {"inner_samples": 1}, estimator=estimator)
        rows = []
        for step in range(20):
            model.noise_seed = 100 * step + seed
            loss = model.training_step(batch_of(x), 0)["loss"]
            layer = model.encoder[-1]  # type: ignore[index]
            rows.append(torch.autograd.grad(loss, layer.bias)[0])
        gradients.append(torch.stack(rows))
    for other in gradients[1:]:
        stderr = (gradients[0].var(0) / 20 + other.var(0) / 20).sqrt()
        assert ((gradients[0].mean(0) - other.mean(0)).abs() < 4 * stderr).all()


def test_warm_up_and_free_bits_change_the_loss_and_never_the_bound() -> None:
    x = batch_of(images(6))
    plain = small_vae().training_step(x, 0)
    warm = small_vae(kl_warmup=1.0).training_step(x, 0)
    free = small_vae(free_bits=3.0).training_step(x, 0)
    for output in (warm, free):
        assert torch.equal(output["bound"], plain["bound"])
        assert not torch.isclose(output["loss"], plain["loss"])
    model = small_vae(free_bits=3.0)
    q = model.propose(x.x)
    assert isinstance(q, DiagonalGaussian)
    kl = q.kl_per_dimension().mean(0)
    torch.testing.assert_close(free["loss"], plain["loss"] + (kl.clamp(min=3.0) - kl).sum())
    assert torch.equal(small_vae(free_bits=1e-6).training_step(x, 0)["loss"], plain["loss"])


def test_what_the_encoder_sees_is_a_function_of_the_step(tmp_path: Path) -> None:
    class Watched(GaussianVAE):
        def _seen(self, batch: Batch) -> Tensor:
            seen.append(super()._seen(batch))
            return seen[-1]

    kept = []
    for share in (0.5, 0.5, 1.0):
        seen: list[Tensor] = []
        torch.manual_seed(0)
        model = Watched(latent_dim=K, data_dim=D, encoder=network, decoder=network, encoder_dropout=share)
        small_trainer(tmp_path, max_steps=3, limit_val_batches=0).fit(model, SmallImages(batch_size=200))
        kept.append(torch.stack(seen))
    assert torch.equal(kept[0], kept[1])
    first, second = (kept[0][i] > 0 for i in (0, 1))
    assert not torch.equal(first, second)
    assert set(kept[0].unique().tolist()) == {0.0, 2.0}
    assert not kept[2].any()  # and nothing is divided by 0


def test_the_warm_up_ends(tmp_path: Path) -> None:
    weights: list[float] = []

    class Watched(GaussianVAE):
        def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
            weights.append(self.kl_weight)
            return super().training_step(batch, batch_idx)

    model = Watched(latent_dim=K, data_dim=D, encoder=network, decoder=network, kl_warmup=2 / 3)
    small_trainer(tmp_path, max_steps=6, limit_val_batches=0).fit(model, SmallImages(batch_size=100))
    assert weights == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_validation_reports_the_bound_and_not_the_loss(tmp_path: Path) -> None:
    reported = []
    for options in ({}, {"kl_warmup": 1.0}, {"free_bits": 2.0}, {"encoder_dropout": 0.5}):
        trainer = small_trainer(tmp_path)
        (result,) = trainer.validate(small_vae(**options), SmallImages(), verbose=False)
        reported.append(result)
    assert all(other == reported[0] for other in reported[1:])
    assert reported[0]["val/bound"] == pytest.approx(
        reported[0]["val/reconstruction"] - reported[0]["val/kl"], abs=1e-3
    )


@pytest.mark.parametrize("case", ["elbo", "iwae", "renyi", "flow"])
def test_the_test_reports_labelled_bounds_in_order_below_log_p(case: str, tmp_path: Path) -> None:
    """On a trained model with K = 2, where quadrature gives log p(x)."""
    model = small_vae(**CASES[case], optimizer=lambda p: torch.optim.Adam(p, lr=1e-2))
    data = SmallImages(batch_size=100)
    trainer = small_trainer(tmp_path, max_epochs=30, check_val_every_n_epoch=30)
    trainer.test(model, data, verbose=False)
    before = {q.name: q.value for q in model.evaluation}
    trainer.fit(model, data)
    (logged,) = trainer.test(model, data, verbose=False)
    found = {q.name: q for q in model.evaluation}
    assert len(found) == len(model.evaluation) == 11
    trained = next(q for q in model.evaluation if q.name.startswith(model.objective.bound.title))
    lower, reconstruction, kl = found["ELBO"], found["E_q log p(x|z)"], found["KL(q(z|x) ‖ p(z))"]
    tight, size, shape = found["log p(x) ≥ L_5000"], found["effective sample size"], found["Pareto k of the weights"]
    exact, error = found["log p(x) by quadrature"], found["error of the quadrature"]
    gap, units = found["log p(x) − ELBO"], found["active units"]
    assert 0 <= error.value < 1e-4
    with torch.no_grad():
        by_hand = model.log_marginal(data.splits["test"].images.float())
    assert by_hand is not None
    assert exact.value == pytest.approx(float(by_hand[0].mean()), abs=1e-5)
    assert error.value == pytest.approx(float(by_hand[1].mean()), abs=1e-6)
    assert trained.value > before[trained.name] + 0.5
    assert lower.value < tight.value < exact.value + 3 * 0.002
    assert exact.value - tight.value < 0.01  # 5,000 samples
    assert lower.value == pytest.approx(reconstruction.value - kl.value, abs=1e-4)
    assert gap.value == pytest.approx(exact.value - lower.value, abs=1e-6)
    assert lower.value - 0.2 < trained.value < tight.value
    assert kl.value > 0.1
    assert 100 < size.value < 5000
    assert shape.value < 1
    assert (lower.kind, kl.kind, exact.kind) == ("lower bound", "stochastic estimate", "exact")
    assert (tight.samples, trained.samples) == (5000, model.J * model.N)
    assert logged["test/iw_bound"] == pytest.approx(tight.value)
    assert {q.unit for q in (trained, lower, reconstruction, kl, tight, exact, gap)} == {"nats per image"}
    assert set(model.per_example) == {q.name for q in model.evaluation} - {units.name}
    assert (units.value, units.unit) == (2, "of 2 latent dimensions")
    assert float(model.per_example["ELBO"].mean()) == pytest.approx(lower.value)


@pytest.mark.parametrize("case", ["elbo", "flow"])
def test_a_dimension_whose_mean_does_not_follow_the_image_is_not_active(case: str, tmp_path: Path) -> None:
    """Of an encoder that is deaf in one of two dimensions, one is active; a flow's mean is taken from samples."""
    model = small_vae(**CASES[case])
    with torch.no_grad():
        assert isinstance(model.encoder, MLP)
        last = model.encoder[-1]
        assert isinstance(last, nn.Linear)
        last.weight[0], last.bias[0] = 0.0, 0.0
        last.weight[2:] = 0.0  # scales, and a flow's context
        last.weight[1] *= 5
        if case == "flow":
            for parameter in model.posterior.parameters():
                parameter.zero_()
    small_trainer(tmp_path).test(model, SmallImages(), verbose=False)
    (units,) = [q for q in model.evaluation if q.name == "active units"]
    assert (units.value, units.unit) == (1, "of 2 latent dimensions")
    assert (units.kind, units.samples) == (("exact", 0) if case == "elbo" else ("stochastic estimate", 1024))


def test_heavy_weights_are_warned_of_and_a_wider_proposal_lightens_them(tmp_path: Path) -> None:
    """An encoder whose scales are a tenth of what they should be."""
    values = {}
    for widen in (1.0, 10.0):
        model = small_vae(likelihood=lambda: Gaussian(1.0))
        model.settings = EvaluationSettings(samples=2000, widen=widen)
        with torch.no_grad():
            assert isinstance(model.encoder, MLP)
            last = model.encoder[-1]
            assert isinstance(last, nn.Linear)
            last.weight.zero_()
            last.bias.copy_(torch.tensor([0.0, 0.0, -2.3, -2.3]))  # K means, K log scales
        small_trainer(tmp_path).test(model, SmallImages(), verbose=False)
        values[widen] = {q.name: q.value for q in model.evaluation}
        (note,) = model.warnings or [""]  # of the encoder's own samples; the fitted ones never are
        assert ("Pareto k > 0.7" in note) == (widen == 1.0)
        assert values[widen]["effective sample size (fitted proposals)"] > 1900
    heavy, light = values[1.0], values[10.0]
    assert light["log p(x) ≥ L_2000"] > heavy["log p(x) ≥ L_2000"] + 0.1
    assert light["ELBO"] == heavy["ELBO"]  # of the proposal as it was trained
    assert light["effective sample size"] > 10 * heavy["effective sample size"]


class KilledError(Exception):
    """Stands for the end of the process."""


def test_a_test_that_was_killed_goes_on_from_its_finished_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data, computed = SmallImages(eval_batch_size=20), list[int]()
    measure = GaussianVAE.measure

    def counted(self: GaussianVAE, batch: Batch, batch_idx: int) -> list[Measured]:
        if batch_idx == 4 and kill.pop():
            raise KilledError
        computed.append(batch_idx)
        return measure(self, batch, batch_idx)

    def evaluate(folder: Path, **options: Any) -> list[float]:
        model = small_vae(**options)
        trainer = small_trainer(folder, callbacks=[EvaluationReport(samples=30)])
        trainer.test(model, data, verbose=False)
        return [q.value for q in model.evaluation]

    whole = evaluate(tmp_path / "whole")
    monkeypatch.setattr(GaussianVAE, "measure", counted)
    kill = [False, True]
    with pytest.raises(KilledError):
        evaluate(tmp_path / "killed")
    assert len(list((tmp_path / "killed" / "evaluation.part").iterdir())) == 4
    assert evaluate(tmp_path / "killed") == whole
    assert computed == [0, 1, 2, 3, 4, 5]
    assert "4 batches were taken over from a test that did not end" in capsys.readouterr().out
    assert not (tmp_path / "killed" / "evaluation.part").exists()
    computed.clear()
    kill += [False, True]
    with pytest.raises(KilledError):
        evaluate(tmp_path / "killed")
    evaluate(tmp_path / "killed", inner_samples=2)  # another question: nothing is taken over
    assert computed == [0, 1, 2, 3, *range(6)]


def test_predictions_are_bounds_and_posterior_means(tmp_path: Path) -> None:
    model, data = small_vae(inner_samples=4), SmallImages()
    predicted = small_trainer(tmp_path).predict(model, data)
    assert predicted is not None
    (output,) = predicted
    assert isinstance(output, dict)
    x = data.splits["test"].images.float()
    torch.testing.assert_close(output["z_mean"], model.propose(x).location.detach())
    assert output["bound"].shape == output["label"].shape == (103,)


def test_evaluation_in_chunks_takes_every_sample_once() -> None:
    model, batch = small_vae(), batch_of(images(6))
    q = model.propose(batch.x)
    model.model.at_a_time = 18
    terms = model.model.terms(batch.x, q, 7, model.noise("test", 0))
    assert terms.log_w.shape == (7, 6)
    generator = model.noise("test", 0)
    noise = torch.cat([torch.randn(n, 6, K, generator=generator) for n in (3, 3, 1)])
    z, log_q = q.rsample(noise)
    log_lik, log_prior = model.model.log_joint(batch.x, z)
    torch.testing.assert_close(terms.log_w, log_lik + log_prior - log_q)
    torch.testing.assert_close(elbo(terms.log_w), (log_lik + log_prior - log_q).mean(0))


@pytest.mark.parametrize("encoder_dropout", [0.0, 0.3])
def test_a_process_takes_its_rows_of_the_global_noise(encoder_dropout: float) -> None:
    model, x = small_vae(inner_samples=4, encoder_dropout=encoder_dropout), images(6)
    parts = [Batch(x[s : s + 3], torch.zeros(3, dtype=torch.uint8), s, 6) for s in (0, 3)]
    values = [model.training_step(part, 0)["bound"] for part in parts]
    torch.testing.assert_close(torch.stack(values).mean(), model.training_step(batch_of(x), 0)["bound"])


def test_evaluation_is_in_float32_whatever_trains(tmp_path: Path) -> None:
    model, data = small_vae(inner_samples=4), SmallImages()
    plain = small_trainer(tmp_path).test(model, data, verbose=False)
    mixed = small_trainer(tmp_path, precision="bf16-mixed").test(model, data, verbose=False)
    assert plain == mixed


def test_mixed_precision_trains_with_float32_densities(tmp_path: Path) -> None:
    model = small_vae(inner_samples=4, estimator="doubly_reparameterised")
    trainer = small_trainer(tmp_path, precision="bf16-mixed", max_steps=3, limit_val_batches=0)
    trainer.fit(model, SmallImages(batch_size=100))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        q = model.propose(images())
        log_lik, log_prior = model.model.log_joint(images(), q.rsample(torch.randn(2, 5, K))[0])
    assert log_lik.dtype == log_prior.dtype == torch.float32


def test_the_output_bias_can_start_from_the_pixel_means(tmp_path: Path) -> None:
    means: list[tuple[dict[str, Any], Callable[[Tensor], Tensor]]] = [
        ({}, torch.Tensor.sigmoid),
        ({"likelihood": PixelwiseGaussian}, torch.Tensor.clone),
    ]
    for options, mean in means:
        model, data = small_vae(output_bias="pixel_means", **options), SmallImages()
        small_trainer(tmp_path, max_steps=0).fit(model, data)
        bias = model.model.decoder[-1].bias[:D].detach()  # type: ignore[index]
        torch.testing.assert_close(mean(bias), data.pixel_mean())


# Data and requests that mean nothing


def test_grey_images_are_refused_by_bernoulli_and_taken_by_gaussian(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a Bernoulli likelihood needs binary images, got grey ones; set data.binar"):
        small_trainer(tmp_path, max_steps=1).fit(small_vae(), SmallImages(binarisation="none"))
    small_trainer(tmp_path, max_steps=1).fit(small_vae(likelihood=Gaussian), SmallImages(binarisation="none"))


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_values_that_a_plain_loader_brings_are_looked_at(tmp_path: Path) -> None:
    loader: DataLoader[Batch] = DataLoader([batch_of(images() * 0.5)], batch_size=None)  # type: ignore[arg-type]
    for call in ("fit", "validate", "test"):
        loaders = [loader, loader] if call == "fit" else [loader]
        with pytest.raises(ValueError, match=r"a Bernoulli likelihood needs binary images, got the value 0.5"):
            getattr(small_trainer(tmp_path, max_steps=1, num_sanity_val_steps=0), call)(small_vae(), *loaders)


class Categorical(GaussianPosterior):
    """Stands for a posterior without a path from noise to z."""

    reparameterised = False


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inner_samples": 0}, "^inner_samples: must be at least 1, got 0"),
        ({"bound": None}, r"bound: must say its kind, got None"),
        (
            {"posterior": Categorical, "estimator": "doubly_reparameterised"},
            "^estimator: doubly_reparameterised needs a reparameterised posterior, got Categorical; set",
        ),
        (
            {"posterior": small_flow, "free_bits": 0.1},
            "^free_bits: needs the closed-form KL of each dimension, got InverseAutoregressiveFlow and Standard",
        ),
        ({"prior": FlowPrior, "free_bits": 0.1}, "^free_bits: .* got GaussianPosterior and FlowPrior"),
    ],
)
def test_meaningless_requests_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small_vae(**options)


def test_an_order_that_is_no_bound_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^alpha: must be in \[0, 1\), got 1"):
        small_vae(bound=Renyi(1.0))


def test_an_output_bias_needs_a_linear_last_layer(tmp_path: Path) -> None:
    model = GaussianVAE(
        latent_dim=4, encoder=ConvEncoder, decoder=ConvDecoder, likelihood=Gaussian, output_bias="pixel_means"
    )

    class Grey(SmallImages):
        image_shape = (28, 28)

        def setup(self, stage: str | None = None) -> None:
            self.splits = {s: ImageSet(torch.zeros(300, 784, dtype=torch.uint8), torch.zeros(300)) for s in self._SETS}

        _SETS = ("train", "val", "test")

    with pytest.raises(ValueError, match=r"^output_bias: 'pixel_means' needs a decoder that ends in a linear lay"):
        small_trainer(tmp_path, max_steps=1).fit(model, Grey(binarisation="none"))


# System 7: the four corrections, each against the source's form


def system_7(batch: int = 3) -> tuple[GaussianVAE, Tensor]:
    torch.manual_seed(0)
    model = GaussianVAE(latent_dim=32, encoder=ConvEncoder, decoder=ConvDecoder, likelihood=Gaussian)
    return model, 2 * torch.rand(batch, 784) - 1


def by_torch_distributions(model: GaussianVAE, x: Tensor) -> Tensor:
    """The ELBO of each image at the first step's noise, from torch's distributions."""
    q = model.propose(x)
    assert isinstance(q, DiagonalGaussian)
    z = q.mean + q.log_sigma.exp() * torch.randn(1, len(x), 32, generator=model.noise("train", 0))
    normal = torch.distributions.Normal
    log_lik = normal(model.model.decode(z), 1.0).log_prob(x).sum(-1)
    log_prior = normal(0.0, 1.0).log_prob(z).sum(-1)
    log_q = normal(q.mean, q.log_sigma.exp()).log_prob(z).sum(-1)
    value: Tensor = (log_lik + log_prior - log_q).squeeze(0)
    return value


def test_system_7_is_the_elbo_of_torch_distributions() -> None:
    model, x = system_7()
    bound = model.training_step(batch_of(x), 0)["bound"]
    torch.testing.assert_close(bound, by_torch_distributions(model, x).mean(), atol=1e-3, rtol=0)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_a_log_q_subtracts_the_sum_of_log_sigma(sign: float) -> None:
    """The source adds |Σ log σ|, which is that only while the sum is negative."""
    eps, log_sigma = torch.randn(5, 1, 4), sign * torch.tensor([[1.0, -0.5, 2.0, 0.2]])
    _, log_q = DiagonalGaussian(torch.zeros(1, 4), log_sigma).rsample(eps)
    standard = torch.distributions.Normal(0.0, 1.0).log_prob(eps).sum(-1)
    torch.testing.assert_close(log_q, standard - log_sigma.sum(-1))
    source = standard + log_sigma.sum(-1).abs()
    assert torch.isclose(log_q, source).all() == (sign < 0)


def test_b_every_normalising_constant_is_in_the_number() -> None:
    """The source's squared error alone is 720.4 nats above."""
    model, x = system_7()
    q = model.propose(x)
    z = q.rsample(torch.randn(1, 3, 32))[0]
    log_lik = model.model.log_joint(x, z)[0]
    without = -0.5 * (x - model.model.decode(z)).square().sum(-1)
    torch.testing.assert_close(log_lik, without - 392 * math.log(2 * math.pi), atol=1e-3, rtol=0)
    assert (without - log_lik > 720).all()


def test_c_the_latent_axis_is_summed() -> None:
    """The source sums a trailing axis of length 1, so that its log-densities keep the latent axis."""
    model, x = system_7()
    q = model.propose(x)
    z, log_q = q.rsample(torch.randn(1, 3, 32))
    assert log_q.shape == model.model.prior.log_prob(z).shape == (1, 3)
    elementwise = torch.distributions.Normal(0.0, 1.0).log_prob(z)
    torch.testing.assert_close(model.model.prior.log_prob(z), elementwise.sum(-1))
    kept = elementwise.unsqueeze(-1).sum(-1)  # the source's form
    assert kept.shape != model.model.prior.log_prob(z).shape


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_d_a_batch_of_one_works(estimator: Estimator) -> None:
    """The source squeezes the batch axis away with the others."""
    torch.manual_seed(0)
    model = GaussianVAE(
        latent_dim=32, encoder=ConvEncoder, decoder=ConvDecoder, likelihood=Gaussian, estimator=estimator
    )
    x = 2 * torch.rand(1, 784) - 1
    output = model.training_step(batch_of(x), 0)
    torch.testing.assert_close(output["bound"], by_torch_distributions(model, x).mean(), atol=1e-3, rtol=0)
    output["loss"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


# Diagnostics


def test_a_unit_is_active_when_its_posterior_mean_varies() -> None:
    mean = torch.randn(20_000, 3) * torch.tensor([1.0, 0.05, 0.2])
    assert_within((mean - mean.mean(0)) ** 2, activity(mean).float())
    assert active_units(mean) == 2  # 0.05² = 0.0025 is below 0.01, 0.2² = 0.04 above


def test_validation_keeps_the_latents_for_pictures(tmp_path: Path) -> None:
    model, data = small_vae(), SmallImages(eval_batch_size=30)
    (logged,) = small_trainer(tmp_path).validate(model, data, verbose=False)
    latents = model.latents
    assert latents is not None
    assert latents.kl is not None
    with torch.no_grad():
        q = model.propose(data.splits["val"].images.float())
    assert isinstance(q, DiagonalGaussian)
    torch.testing.assert_close(latents.location, q.mean)
    torch.testing.assert_close(latents.kl, q.kl_per_dimension())
    assert torch.equal(latents.label, data.splits["val"].labels.long())
    assert logged["val/active_units"] == active_units(q.mean)
    flow = small_vae(posterior=small_flow)
    small_trainer(tmp_path).validate(flow, data, verbose=False)
    assert flow.latents is not None
    assert flow.latents.kl is None


def test_dequantised_densities_are_also_reported_as_a_probability_of_grey_levels(tmp_path: Path) -> None:
    class Dequantised(SmallImages):
        def setup(self, stage: str | None = None) -> None:
            super().setup(stage)
            noisy = {s: ImageSet((d.images * 255 + torch.rand(d.images.shape)) / 256, d.labels)
                     for s, d in self.splits.items()}  # fmt: skip
            self.splits = noisy

    model = small_vae(likelihood=lambda: Gaussian(0.3))
    data = Dequantised(binarisation="none", dequantise=True, pixel_range="-1..1")
    small_trainer(tmp_path).test(model, data, verbose=False)
    (kl,) = (q for q in model.evaluation if q.name.startswith("KL"))
    density, _ = (q for q in model.evaluation if q.name.startswith("log p(x) ≥"))  # the best, and the encoder's own
    (discrete,) = (q for q in model.evaluation if q.name.startswith("log P"))
    assert discrete.value == pytest.approx(density.value + D * math.log(2 / 256), abs=1e-3)
    assert (discrete.kind, discrete.unit, discrete.name[:21]) == (
        "lower bound",
        "nats per image",
        "log P(256 grey levels",
    )
    assert density.unit == "nats per image (density on [-1, 1])"
    assert kl.unit == "nats per image"
