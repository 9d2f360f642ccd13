"""A finite mixture: its log p(x) against sums over all points and all images, its training, and its start."""

import itertools
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lvm_lightning.command.checkpoints import read_checkpoint
from lvm_lightning.evaluation.fitted import FittedFromEncoder
from lvm_lightning.evaluation.summation import Summation, posterior_mean
from lvm_lightning.modules import LatentMixture, PriorIWAE
from lvm_lightning.networks import MLP
from tests.command import SMALL_FIT
from tests.conftest import ROOT, Run, arrays, commands_in
from tests.small import D, SmallImages, batch_of, images, small_trainer

CONFIG = ROOT / "configs" / "latent_mixture.yaml"
MIXTURE: list[object] = ["fit", "--config", CONFIG, *SMALL_FIT[3:]]


def mixture(data_dim: int = D, **options: Any) -> LatentMixture:
    torch.manual_seed(0)
    defaults: dict[str, Any] = {"components": 7, "decoder": lambda K, pixels: MLP(K, pixels, hidden=(32,))}
    return LatentMixture(data_dim=data_dim, **(defaults | options))


def without(arguments: list[object], *names: str) -> list[object]:
    """Command-line arguments less some options and their values."""
    drop = {i + j for i, word in enumerate(arguments) if word in names for j in (0, 1)}
    return [word for i, word in enumerate(arguments) if i not in drop]


def in_float64(model: LatentMixture, x: Tensor) -> Tensor:
    """log 1/M Σ_m Π_d p(x_d|z_m), written out, ``(B,)``."""
    prior: Any = model.model.prior
    p = model.model.decode(prior.points).double().sigmoid()
    each = torch.where(x.bool().unsqueeze(0), p.unsqueeze(1), 1 - p.unsqueeze(1)).prod(-1)
    return each.mean(0).log()


def test_log_p_is_the_sum_over_the_points() -> None:
    model, x = mixture(), images()
    with torch.no_grad():
        log_p, error = model.log_marginal(x)
        torch.testing.assert_close(log_p, in_float64(model, x), atol=1e-5, rtol=0)
        assert not error.any()
        log_w = model.model.log_weights(x, model.propose(x), 4096, torch.Generator().manual_seed(0))
    assert (log_w.exp().mean(0).log() - log_p).abs().max() < 0.1  # its own prior as proposal: weights p(x|z_m)


def test_probabilities_of_all_images_sum_to_one() -> None:
    model = mixture(data_dim=9)
    every = torch.tensor(list(itertools.product([0.0, 1.0], repeat=9)))
    with torch.no_grad():
        assert float(model.log_marginal(every)[0].exp().sum()) == pytest.approx(1, abs=1e-6)


def test_posterior_mean_weighs_the_points_by_bayes_rule() -> None:
    model, x = mixture(), images()
    prior: Any = model.model.prior
    with torch.no_grad():
        joint = model.model.log_likelihood(x, prior.points.unsqueeze(1)).exp()
        expected = (joint / joint.sum(0)).mT @ prior.points
        torch.testing.assert_close(posterior_mean(model.model, x), expected)
        found = model.predict_step(batch_of(x), 0)
    torch.testing.assert_close(found["z_mean"], expected)
    torch.testing.assert_close(found["log_p"], model.log_marginal(x)[0])


@pytest.mark.parametrize("train_decoder", [False, True])
def test_the_loss_has_the_gradient_of_log_p_and_the_decoder_stays_unless_it_is_trained(train_decoder: bool) -> None:
    model, x = mixture(train_decoder=train_decoder), images()
    prior: Any = model.model.prior
    output = model.training_step(batch_of(x), 0)
    (found,) = torch.autograd.grad(output["loss"], [prior.points], retain_graph=True)
    (expected,) = torch.autograd.grad(-in_float64(model, x).mean(), [prior.points])
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)
    output["loss"].backward()
    assert all((p.grad is not None) == train_decoder for p in model.model.decoder.parameters())


def test_training_raises_log_p_and_a_test_says_that_it_is_exact(tmp_path: Path) -> None:
    model, data = mixture(components=32, train_decoder=True), SmallImages(batch_size=50, eval_batch_size=50)
    trainer = small_trainer(tmp_path, max_steps=100)
    data.setup()
    x = torch.cat([batch.x for batch in data.test_dataloader()])
    with torch.no_grad():
        before = float(model.log_marginal(x)[0].mean())
    trainer.fit(model, data)
    (validated,) = model.validation
    assert (validated.name, validated.kind, validated.samples) == ("log p(x) by summation", "exact", 0)
    trainer.test(model, data, verbose=False)
    found = {q.name: q for q in model.evaluation}["log p(x) by summation"]
    assert found.value > before + 0.2
    assert found.value == pytest.approx(float(in_float64(model, x).detach().mean()), abs=1e-5)
    assert (found.kind, found.unit, found.samples, found.images) == ("exact", "nats per image", 0, 103)


def test_a_decoder_that_nothing_has_trained_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, data, note = mixture(), SmallImages(), "trained under a decoder of random weights; give a run's"
    caplog.set_level("INFO")
    small_trainer(tmp_path, max_steps=1).fit(model, data)
    assert note in caplog.text
    caplog.clear()
    model.load_state_dict(mixture().state_dict())
    small_trainer(tmp_path, max_steps=1).fit(model, data)
    small_trainer(tmp_path, max_steps=1).fit(mixture(train_decoder=True), data)
    assert note not in caplog.text


def test_evaluators_that_do_not_fit_are_told_apart() -> None:
    own = PriorIWAE(data_dim=D).model
    assert Summation().lacks(own) == "a prior of finitely many points"
    assert Summation().lacks(mixture().model) == ""
    assert FittedFromEncoder().lacks(mixture().model) == "a prior of all real numbers"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a small prior-IWAE."""
    folder = tmp_path_factory.mktemp("base")
    commands_in(folder, SMALL_FIT)
    return folder / "runs" / "prior_iwae" / "version_0"


def small_mixture(base: Path, *options: object) -> list[object]:
    arguments = without(MIXTURE, "--model.inner_samples", "--evaluation.spacing")
    arguments += [
        "--model.components",
        16,
        "--model.latent_dim",
        2,
        "--weights_from",
        base,
    ]
    return [*arguments, *options]


def test_a_decoder_of_another_run_stays_as_it_is_and_its_mixture_is_tested(
    base: Path, run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert run(*small_mixture(base), "--test_after_fit", "true") == 0
    assert "weights_from: 4 of 5 tensors are those of" in (told := caplog.text)
    assert "new are model.prior.points" in told
    folder = tmp_path / "runs" / "latent_mixture" / "version_0"
    theirs, ours = (read_checkpoint(f / "checkpoints" / "best.ckpt")["state_dict"] for f in (base, folder))
    decoder = [name for name in theirs if name.startswith("model.decoder.")]
    assert decoder
    assert all(torch.equal(theirs[name], ours[name]) for name in decoder)
    quantities = json.loads((folder / "evaluation.json").read_text())["quantities"]
    assert quantities[0]["name"] == "log p(x) by summation"
    assert run("predict", *small_mixture(base)[1:], "--ckpt_path", "last") == 0
    assert set(arrays(folder / "predictions.npz")) == {"log_p", "z_mean", "label"}
    # the study that draws from the prior finds the same from below
    assert run("tightness", *small_mixture(base)[1:], "--ckpt_path", "last", "--largest", 64, "--images", 20) == 0
    found = json.loads((folder / "tightness.json").read_text())
    assert found["log_p"]["kind"] == "exact"
    assert all(row["gap"] > -3 * row["gap_stderr"] for row in found["rows"])
    assert found["rows"][-1]["gap"] < 0.5 * found["rows"][0]["gap"]


def test_a_run_that_goes_on_keeps_its_own_weights(base: Path, run: Run, tmp_path: Path) -> None:
    whole, parts, start = tmp_path / "whole", tmp_path / "parts", tmp_path / "start.ckpt"
    shutil.copyfile(base / "checkpoints" / "best.ckpt", start)
    stop = ["--trainer.callbacks", "tests.small.SignalAt", "--trainer.callbacks.step", 17]
    own = ["--weights_from", start, "--trainer.logger.save_dir"]
    assert run(*small_mixture(base), *own, whole) == 0
    assert run(*small_mixture(base), *own, parts, *stop) == 143
    start.unlink()  # it is not needed any more
    assert run("fit", parts / "latent_mixture" / "version_0", "--trainer.callbacks", "null") == 0
    one, other = (
        read_checkpoint(f / "latent_mixture" / "version_0" / "checkpoints" / "last.ckpt")["state_dict"]
        for f in (whole, parts)
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_first_weights_stay_where_training_would_start_the_output_bias_from_the_data(
    base: Path, run: Run, tmp_path: Path
) -> None:
    start = base / "checkpoints" / "last.ckpt"
    still = ["--model.lr_scheduler", "null", "--model.optimizer.lr", "0.0", "--trainer.max_steps", 1]
    assert run(*SMALL_FIT, *still, "--weights_from", start) == 0
    path = tmp_path / "runs" / "prior_iwae" / "version_0" / "checkpoints" / "last.ckpt"
    theirs, ours = (read_checkpoint(p)["state_dict"] for p in (start, path))
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)


def test_chains_are_refused(base: Path, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*small_mixture(base)) == 0
    capsys.readouterr()
    assert run("anneal", *small_mixture(base)[1:], "--ckpt_path", "last", "--images", 2, "--steps", 2) == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.search(
        "model: chains need a prior with a density, got LatentMixture, .*; use 'test', which is exact", told
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--weights_from", "absent.ckpt"], "weights_from: no such file: absent.ckpt; give a checkpoint"),
        (["--weights_from", "."], r"weights_from: must have a checkpoint, got \S+, without \S+last.ckpt; train it"),
        (["--model.latent_dim", 3], r"weights_from: model.decoder.0.weight must have .* \(8, 3\), got \(8, 2\)"),
    ],
)
def test_weights_that_do_not_fit_are_told_in_a_line(
    options: list[object], message: str, base: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*small_mixture(base, *options)) == 2
    told = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(told) == 1
    assert re.search(message, told[0]), told


def test_a_run_without_a_common_weight_is_refused(base: Path, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    toy = ["--config", ROOT / "configs" / "exponential_posterior.yaml", "--trainer.max_steps", 2]
    assert run("fit", *toy, "--weights_from", base / "checkpoints" / "best.ckpt") == 2
    assert "weights_from: must share weights with the model, got" in capsys.readouterr().err
