"""A run in Python: the same numbers as the command's, no graph, and examples in the docstrings that run."""

import doctest
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lvm_lightning
from lvm_lightning.data.loader import Batch
from lvm_lightning.evaluation.quadrature import GridQuadrature
from lvm_lightning.modules import GaussianVAE, LatentMixture, PriorIWAE, inferring, prior_iwae
from lvm_lightning.networks import MLP
from lvm_lightning.support import UserError
from tests.command import SMALL_FIT
from tests.conftest import arrays, commands_in
from tests.small import D, SmallImages, images


def small_network(fan_in: int, fan_out: int) -> MLP:
    return MLP(fan_in, fan_out, hidden=(16,))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the command that was tested and has predicted."""
    folder = tmp_path_factory.mktemp("loaded")
    run = folder / "runs" / "prior_iwae" / "version_0"
    commands_in(folder, SMALL_FIT, ["test", run], ["predict", run])
    return run


@pytest.fixture
def x() -> torch.Tensor:
    data = SmallImages(eval_batch_size=50)
    data.setup()
    return torch.cat([batch.x for batch in data.test_dataloader()])


def test_a_run_answers_as_the_command_does(trained: Path, x: torch.Tensor) -> None:
    model = lvm_lightning.load(trained)
    assert not model.training
    quantities = json.loads((trained / "evaluation.json").read_text())["quantities"]
    log_p = model.log_prob(x)
    assert log_p.name == quantities[0]["name"]
    assert float(log_p.value.mean()) == pytest.approx(
        quantities[0]["value"], abs=2e-3
    )  # the grid's spacing is the run's
    assert float(log_p.error.max()) < 0.02
    assert not log_p.value.requires_grad
    predicted = arrays(trained / "predictions.npz")
    np.testing.assert_allclose(model.encode(x), predicted["z_mean"], atol=0.02)
    assert model.reconstruct(x).shape == x.shape
    assert torch.equal(model.sample(5, seed=1).x, model.sample(5, seed=1).x)
    assert not torch.equal(model.sample(5, seed=1).z, model.sample(5, seed=2).z)


def test_a_checkpoint_stands_for_itself(trained: Path, x: torch.Tensor) -> None:
    states = [lvm_lightning.load(trained / "checkpoints" / f"{name}.ckpt").state_dict() for name in ("best", "last")]
    best = lvm_lightning.load(str(trained)).state_dict()
    assert all(torch.equal(states[0][name], best[name]) for name in best)
    with pytest.raises(UserError, match=r"run: must have a checkpoint, got .*nowhere"):
        lvm_lightning.load(trained / "nowhere")


@pytest.mark.parametrize("dtype", [np.uint8, np.float64, bool])
def test_examples_are_tensors_or_arrays_of_images_rows_or_one(dtype: type) -> None:
    model = PriorIWAE(data_dim=D, decoder=small_network)
    x = images()
    expected = model.log_prob(x).value
    array: Any = x.numpy().astype(dtype)
    given: list[object] = [array, array.reshape(-1, 4, 3), torch.from_numpy(array)]
    for examples in given:
        # float32 inside: a processor sums differently where the memory of x is aligned differently
        torch.testing.assert_close(model.log_prob(examples).value, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(model.log_prob(x[0]).value, expected[:1], atol=1e-4, rtol=0)


@pytest.mark.parametrize("latent_dim", [2, 3])
@pytest.mark.parametrize("kind", ["prior", "encoder", "mixture"])
def test_every_family_answers(kind: str, latent_dim: int) -> None:
    torch.manual_seed(0)
    options = {"latent_dim": latent_dim, "data_dim": D, "decoder": small_network}
    families = {"prior": PriorIWAE, "mixture": LatentMixture}
    model = GaussianVAE(**options, encoder=small_network) if kind == "encoder" else families[kind](**options)  # type: ignore[arg-type]
    x = images()
    log_p = model.log_prob(x)
    assert log_p.name.endswith({"mixture": "summation"}.get(kind, "quadrature" if latent_dim == 2 else "proposals)"))
    z = model.encode(x)
    assert z.shape == (len(x), latent_dim)
    torch.testing.assert_close(model.reconstruct(x), model.model.decode(z).sigmoid())
    assert not model.reconstruct(x).requires_grad
    if kind == "encoder":
        torch.testing.assert_close(z, model.propose(x).location)
    if latent_dim == 2 and kind != "mixture":
        with torch.no_grad():
            exact = GridQuadrature(model.model.decode, model.model.likelihood.log_prob, 2).measure(x)[0]
        torch.testing.assert_close(log_p.value, exact.double(), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "options",
    [
        ["--model.prior", "FlowPrior"],
        ["--model.prior", "VampPrior", "--model.prior.components", 5],
        ["--model.posterior", "InverseAutoregressiveFlow"],
        ["--model.likelihood", "Gaussian"],
    ],
)
def test_a_run_of_every_prior_and_posterior_is_loaded(options: list[object], tmp_path: Path) -> None:
    small = [word for word in SMALL_FIT[3:] if word not in ("--evaluation.spacing", 0.2)]
    more = [
        "--model.latent_dim",
        3,
        "--model.encoder.hidden",
        "[8]",
        "--model.inner_samples",
        1,
        "--model.kl_warmup",
        0,
    ]
    commands_in(tmp_path, ["fit", "--config", "burda_vae", *small, *more, *options, "--trainer.max_steps", 2])
    (run,) = (tmp_path / "runs" / "burda_vae").iterdir()
    model, x = lvm_lightning.load(run), images()
    log_p = model.log_prob(x)
    assert bool(log_p.value.isfinite().all())
    assert log_p.name.endswith("(fitted proposals)")
    assert model.encode(x).shape == (len(x), 3)
    assert model.sample(2).x.shape == model.reconstruct(x[:2]).shape == (2, D)


def test_the_grid_of_codes_is_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, made, original = PriorIWAE(data_dim=D, decoder=small_network), [], prior_iwae.posterior_grid

    def posterior_grid(*arguments: Any) -> object:
        made.append(1)
        return original(*arguments)

    whole = model.encode(images(25))
    monkeypatch.setattr(inferring, "TOGETHER", 10)
    monkeypatch.setattr(prior_iwae, "posterior_grid", posterior_grid)
    torch.testing.assert_close(model.encode(images(25)), whole)
    assert len(made) == 1
    assert model._posterior is None  # it takes 400 MB


def test_many_examples_are_measured_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = PriorIWAE(data_dim=D, decoder=small_network), []
    whole, original = model.log_prob(images(25)), inferring.measure

    def measure(*arguments: object) -> object:
        batch = arguments[3]
        assert isinstance(batch, Batch)
        seen.append(len(batch.x))
        return original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(inferring, "TOGETHER", 10)
    monkeypatch.setattr(inferring, "measure", measure)
    torch.testing.assert_close(model.log_prob(images(25)).value, whole.value)
    assert seen == [10, 10, 5]


def test_the_examples_of_the_docstrings_run() -> None:
    torch.manual_seed(0)
    names = {"PriorIWAE": PriorIWAE, "GaussianVAE": GaussianVAE, "torch": torch}
    tests = doctest.DocTestFinder().find(inferring.InferringModule, globs=names)
    results = [doctest.DocTestRunner().run(test) for test in tests]
    assert sum(result.attempted for result in results) >= 4
    assert sum(result.failed for result in results) == 0
