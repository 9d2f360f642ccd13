"""Studies as subcommands, one of the user's own among them, and old names on the way in."""

import json
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from jsonargparse import Namespace

from lvm_lightning.command.older import migrate, new_name, new_setting
from lvm_lightning.command.parsing import with_key
from tests.command import SMALL_FIT, command

OWN = '''
"""How large the weights of a decoder are."""

import torch

from lvm_lightning.studies import FreeStudy, Study, Subject


class Norms(Study):
    """Measure the norms of the decoder's weights.

    Args:
        power: which norm.
    """

    def __init__(self, power: int = 2) -> None:
        self.power = power

    def run(self, subject: Subject) -> str:
        norms = torch.stack([p.detach().norm(self.power) for p in subject.model.decoder.parameters()])
        return subject.write("norms.json", [subject.quantity("norm", norms, "exact", 0)])


class Hello(FreeStudy):
    """Greet."""

    def __init__(self, *name: str, loud: bool = False) -> None:
        self.name, self.loud = name, loud

    def run(self) -> str:
        return " ".join(["hello", *self.name]) + "!" * self.loud
'''


def test_a_study_of_ones_own_is_a_subcommand(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "my_studies.py").write_text(OWN)
    assert command(folder, *SMALL_FIT).status == 0
    call = ["my_studies.Norms", *SMALL_FIT[1:], "--ckpt_path", "last", "--output", "new"]
    done = command(folder, *call, "--power", 1)
    assert done.status == 0, done.err
    assert "written to new/norms.json" in done.out
    (quantity,) = json.loads((folder / "new/norms.json").read_text())["quantities"]
    weights = torch.load(folder / "runs/prior_iwae/version_0/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    norms = [float(value.norm(1)) for name, value in weights.items() if "decoder." in name]
    assert quantity["value"] == pytest.approx(sum(norms) / len(norms))
    wrong = command(folder, *call, "--power", "two")
    assert wrong.status == 2
    assert wrong.err.splitlines()[-1].startswith("lvm-lightning: error: power: must be a whole number, got two; ")
    assert "lvm-lightning my_studies.Norms --help" in wrong.err
    assert "which norm" in command(folder, "my_studies.Norms", "--help").out
    greeting = command(folder, "my_studies.Hello", "Ada", "Bob", "--loud", "true")
    assert greeting.out == "hello Ada Bob!\n"


def test_log_space_needs_no_model(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    done = command(folder, "log_space", "--output", "new", "--samples", 8)
    assert done.status == 0, done.err
    assert "0.8^784 in float32: 0" in done.out
    assert (folder / "new" / "log_space.png").exists()
    wrong = command(folder, "log_space", "--samples", 0)
    assert (wrong.status, "samples: must be a whole number above 0, got 0" in wrong.err) == (2, True)


def test_a_class_names_its_argument_and_the_command_the_key() -> None:
    network = Namespace(class_path="MLP", init_args=Namespace(hidden=[8]))
    settings = Namespace(
        model=Namespace(class_path="PriorIWAE", init_args=Namespace(inner_samples=0, decoder=network, seed=1)),
        data=Namespace(class_path="StaticMNIST", init_args=Namespace(batch_size=0, seed=2)),
    )
    for said, told in {
        "inner_samples: must be at least 1": "model.inner_samples: must be at least 1",
        "batch_size: must be at most 50,000": "data.batch_size: must be at most 50,000",
        "hidden: must be": "model.decoder.hidden: must be",
        "decoder: must be a class": "model.decoder: must be a class",
        "seed: must be": "model.seed: must be",
        "model.inner_samples: must be": "model.inner_samples: must be",
        "data: must be": "data: must be",
        "no key in it": "no key in it",
    }.items():
        assert with_key(said, settings) == told


def test_old_names_have_new_ones() -> None:
    assert new_name("lvm_lightning.proposals.flow.InverseAutoregressiveFlow") == (
        "lvm_lightning.densities.InverseAutoregressiveFlow"
    )
    assert new_name("lvm_lightning.optimizers.MuonWithAdam") == "lvm_lightning.networks.MuonWithAdam"
    assert new_name("lvm_lightning.modules.GaussianVAE") == "lvm_lightning.modules.GaussianVAE"
    assert new_setting("model.init_args.test_samples") == "evaluation.samples"
    assert new_setting("model.inner_samples") is None


def test_an_old_checkpoint_is_one_of_today() -> None:
    likelihood = {"class_path": "lvm_lightning.likelihoods.Gaussian", "init_args": {"sigma": 1.0}}
    family = {"_class_path": "lvm_lightning.modules.GaussianVAE"}
    settings = {**family, "likelihood": likelihood, "test_samples": 5000, "alpha": 0.0}
    weights = OrderedDict({"decoder.weight": torch.zeros(2), "encoder.weight": torch.zeros(2)})
    old = {"global_step": 3, "hyper_parameters": settings, "state_dict": weights}
    today = migrate(old)
    assert today["hyper_parameters"] == {
        **family,
        "likelihood": {"class_path": "lvm_lightning.densities.Gaussian", "init_args": {"sigma": 1.0}},
        "bound": "lvm_lightning.objectives.iw_elbo",
    }
    assert list(today["state_dict"]) == ["model.decoder.weight", "encoder.weight"]
    assert migrate(today) == today
    assert settings["test_samples"] == 5000
    renyi = migrate(old | {"hyper_parameters": {**family, "alpha": 0.5}})["hyper_parameters"]["bound"]
    assert renyi == {"class_path": "lvm_lightning.objectives.Renyi", "init_args": {"alpha": 0.5}}
    own = {"_class_path": "my_module.Mine", "alpha": 0.5, "test_samples": 3, "test_widen": 2.0, "quadrature_spacing": 1}
    assert migrate(old | {"hyper_parameters": own})["hyper_parameters"] == own
