"""What a user adds in one file of his own, outside the package, and chooses from YAML, through the command."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT, Run

# Lightning's advice about a plain loader, which is an error in these tests.
pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
EXTENSIONS = ROOT / "tests" / "extensions"
LINES = {"bound": 15, "likelihood": 40, "prior": 40, "network": 40, "evaluator": 20, "data": 30, "study": 40}
"""The most that each may take."""
STEPS = 4
TRAINER = {
    **{"max_steps": STEPS, "val_check_interval": 2, "log_every_n_steps": 2, "check_val_every_n_epoch": None},
    **{"enable_progress_bar": False, "enable_model_summary": False},
    "logger": {
        "class_path": "lightning.pytorch.loggers.TensorBoardLogger",
        "init_args": {"save_dir": "runs", "name": "own", "default_hp_metric": False},
    },
}
SMALL = {"class_path": "lvm_lightning.networks.MLP", "init_args": {"hidden": [8]}}
COARSE = ["--evaluation.spacing", 0.2]
BARS = {"class_path": "my_data.Bars"}
VAE = {"latent_dim": 2, "data_dim": 64, "encoder": SMALL, "decoder": SMALL}
PRIOR_IWAE = {"data_dim": 64, "inner_samples": 4, "decoder": SMALL, "output_bias": "zero"}


def quantities(
    run: Run, model: str, arguments: dict[str, object], data: object = BARS, **groups: object
) -> dict[str, dict[str, object]]:
    """Fit and test what a config of these settings says, from an empty folder; the quantities by name."""
    content = {
        "seed_everything": 0,
        "model": {"class_path": f"lvm_lightning.modules.{model}", "init_args": arguments},
        "data": data,
        "trainer": TRAINER,
        **groups,
    }
    Path("own.yaml").write_text(yaml.safe_dump(content))
    assert run("fit", "--config", "own.yaml") == 0
    assert run("test", "--config", "own.yaml", "--ckpt_path", "last", "--evaluation.samples", 8, *COARSE) == 0
    found = json.loads(Path("runs/own/version_0/evaluation.json").read_text())["quantities"]
    return {q["name"]: q for q in found}


@pytest.fixture(autouse=True)
def _outside_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files lie in a folder that Python looks in, and nowhere near the package."""
    folder = tmp_path / "mine"
    shutil.copytree(EXTENSIONS, folder)
    monkeypatch.syspath_prepend(folder)


@pytest.mark.parametrize("kind", LINES)
def test_an_extension_is_one_short_file(kind: str) -> None:
    assert len((EXTENSIONS / f"my_{kind}.py").read_text().splitlines()) <= LINES[kind]


@pytest.mark.parametrize("estimator", ["pathwise", "sticking_the_landing", "doubly_reparameterised"])
def test_a_bound_with_every_estimator(run: Run, estimator: str) -> None:
    own = {"inner_samples": 4, "bound": "my_bound.halfway", "estimator": estimator}
    found = quantities(run, "GaussianVAE", VAE | own)
    assert found["halfway bound (J=1, N=4)"]["kind"] == "lower bound"


def test_a_bound_without_an_encoder(run: Run) -> None:
    found = quantities(run, "PriorIWAE", PRIOR_IWAE | {"bound": "my_bound.halfway"})
    assert found["halfway bound (J=1, N=4, i.i.d.)"]["kind"] == "lower bound"


@pytest.mark.parametrize(
    ("bound", "name", "kind"),
    [
        ({"class_path": "Jackknife", "init_args": {"order": 1}}, "jackknife estimate", "stochastic estimate"),
        ({"class_path": "lvm_lightning.objectives.CUBO"}, "CUBO", "upper bound"),
        ({"class_path": "Renyi", "init_args": {"alpha": 0.5}}, "Rényi bound", "lower bound"),
    ],
)
@pytest.mark.parametrize("model", ["GaussianVAE", "PriorIWAE"])
def test_a_bound_of_ours_by_name_says_what_it_is(run: Run, model: str, bound: object, name: str, kind: str) -> None:
    own = (VAE if model == "GaussianVAE" else PRIOR_IWAE) | {"inner_samples": 4, "bound": bound}
    (found,) = [q for title, q in quantities(run, model, own).items() if title.startswith(name)]
    assert found["kind"] == kind


def test_a_likelihood(run: Run) -> None:
    found = quantities(run, "GaussianVAE", VAE | {"likelihood": "my_likelihood.Laplace", "output_bias": "zero"})
    assert found["ELBO"]["unit"] == "nats per image (density on [0, 1])"


@pytest.mark.parametrize("prior", ["my_prior.ExemplarPrior", "lvm_lightning.densities.VampPrior"])
def test_a_prior_that_uses_the_encoder(run: Run, prior: str) -> None:
    size = {"exemplars": 20} if prior.startswith("my_prior") else {"components": 20}
    found = quantities(run, "GaussianVAE", VAE | {"prior": {"class_path": prior, "init_args": size}})
    assert "ELBO" in found
    assert run("sample", "--config", "own.yaml", "--ckpt_path", "last", "--count", 4) == 0


def test_a_network(run: Run) -> None:
    own = {
        "encoder": {"class_path": "my_network.Residual", "init_args": {"width": 8}},
        "decoder": "my_network.Residual",
    }
    assert "ELBO" in quantities(run, "GaussianVAE", VAE | own)


@pytest.mark.parametrize("model", ["GaussianVAE", "PriorIWAE", "ExponentialPosterior"])
def test_an_evaluator_appears_in_the_test_of_every_module(run: Run, model: str) -> None:
    toy = {"class_path": "lvm_lightning.data.ExponentialObservations"}
    arguments: dict[str, object] = {"GaussianVAE": VAE, "PriorIWAE": PRIOR_IWAE}.get(model, {"outer_samples": 4})
    own = {"evaluators": [{"class_path": "my_evaluator.AtTheLocation"}]}
    found = quantities(run, model, arguments, toy if model == "ExponentialPosterior" else BARS, evaluation=own)
    assert found["log p(x|z) at q's location"]["kind"] == "stochastic estimate"


def test_a_study_is_a_subcommand(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    quantities(run, "GaussianVAE", VAE, trainer=TRAINER | {"max_steps": 60, "val_check_interval": 60})
    capsys.readouterr()
    options = ["--config", "own.yaml", "--ckpt_path", "last", "--share", 0.2, "--output", "looked"]
    assert run("my_study.Corruption", *options) == 0
    clean, corrupted = json.loads(Path("looked/corruption.json").read_text())["quantities"]
    assert clean["value"] > corrupted["value"]
    assert "L_8, corrupted" in capsys.readouterr().out
