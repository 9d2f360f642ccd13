"""PriorIWAE: both estimators, the bound's place below the exact log p(x), and what training starts from."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lvm_lightning.callbacks import CompiledNetworks
from lvm_lightning.data import StaticMNIST
from lvm_lightning.data.loader import Batch
from lvm_lightning.densities import Points
from lvm_lightning.densities.points import UNIFORM
from lvm_lightning.evaluation import Quantity
from lvm_lightning.evaluation.quadrature import GridQuadrature
from lvm_lightning.modules import PriorIWAE
from lvm_lightning.networks import MLP
from lvm_lightning.objectives import iw_elbo, nested
from tests.conftest import assert_within
from tests.small import D, SmallImages, batch_of, images, small_trainer


def small_decoder(latent_dim: int, data_dim: int) -> nn.Module:
    return MLP(latent_dim, data_dim, hidden=(32, 32))


def last_layer(model: PriorIWAE) -> nn.Linear:
    assert isinstance(model.model.decoder, MLP)
    layer = model.model.decoder[-1]
    assert isinstance(layer, nn.Linear)
    return layer


def small_model(**options: Any) -> PriorIWAE:
    torch.manual_seed(0)
    defaults: dict[str, Any] = {"data_dim": D, "decoder": small_decoder, "inner_samples": 16}
    model = PriorIWAE(**(defaults | options))
    with torch.no_grad():
        last_layer(model).weight.mul_(8)  # a posterior that is not the prior
    return model


def reported(model: PriorIWAE) -> dict[str, Quantity]:
    """What the last test measured, by name."""
    return {q.name: q for q in model.evaluation}


def bounds(model: PriorIWAE, x: Tensor, repeats: int) -> Tensor:
    """Independent values of the training bound, ``(repeats, B)``."""
    with torch.no_grad():
        points = (model.training_points(batch_of(x), "train", step) for step in range(repeats))
        return torch.stack([nested(iw_elbo, model.model.log_likelihood(x, z)) for z in points])


@pytest.mark.parametrize(("J", "N"), [(1, 16), (16, 1), (4, 4)])
def test_shared_and_own_points_have_the_same_expectation(J: int, N: int) -> None:
    options: dict[str, Any] = {"outer_samples": J, "inner_samples": N, "points": "iid"}
    shared = bounds(small_model(**options, share_points=True), images(), 2000)
    own = bounds(small_model(**options, share_points=False), images(), 2000)
    stderr = (shared.var(0) / 2000 + own.var(0) / 2000).sqrt()
    assert ((shared.mean(0) - own.mean(0)).abs() < 3 * stderr).all()


@pytest.mark.parametrize("share_points", [True, False])
@pytest.mark.parametrize("points", list(UNIFORM))
def test_every_choice_of_points_is_unbiased_for_p_and_a_bound_below_log_p(points: Points, share_points: bool) -> None:
    model, x = small_model(inner_samples=4, points=points, share_points=share_points), images()
    with torch.no_grad():
        log_p = GridQuadrature(model.model.decode, model.model.likelihood.log_prob, 2).measure(x)[0]
    values = bounds(model, x, 2000)
    assert_within((values - log_p).exp(), 1.0)
    assert (values.mean(0) < log_p).all()


def test_more_inner_samples_tighten_the_bound_and_outer_ones_do_not() -> None:
    x = images()
    one, outer, inner = (
        bounds(small_model(outer_samples=J, inner_samples=N, points="iid"), x, 1000)
        for J, N in [(1, 1), (64, 1), (1, 64)]
    )
    stderr = (one.var(0) / 1000 + outer.var(0) / 1000).sqrt()
    assert ((one.mean(0) - outer.mean(0)).abs() < 4 * stderr).all()
    assert (inner.mean(0) > outer.mean(0) + 4 * stderr).all()
    assert (outer.var(0) < one.var(0)).all()


def test_training_step_is_minus_the_mean_bound_and_its_noise_a_function_of_the_step() -> None:
    model, x = small_model(), images()
    output = model.training_step(batch_of(x), 0)
    expected = bounds(model, x, 1)[0].mean()
    torch.testing.assert_close(output["bound"], expected)
    torch.testing.assert_close(output["loss"], -expected)
    assert torch.equal(output["loss"], model.training_step(batch_of(x), 1)["loss"])


@pytest.mark.parametrize("share_points", [True, False])
def test_a_process_takes_its_rows_of_the_global_points(share_points: bool) -> None:
    model, x = small_model(share_points=share_points), images(6)
    whole = bounds(model, x, 1)[0]
    parts = []
    for start in (0, 3):
        part = Batch(x[start : start + 3], torch.zeros(3, dtype=torch.uint8), start, 6)
        z = model.training_points(part, "train", 0)
        parts.append(nested(iw_elbo, model.model.log_likelihood(part.x, z)))
    torch.testing.assert_close(torch.cat(parts), whole)


@pytest.mark.parametrize(
    ("output_bias", "transform"),
    [("logit", lambda p: torch.logit(p, 1e-6)), ("log", lambda p: (p + 1e-6).log()), ("zero", None)],
)
def test_output_bias_starts_from_the_pixel_means(output_bias: Any, transform: Any, tmp_path: Path) -> None:
    model, data = small_model(output_bias=output_bias), SmallImages()
    before = last_layer(model).bias.clone()
    small_trainer(tmp_path, max_steps=0).fit(model, data)
    after = last_layer(model).bias
    expected = before if transform is None else transform(data.splits["train"].images.float().mean(0))
    torch.testing.assert_close(after.detach(), expected.detach())


def test_output_bias_needs_pixel_means(tmp_path: Path) -> None:
    data = SmallImages()
    data.setup()
    with pytest.raises(ValueError, match=r"^output_bias: 'logit' needs a data module .* set output_bias to 'zero'"):
        small_trainer(tmp_path, max_steps=1).fit(small_model(), data.train_dataloader(), data.val_dataloader())


@pytest.mark.parametrize("name", ["outer_samples", "inner_samples"])
def test_no_samples_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name}: must be at least 1, got 0"):
        PriorIWAE(**{name: 0})  # type: ignore[arg-type]


def test_grey_images_are_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a Bernoulli likelihood needs binary images, got grey ones; set data.binar"):
        small_trainer(tmp_path, max_steps=1).fit(small_model(), SmallImages(binarisation="none"))


def test_with_three_dimensions_a_test_fits_proposals_that_reach_log_p(tmp_path: Path) -> None:
    """The decoder ignores the third, so that quadrature over the other two is exact."""
    plain, deaf = small_model(latent_dim=2), small_model(latent_dim=3)
    with torch.no_grad():
        for of_plain, of_deaf in zip(plain.model.decoder.parameters(), deaf.model.decoder.parameters(), strict=True):
            if of_plain.shape == of_deaf.shape:
                of_deaf.copy_(of_plain)
            else:
                of_deaf.zero_()[:, :2] = of_plain
    data, trainer = SmallImages(), small_trainer(tmp_path)
    for model in (plain, deaf):
        trainer.test(model, data, verbose=False)
    exact, found = reported(plain)["log p(x) by quadrature"], reported(deaf)
    assert len(found) == len(deaf.evaluation) == 6
    trained, close = found["bound (J=1, N=16, i.i.d.)"], found["log p(x) ≥ L_5000 (fitted proposals)"]
    size, shape = found["effective sample size"], found["Pareto k of the weights"]
    assert (close.kind, close.samples) == ("lower bound", 5000)
    assert exact.value - close.value == pytest.approx(0, abs=0.02)
    gap = deaf.per_example[close.name].cpu() - plain.per_example[exact.name].cpu()
    assert float(gap.abs().max()) < 0.2
    assert trained.value < close.value
    assert 100 < size.value < 5000
    assert shape.value < 1
    assert "image-independent Bernoulli" in found


def test_training_raises_the_bound_and_the_test_reports_it_below_log_p(tmp_path: Path) -> None:
    model, data = small_model(optimizer=lambda p: torch.optim.Adam(p, lr=1e-2)), SmallImages(batch_size=100)
    trainer = small_trainer(tmp_path, max_epochs=20, check_val_every_n_epoch=20)
    trainer.test(model, data, verbose=False)
    before = {q.name: q.value for q in model.evaluation}
    trainer.fit(model, data)
    logged = trainer.test(model, data, verbose=False)[0]
    found = reported(model)
    assert len(found) == len(model.evaluation) == 5
    bound, log_p = found["bound (J=1, N=16, i.i.d.)"], found["log p(x) by quadrature"]
    error, gap = found["error of the quadrature"], found["log p(x) − bound"]
    reference = found["image-independent Bernoulli"]
    assert (error.kind, error.value < 1e-4) == ("stochastic estimate", True)
    assert bound.value > before[bound.name] + 1
    assert bound.value < log_p.value
    assert gap.value == pytest.approx(log_p.value - bound.value, abs=1e-5)
    assert gap.stderr < bound.stderr
    assert log_p.value > reference.value + 0.5
    assert (bound.kind, log_p.kind, bound.images, bound.samples) == ("lower bound", "exact", 103, 16)
    assert logged["test/log_px"] == pytest.approx(log_p.value)
    assert trainer.callback_metrics["test/bound_stderr"] == pytest.approx(bound.stderr)


def test_jensen_training_forgets_z(tmp_path: Path) -> None:
    """The gap of the Jensen bound is KL(p(z) ‖ p(z|x)); training drives it to 0 and the images to their mean."""
    model = small_model(outer_samples=32, inner_samples=1, optimizer=lambda p: torch.optim.Adam(p, lr=1e-2))
    data = SmallImages(batch_size=200)
    trainer = small_trainer(tmp_path, max_epochs=150, check_val_every_n_epoch=150)
    trainer.fit(model, data)
    trainer.test(model, data, verbose=False)
    found = reported(model)
    bound, gap = found["bound (J=32, N=1, i.i.d.)"], found["KL(p(z) ‖ p(z|x))"]
    reference = found["image-independent Bernoulli"]
    assert gap.value < 0.2
    assert abs(bound.value - reference.value) < 0.3
    with torch.no_grad():
        decoded = model.model.likelihood.mean(model.model.decode(torch.randn(100, 2)))
    assert decoded.std(0).mean() < 0.05


def test_validation_bound_is_the_mean_over_all_images_with_the_same_points_each_time(tmp_path: Path) -> None:
    model, data = small_model(), SmallImages(eval_batch_size=30)
    first, second = (small_trainer(tmp_path).validate(model, data, verbose=False)[0] for _ in range(2))
    assert first == second
    with torch.no_grad():
        values = [
            nested(iw_elbo, model.model.log_likelihood(batch.x, model.training_points(batch, "val", number)))
            for number, batch in enumerate(data.val_dataloader())
        ]
    assert first["val/bound"] == pytest.approx(float(torch.cat(values).mean()))
    assert first["val/bound_stderr"] == pytest.approx(float(torch.cat(values).std() / 10))


@pytest.mark.parametrize(("latent_dim", "points"), [(1, 4001), (2, 201), (3, 61)])
def test_predictions_are_bounds_and_posterior_means_with_their_errors(
    latent_dim: int, points: int, tmp_path: Path
) -> None:
    model, data = small_model(latent_dim=latent_dim, inner_samples=4), SmallImages(eval_batch_size=60)
    predicted = small_trainer(tmp_path).predict(model, data)
    assert predicted is not None
    output = {name: torch.cat([dict(batch)[name] for batch in predicted]) for name in dict(predicted[0])}
    grid = torch.cartesian_prod(*[torch.linspace(-5, 5, points)] * latent_dim).view(-1, latent_dim)
    with torch.no_grad():
        log_lik, log_prior = model.model.log_joint(data.splits["test"].images.float(), grid.unsqueeze(1))
    exact = (log_lik + log_prior).softmax(0).T @ grid
    off, error = (output["z_mean"] - exact).abs(), output["z_mean_error"]
    assert off.shape == error.shape == (103, latent_dim)
    if latent_dim == 3:  # standard errors of 5,000 samples
        assert 0.8 < float((off / error).square().mean().sqrt()) < 1.25
        assert float(error.max()) < 0.05
    else:
        assert float((off - error).max()) < 1e-3
        assert float(error.max()) < 1e-3
    assert output["bound"].shape == output["label"].shape == (103,)


def test_a_posterior_between_the_points_of_the_grid_has_an_error_that_says_so() -> None:
    """p(z|x) ∝ N(z; m, 1/1,000²): its mean is m up to 1e-6, and the grid's spacing is 50 times its width."""
    centre = 2 * torch.rand(50, 2)
    grid = GridQuadrature(lambda z: z, lambda z, x: -0.5 * (1000 * (z - x)).square().sum(-1), 2)
    mean, error = grid.posterior_mean(centre)
    assert float((mean - centre).norm(dim=1).mean()) > 0.01
    assert float(((mean - centre).norm(dim=1) <= error.norm(dim=1)).float().mean()) > 0.95


def test_evaluation_is_in_float32_whatever_trains(tmp_path: Path) -> None:
    model, data = small_model(), SmallImages()
    plain = small_trainer(tmp_path).test(model, data, verbose=False)
    mixed = small_trainer(tmp_path, precision="bf16-mixed").test(model, data, verbose=False)
    assert plain == mixed


def log_weights_of_a_test(model: PriorIWAE, batch: Batch) -> Tensor:
    """``(J, N, B)``."""
    q, generator = model.propose(batch.x), model.noise("test", 0)
    return model.model.log_weights(batch.x, q, model.samples, generator, batch.rows).view(model.J, model.N, -1)


def test_images_that_share_test_points_have_the_same_ones_in_every_process() -> None:
    model, x = small_model(outer_samples=2, inner_samples=512), images(1).repeat(120, 1)
    with torch.no_grad():
        whole = log_weights_of_a_test(model, batch_of(x))
        cuts = [0, 70, 120, 120]  # the last process has no row
        parts = [
            log_weights_of_a_test(model, Batch(x[a:b], torch.zeros(b - a), a, 120)) for a, b in itertools.pairwise(cuts)
        ]
    assert whole.shape == (2, 512, 120)
    assert torch.equal(torch.cat(parts, -1), whole)
    groups = nested(iw_elbo, whole).unique_consecutive(return_counts=True)[1]
    assert groups.tolist() == [50, 50, 20]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[PriorIWAE, Tensor]:
    """A model of default size after 400 steps, and every tenth test image: the digits in their proportions."""
    torch.manual_seed(0)
    model = PriorIWAE(inner_samples=256, optimizer=lambda p: torch.optim.Adam(p, lr=3e-3, fused=True))
    data = StaticMNIST(batch_size=256)
    small_trainer(tmp_path_factory.mktemp("digits"), max_steps=400, limit_val_batches=0).fit(model, data)
    return model, data.splits["test"].images[::10].float()


def test_refining_the_default_grid_moves_a_trained_models_log_p_by_less_than_a_hundredth(
    digits: tuple[PriorIWAE, Tensor],
) -> None:
    model, x = digits
    with torch.inference_mode():
        coarse, default, fine = (
            GridQuadrature(model.model.decode, model.model.likelihood.log_prob, 2, spacing=spacing).measure(x)[0].mean()
            for spacing in (0.4, 0.05, 0.025)
        )
    assert abs(default - fine) < 0.01
    assert abs(coarse - fine) > 0.01  # the posteriors are sharp enough for the test to mean something


def test_a_bfloat16_decoder_moves_a_trained_models_bound_by_less_than_a_hundredth(
    digits: tuple[PriorIWAE, Tensor],
) -> None:
    model, x = digits
    z = model.training_points(batch_of(x), "train", 0)
    with torch.no_grad():
        exact = nested(iw_elbo, model.model.log_likelihood(x, z))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            log_w = model.model.log_likelihood(x, z)
            mixed = nested(iw_elbo, log_w)
    assert log_w.dtype == mixed.dtype == torch.float32
    assert abs((mixed - exact).double().mean()) < 0.01
    assert not torch.equal(mixed, exact)  # the decoder did run in bfloat16


@pytest.mark.parametrize("clip", [None, 1e-3])
def test_gradients_are_clipped_where_that_is_asked_for(clip: float | None, tmp_path: Path) -> None:
    model = small_model(output_bias="zero", optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1.0))
    before = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    options: dict[str, Any] = {"max_steps": 1, "limit_val_batches": 0, "gradient_clip_val": clip}
    small_trainer(tmp_path, **options).fit(model, SmallImages())
    step = float((nn.utils.parameters_to_vector(model.parameters()).detach() - before).norm())
    assert (step == pytest.approx(1e-3, rel=1e-2)) if clip else step > 0.1


def test_an_unknown_compiler_is_refused() -> None:
    with pytest.raises(ValueError, match=r"callbacks.backend: must be one of .*inductor.*, got none_such"):
        CompiledNetworks(backend="none_such")


def test_compiled_networks_train_the_same_weights_under_the_same_names(tmp_path: Path) -> None:
    weights = []
    for callbacks in ([], [CompiledNetworks(backend="aot_eager")]):
        model = small_model()
        small_trainer(tmp_path, max_steps=3, limit_val_batches=0, callbacks=callbacks).fit(model, SmallImages())
        weights.append(model.state_dict())
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-6, atol=1e-7)
