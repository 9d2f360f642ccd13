"""The IWAE whose proposals are Laplace's approximations: against quadrature, closed forms and itself."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lvm_lightning.command.checkpoints import read_checkpoint
from lvm_lightning.data.loader import Batch
from lvm_lightning.densities import Bernoulli, ContinuousBernoulli, Gaussian, Likelihood, PixelwiseGaussian
from lvm_lightning.modules import LaplaceIWAE
from lvm_lightning.networks import MLP
from lvm_lightning.objectives import CUBO, Renyi, elbo
from lvm_lightning.support.randomness import Rows
from tests.command import SMALL_FIT, command
from tests.conftest import ROOT, Run, arrays, assert_within
from tests.small import B, D, SmallImages, batch_of, images, small_trainer

LIKELIHOODS: list[type[Likelihood]] = [Bernoulli, ContinuousBernoulli, Gaussian, PixelwiseGaussian]
BOUND = "bound (J=1, N=8)"
FIT: list[object] = ["fit", "--config", ROOT / "configs" / "laplace_iwae.yaml", *SMALL_FIT[3:]]
FIT += ["--model.latent_dim", 2, "--model.pilots", 16]


def model_of(latent_dim: int = 2, seed: int = 0, scale: float = 1.0, **options: Any) -> LaplaceIWAE:
    """A decoder with weights large enough that x tells of z."""
    torch.manual_seed(seed)
    defaults: dict[str, Any] = {"decoder": lambda K, out: MLP(K, out, hidden=(16,), activation="Tanh"), "data_dim": D}
    model = LaplaceIWAE(latent_dim, pilots=64, **(defaults | options))
    for layer in model.model.decoder.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=scale)
    return model


def log_p(model: LaplaceIWAE, x: Tensor) -> Tensor:
    """By the trapezoidal rule, ``(B,)``, differentiable in the decoder's weights."""
    axis = torch.linspace(-7, 7, 281)
    z = torch.cartesian_prod(axis, axis) if model.model.prior.dim == 2 else axis.unsqueeze(1)
    log_lik, log_prior = model.model.log_joint(x, z.unsqueeze(1))
    log_volume = model.model.prior.dim * torch.tensor(float(axis[1] - axis[0])).log()
    return (log_lik + log_prior).logsumexp(0) + log_volume


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("latent_dim", [1, 2])
def test_many_samples_reach_log_p_and_few_stay_below(latent_dim: int, likelihood: type[Likelihood]) -> None:
    model, x = model_of(latent_dim, likelihood=likelihood), images()
    with torch.no_grad():
        exact, q = log_p(model, x), model.propose(x)
        log_w = model.model.log_weights(x, q, 20_000, torch.Generator().manual_seed(0)).double()
        few = log_w.view(4, -1, B).logsumexp(0) - torch.tensor(4.0).log()
    weights = (log_w - exact).exp()
    assert_within(weights, 1.0, 4)  # E_q[w] = p(x), and its standard error is that of a bounded weight
    assert float(weights.std(0).max()) < 10
    assert (few.mean(0) < exact).all()


def test_the_gradient_of_many_samples_is_that_of_log_p() -> None:
    model, x = model_of(inner_samples=20_000), images()
    parameters = [*model.parameters()]
    exact = torch.autograd.grad(-log_p(model, x).mean(), parameters)
    found = torch.autograd.grad(model.training_step(batch_of(x), 0)["loss"], parameters)
    for mine, expected in zip(found, exact, strict=True):
        assert (mine - expected).norm() < 0.05 * expected.norm() + 1e-4


def test_on_a_linear_gaussian_model_the_proposal_lies_at_the_posteriors_mean() -> None:
    model = model_of(decoder=nn.Linear, likelihood=Gaussian, scale=0.7, ascent_steps=20)
    (layer,) = [m for m in model.modules() if isinstance(m, nn.Linear)]
    x, W = torch.randn(B, D, generator=torch.Generator().manual_seed(1)), layer.weight.detach()
    precision = W.mT @ W + torch.eye(2)
    mean = torch.linalg.solve(precision, W.mT @ (x - layer.bias.detach()).mT).mT
    q = model.propose(x)
    torch.testing.assert_close(q.location, mean, atol=1e-3, rtol=0)  # heights are told apart to float32's last bit
    factor = q.mixture.factor[0]
    torch.testing.assert_close(1.2**2 * factor @ factor.mT, precision.expand(B, 2, 2), atol=1e-4, rtol=1e-4)
    deviations = torch.linalg.inv(precision).diagonal().sqrt()
    torch.testing.assert_close(q.diagonal().log_sigma.exp(), 1.2 * deviations.expand(B, 2), atol=1e-4, rtol=1e-4)
    wide = q.widened(2.0).mixture
    torch.testing.assert_close(2 * wide.factor[0], factor)
    torch.testing.assert_close(wide.factor[1], q.mixture.factor[1])  # the prior's part


def test_the_density_serves_any_shape_of_samples() -> None:
    model, x = model_of(), images()
    q, z = model.propose(x), torch.randn(3, 4, B, 2, generator=torch.Generator().manual_seed(0))
    every = q.log_prob(z)
    assert every.shape == (3, 4, B)
    torch.testing.assert_close(q.log_prob(z[1]), every[1])
    torch.testing.assert_close(q.log_prob(z[1, 2]), every[1, 2])
    torch.testing.assert_close(q.log_prob(z[:, :, :1]), q.log_prob(z[:, :, :1].expand_as(z)))
    axis = torch.linspace(-8, 8, 201)
    grid = q.log_prob(torch.cartesian_prod(axis, axis).unsqueeze(1))
    torch.testing.assert_close(grid.exp().sum(0) * (axis[1] - axis[0]) ** 2, torch.ones(B), atol=2e-3, rtol=0)


def test_an_images_part_does_not_depend_on_the_batch() -> None:
    model, x = model_of(inner_samples=6), images(9)
    whole = model.training_step(Batch(x, torch.zeros(9), 0, 9), 0)["bound"]
    parts = [
        model.training_step(Batch(x[s:t], torch.zeros(t - s), s, 9), 0)["bound"] * (t - s) for s, t in [(0, 4), (4, 9)]
    ]
    torch.testing.assert_close(sum(parts) / 9, whole)
    torch.testing.assert_close(model.propose(x[4:]).location, model.propose(x).location[4:])
    one, other = (
        list(model.propose(x[rows]).draws(3, Rows(start, 9), torch.Generator().manual_seed(0), 10**6))
        for rows, start in [(slice(0, 9), 0), (slice(4, 9), 4)]
    )
    torch.testing.assert_close(one[0].z[:, 4:], other[0].z)


@pytest.mark.parametrize("bound", [elbo, Renyi(0.5), CUBO(2.0)])
@pytest.mark.parametrize(("outer", "inner"), [(1, 2), (3, 2)])
def test_any_bound_with_any_number_of_samples_has_a_gradient(bound: Any, outer: int, inner: int) -> None:
    model, x = model_of(outer_samples=outer, inner_samples=inner, bound=bound), images()
    output = model.training_step(batch_of(x), 0)
    sign = 1 if getattr(bound, "kind", "lower bound") == "upper bound" else -1
    assert float(output["loss"].detach()) == pytest.approx(sign * float(output["bound"]), abs=1e-5)
    output["loss"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_bfloat16_changes_the_proposals_and_not_what_the_bound_says() -> None:
    """Of many images, under the same noise: where q lies differs by a rounding, and its weights know of it."""
    model, x = model_of(inner_samples=64, latent_dim=6), images(400)
    found, gradients = [], []
    for mixed in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            output = model.training_step(batch_of(x), 0)
        found.append(float(output["bound"]))
        gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(output["loss"], [*model.parameters()])]))
    assert found[0] != found[1]
    assert found[1] == pytest.approx(found[0], abs=0.02)
    assert (gradients[1] - gradients[0]).norm() < 0.1 * gradients[0].norm()


def test_training_raises_log_p_and_a_test_measures_it(tmp_path: Path) -> None:
    model, data = model_of(scale=0.1), SmallImages(batch_size=50, eval_batch_size=50)
    data.setup()
    x = torch.cat([batch.x for batch in data.test_dataloader()])
    with torch.no_grad():
        before = float(log_p(model, x).mean())
    trainer = small_trainer(tmp_path, max_steps=100)
    trainer.fit(model, data)
    trainer.test(model, data, verbose=False)
    found = {q.name: q for q in model.evaluation}
    exact = found["log p(x) by quadrature"]
    with torch.no_grad():
        assert exact.value == pytest.approx(float(log_p(model, x).mean()), abs=1e-3)
    assert exact.value > before + 0.3
    bound = found[BOUND]
    assert bound.kind == "lower bound"
    assert abs(exact.value - bound.value) < 0.1  # eight samples of such a q leave little, and have noise


def test_with_more_dimensions_a_test_fits_gaussians_and_says_how_far_they_reach(tmp_path: Path) -> None:
    model, data = model_of(latent_dim=4, scale=0.1), SmallImages(batch_size=50, eval_batch_size=50)
    trainer = small_trainer(tmp_path, max_steps=30)
    trainer.fit(model, data)
    model.settings = type(model.settings)(log_p="quick")
    trainer.test(model, data, verbose=False)
    names = [q.name for q in model.evaluation]
    assert names[0] == "log p(x) ≥ L_500 (fitted proposals)"
    found = {q.name: q.value for q in model.evaluation}
    assert found[names[0]] >= found[BOUND] - 0.02
    assert found["error of L_500 (fitted proposals)"] < 0.02


def test_the_command_trains_goes_on_tests_and_predicts(run: Run, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    stop = ["--trainer.callbacks", "tests.small.SignalAt", "--trainer.callbacks.step", 17]
    assert run(*FIT, "--trainer.logger.save_dir", whole, "--test_after_fit", "true") == 0
    assert command(tmp_path, *FIT, "--trainer.logger.save_dir", parts, *stop).status == 143  # no signal to this process
    assert run("fit", parts / "laplace_iwae" / "version_0", "--trainer.callbacks", "null") == 0
    one, other = (
        read_checkpoint(f / "laplace_iwae" / "version_0" / "checkpoints" / "last.ckpt")["state_dict"]
        for f in (whole, parts)
    )
    assert all(torch.equal(one[name], other[name]) for name in one)
    folder = whole / "laplace_iwae" / "version_0"
    quantities = json.loads((folder / "evaluation.json").read_text())["quantities"]
    assert quantities[0]["name"] == "log p(x) by quadrature"
    assert run("predict", folder) == 0
    found = arrays(folder / "predictions.npz")
    assert set(found) == {"bound", "z_mean", "z_mean_error", "label"}
    assert found["z_mean"].shape == (103, 2)
    for study in (["sample"], ["report"], ["anneal", "--images", "5", "--steps", "20"], ["diagnose", "--images", "20"]):
        assert run(study[0], folder, *study[1:]) == 0
    page = (folder / "report.html").read_text()
    assert "No explorer" not in page
    assert '"proposals":[[' in page.replace(" ", "")


def test_posterior_means_are_those_of_quadrature() -> None:
    model, x = model_of(), images()
    with torch.no_grad():
        found = model.predict_step(batch_of(x), 0)
        axis = torch.linspace(-7, 7, 281)
        z = torch.cartesian_prod(axis, axis)
        log_lik, log_prior = model.model.log_joint(x, z.unsqueeze(1))
        weights = (log_lik + log_prior).softmax(0)
    assert ((found["z_mean"] - weights.mT @ z).abs() < 5 * found["z_mean_error"] + 1e-3).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.pilots", 0], "model.pilots: must be a whole number above 0, got 0"),
        (["--model.ascent_steps", -1], "model.ascent_steps: must be a whole number from 0 on, got -1"),
        (["--model.output_bias", "logit"], "model.output_bias: .*got logit"),
        (["--model.inner_samples", 0], "inner_samples: .*got 0"),
        (["--model.likelihood", "torch.nn.ReLU"], "model.likelihood: .*ReLU"),
    ],
)
def test_mistakes_are_told_in_a_line(
    options: list[object], message: str, run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(*FIT, *options) == 2
    told = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(told) == 1
    assert re.search(message, told[0]), told
    assert not (tmp_path / "runs").exists()
