"""Numbers stay finite at the extremes; where one does not, the run stops and keeps the evidence."""

import math
import re
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import softplus

from lvm_lightning.callbacks import FiniteGuard
from lvm_lightning.callbacks.finite import Evidence
from lvm_lightning.densities import Bernoulli, Gaussian, GaussianPosterior, PixelwiseGaussian
from lvm_lightning.densities.proposals import log_softplus
from lvm_lightning.modules import GaussianVAE, PriorIWAE
from lvm_lightning.networks import MLP
from lvm_lightning.support.errors import NonFiniteError
from tests.command import SMALL_FIT, command
from tests.conftest import arrays
from tests.small import D, SmallImages, batch_of, images, small_trainer

LOGITS = [-1e4, -50.0, -1.0, 0.0, 1.0, 50.0, 1e4]


@pytest.mark.parametrize("x", [0.0, 1.0])
def test_bernoulli_at_extreme_logits(x: float) -> None:
    """log p(x|z) = −log(1 + exp(∓l)), and its derivative x − sigmoid(l), in float32 as in float64."""
    logits = torch.tensor(LOGITS).view(-1, 1, 1).requires_grad_()
    log_prob = Bernoulli().log_prob(logits, torch.tensor([[x]]))
    (gradient,) = torch.autograd.grad(log_prob.sum(), logits)
    exact = torch.tensor(LOGITS, dtype=torch.float64)
    torch.testing.assert_close(log_prob.view(-1).double(), -softplus((1 - 2 * x) * exact), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradient.view(-1).double(), x - exact.sigmoid(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("s", [-1e4, -100.0, 0.0])
def test_gaussian_pixels_at_their_floor(s: float) -> None:
    """σ² = floor² + exp(s): with s → −∞, σ is its floor and the density is that of N(m, floor²)."""
    floor, x, mean = 1e-2, torch.tensor([[0.3]]), torch.tensor([[[0.31]]])
    parameters = torch.cat([mean, torch.full((1, 1, 1), s)], -1).requires_grad_()
    log_prob = PixelwiseGaussian(floor).log_prob(parameters, x)
    (gradient,) = torch.autograd.grad(log_prob.sum(), parameters)
    sigma = math.sqrt(floor**2 + math.exp(s))
    exact = torch.distributions.Normal(0.31, sigma).log_prob(torch.tensor(0.3, dtype=torch.float64))
    torch.testing.assert_close(log_prob.view(()).double(), exact.double(), rtol=1e-5, atol=1e-5)
    assert gradient.isfinite().all()


def test_a_learned_sigma_at_its_floor() -> None:
    likelihood = Gaussian(sigma=1.0, learn_sigma=True, floor=1e-3)
    with torch.no_grad():
        for parameter in likelihood.parameters():
            parameter.fill_(-1e4)
    log_prob = likelihood.log_prob(torch.zeros(1, 1, 1), torch.zeros(1, 1))
    exact = -math.log(1e-3) - 0.5 * math.log(2 * math.pi)
    assert float(log_prob.detach()) == pytest.approx(exact, rel=1e-5)
    (gradient,) = torch.autograd.grad(log_prob.sum(), list(likelihood.parameters()))
    assert gradient.isfinite().all()


def test_log_softplus_does_not_underflow() -> None:
    s = torch.tensor([-1e4, -200.0, -20.5, -19.5, 0.0, 3.0, 1e4], requires_grad=True)
    log_scale = log_softplus(s)
    exact = torch.where(s.double() < -30, s.double(), softplus(s.double()).log())
    torch.testing.assert_close(log_scale.double(), exact, rtol=1e-6, atol=1e-6)
    (gradient,) = torch.autograd.grad(log_scale.sum(), s)
    assert gradient.isfinite().all()
    assert gradient[:2].tolist() == [1.0, 1.0]
    scale = GaussianPosterior(1, "softplus")(torch.tensor([[0.0, -200.0]])).log_sigma
    assert scale.item() == -200.0


def trained_once(module: pl.LightningModule, folder: Path, batch_size: int = 5) -> Tensor:
    """One step of training and one validation, and the bound that it found."""
    data = SmallImages(batch_size=batch_size, eval_batch_size=20)
    trainer = small_trainer(folder, max_steps=1, val_check_interval=1, limit_val_batches=1, callbacks=[FiniteGuard()])
    trainer.fit(module, data)
    assert all(p.isfinite().all() for p in module.parameters())
    return trainer.callback_metrics["val/bound"]


@pytest.mark.parametrize(("samples", "share"), [(1, True), (1, False), (3, True), (3, False), (1_000_000, True)])
def test_one_sample_and_a_million(samples: int, share: bool, tmp_path: Path) -> None:
    """The bound with a million points is log p(x): two of them agree, and one point's is not above."""
    module = PriorIWAE(
        inner_samples=samples, share_points=share, data_dim=D, decoder=lambda k, d: MLP(k, d, hidden=[4])
    )
    bound = trained_once(module, tmp_path)
    assert bound.isfinite()
    if samples == 1_000_000:
        found = module.log_marginal(images())
        assert found is not None
        log_p = found[0]
        points = module.training_points(batch_of(images()), "val", 0)
        with torch.no_grad():
            many = module.model.log_likelihood(images(), points).logsumexp((0, 1)) - math.log(samples)
        torch.testing.assert_close(many, log_p.to(many), atol=1e-3, rtol=0)


@pytest.mark.parametrize("batch_size", [1, 7])
@pytest.mark.parametrize("latent_dim", [1, 512])
def test_one_latent_and_many_and_a_batch_of_one(latent_dim: int, batch_size: int, tmp_path: Path) -> None:
    small: dict[str, Any] = {"data_dim": D, "latent_dim": latent_dim}
    for module in (
        PriorIWAE(inner_samples=8, decoder=lambda k, d: MLP(k, d, hidden=[4]), **small),
        GaussianVAE(
            encoder=lambda d, k: MLP(d, k, hidden=[4]),
            decoder=lambda k, d: MLP(k, d, hidden=[4]),
            **small,
        ),
    ):
        assert trained_once(module, tmp_path, batch_size).isfinite()


GOOD = Evidence(7, math.nan, weights=[], batch_finite=True, losses=[140.0] * 9, rate=0.1, precision="32-true")


@pytest.mark.parametrize(
    ("evidence", "quantity", "cause"),
    [
        (GOOD, "the loss is nan", "the step was too large or a density overflows"),
        (
            GOOD._replace(loss=math.inf, losses=[]),
            "the loss is inf",
            "the step was too large or a density overflows",
        ),
        (GOOD._replace(batch_finite=False), "the loss is nan", "look at the data"),
        (GOOD._replace(weights=["a", "b"]), "the gradient is not finite, nor is a and 1 more after it", "too large"),
        (GOOD._replace(losses=[140.0] * 9 + [1e6]), "the loss is nan", r"diverged, .* from 140 to 1e\+06: lower"),
        (GOOD._replace(losses=[-140.0] * 9 + [-139.0]), "the loss is nan", "the step was too large"),
        (GOOD._replace(precision="16-mixed"), "the loss is nan", "set trainer.precision to bf16-mixed"),
    ],
)
def test_the_cause_follows_the_evidence(evidence: Evidence, quantity: str, cause: str) -> None:
    assert evidence.quantity == quantity
    assert re.search(cause, evidence.cause)


class BrokenAt(SmallImages):
    """SmallImages in which one training image holds a value that is not finite."""

    values = "grey"

    def setup(self, stage: str | None = None) -> None:
        super().setup(stage)
        for name, split in self.splits.items():
            grey = split.images.float()
            if name == "train":
                grey[123, 4] = torch.nan
            self.splits[name] = type(split)(grey, split.labels)


def test_a_broken_image_is_found_and_kept(tmp_path: Path) -> None:
    module = GaussianVAE(
        data_dim=D, latent_dim=2, likelihood=lambda: Gaussian(1.0), encoder=lambda d, k: MLP(d, k, hidden=[4]),
        decoder=lambda k, d: MLP(k, d, hidden=[4]),
    )  # fmt: skip
    trainer = small_trainer(tmp_path, max_epochs=1, limit_val_batches=0, callbacks=[FiniteGuard()])
    with pytest.raises(
        NonFiniteError, match=r"step \d+: the loss is nan; likely cause: the batch holds .*no checkpoint"
    ):
        trainer.fit(module, BrokenAt(batch_size=50))
    (path,) = tmp_path.glob("nonfinite_step*_rank0.npz")
    kept = arrays(path)
    assert kept["x"].shape == (50, D)
    assert np.isnan(kept["x"]).sum() == 1
    assert trainer.global_step == int(kept["step"]) - 1
    assert all(p.isfinite().all() for p in module.parameters())  # the step was not taken


class BreakGradient(pl.Callback):
    """Make one gradient infinite at a step, before it is taken."""

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        if trainer.global_step + 1 == 4:
            next(pl_module.parameters()).grad[0] = torch.inf  # type: ignore[index]


def test_a_gradient_that_is_not_finite_is_found_and_its_batch_kept(tmp_path: Path) -> None:
    seen: list[Tensor] = []
    module = PriorIWAE(inner_samples=2, data_dim=D, decoder=lambda k, d: MLP(k, d, hidden=[4]))
    module.on_train_batch_start = lambda batch, _, __=0: seen.append(batch.x)  # type: ignore[method-assign,assignment]
    trainer = small_trainer(tmp_path, max_steps=9, limit_val_batches=0, callbacks=[FiniteGuard(), BreakGradient()])
    with pytest.raises(
        NonFiniteError, match=r"step 4: the gradient is not finite, nor is model.decoder\S* after it; likely"
    ):
        trainer.fit(module, SmallImages(batch_size=50))
    assert np.array_equal(arrays(tmp_path / "nonfinite_step4_rank0.npz")["x"], seen[3].numpy())


def test_a_diverging_run_stops_and_keeps_its_last_good_state(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    wild = ["--model.optimizer", "torch.optim.SGD", "--model.optimizer.lr", "1e30", "--model.lr_scheduler", "null"]
    finished = command(
        folder, *SMALL_FIT, *wild, "--trainer.val_check_interval", "1", "--checkpoint.last_every_seconds", 0
    )
    assert finished.status == 1
    error = finished.err.splitlines()[-1]
    assert error.startswith("lvm-lightning: error: ")
    assert "not finite" in error or "the loss is" in error or "val/bound" in error
    assert "likely cause" in error
    assert "model.optimizer.lr" in error
    for path in folder.rglob("*.ckpt"):
        state = torch.load(path, weights_only=True)["state_dict"]
        assert all(value.isfinite().all() for value in state.values())


def test_a_validation_that_is_not_finite_names_the_image(tmp_path: Path) -> None:
    module = PriorIWAE(inner_samples=2, data_dim=D, decoder=lambda k, d: MLP(k, d, hidden=[4]))
    with torch.no_grad():
        next(module.model.decoder.parameters()).fill_(torch.nan)
    with pytest.raises(NonFiniteError, match="val/bound: must be finite, got nan for image 0 of validation batch 0"):
        small_trainer(tmp_path).validate(module, SmallImages(eval_batch_size=20), verbose=False)


def test_weights_that_are_not_finite_reach_no_checkpoint(tmp_path: Path) -> None:
    module = PriorIWAE(inner_samples=2, data_dim=D, decoder=lambda k, d: MLP(k, d, hidden=[4]))
    trainer = small_trainer(tmp_path, max_steps=1, limit_val_batches=0, callbacks=[FiniteGuard()])
    trainer.fit(module, SmallImages(batch_size=50))
    with torch.no_grad():
        next(module.model.decoder.parameters()).fill_(torch.inf)
    with pytest.raises(NonFiniteError, match=r"step 1: the gradient is not finite, nor is model.decoder.* after it"):
        trainer.save_checkpoint(tmp_path / "bad.ckpt")
    assert not (tmp_path / "bad.ckpt").exists()


def test_clipping_in_yaml_bounds_the_step(tmp_path: Path) -> None:
    """One step of SGD with rate 1 moves the weights by the clipped gradient: its norm is what the file says."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "clipped.yaml").write_text("trainer:\n  gradient_clip_val: 0.125\n  gradient_clip_algorithm: norm\n")
    sgd = ["--model.optimizer", "torch.optim.SGD", "--model.lr_scheduler", "null", "--trainer.limit_val_batches", 0]
    weights = []
    for rate, extra in [(0.0, []), (1.0, ["--config", "clipped.yaml"])]:
        arguments = [*SMALL_FIT, *sgd, "--model.optimizer.lr", rate, "--trainer.max_steps", 1, *extra]
        assert command(folder, *arguments).status == 0
        newest = max(folder.glob("runs/*/*/checkpoints/last.ckpt"), key=lambda path: path.stat().st_mtime)
        state = torch.load(newest, weights_only=True)["state_dict"]
        weights.append(torch.cat([value.flatten() for value in state.values()]))
    assert float((weights[1] - weights[0]).norm()) == pytest.approx(0.125, rel=1e-4)
