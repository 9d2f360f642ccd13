"""Runs and configs by name, from any folder."""

import itertools
import json
import re
import shutil
from pathlib import Path

import pytest

from lvm_lightning.command.naming import written_out
from lvm_lightning.studies.configs import CONFIGS, about, names_of_configs
from lvm_lightning.support import UserError
from tests.command import SMALL_FIT
from tests.conftest import ROOT, Run, commands_in


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a small model by the name of its config."""
    folder = tmp_path_factory.mktemp("named")
    commands_in(folder, ["fit", "--config", "prior_iwae", *SMALL_FIT[3:]])
    return folder / "runs" / "prior_iwae" / "version_0"


@pytest.fixture
def own(trained: Path, tmp_path: Path) -> Path:
    """A copy of it, somewhere else."""
    shutil.copytree(trained, tmp_path / "elsewhere" / "a run")
    return tmp_path / "elsewhere" / "a run"


def test_a_run_is_tested_from_its_folder_alone_wherever_it_lies(own: Path, run: Run) -> None:
    assert run("test", own) == 0
    named = json.loads((own / "evaluation.json").read_text())
    best = own / "checkpoints" / "best.ckpt"
    assert run("test", "--config", own / "config.yaml", "--ckpt_path", best) == 0
    assert json.loads((own / "evaluation.json").read_text()) == named
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("subcommand", "options", "files"),
    [
        ("predict", [], ["predictions.npz"]),
        ("sample", ["--count", 4], ["samples.npz", "samples.png"]),
        ("tightness", ["--largest", 8, "--images", 5], ["tightness.json", "tightness.png"]),
        ("anneal", ["--images", 2, "--simulated", 2, "--steps", 3, "--importance_samples", 10], ["annealing.json"]),
        ("validate", [], []),
    ],
)
def test_a_run_is_enough_for_every_subcommand(
    subcommand: str, options: list[object], files: list[str], own: Path, run: Run
) -> None:
    assert run(subcommand, own, *options) == 0
    assert all((own / name).stat().st_size > 0 for name in files)


def test_fit_goes_on_with_a_run(own: Path, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--trainer.max_steps", 30]
    assert run("fit", own, *more) == 0  # it has its 30 steps already: nothing is lost, nothing is new
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("subcommand", "given", "asked", "state"),
    [
        ("test", "", [], "best"),
        ("fit", "", [], "last"),
        ("test", "checkpoints/last.ckpt", [], "last"),
        ("test", "", ["--ckpt_path", "last"], "last"),
        ("fit", "", ["--ckpt_path", "best"], "best"),
    ],
)
def test_the_state_that_a_run_stands_for(
    subcommand: str, given: str, asked: list[str], state: str, trained: Path
) -> None:
    words = written_out([subcommand, str(trained / given), *asked])
    assert words[:3] == [subcommand, "--config", str(trained / "config.yaml")]
    paths = [word for before, word in itertools.pairwise(words) if before == "--ckpt_path"]
    assert paths[-1] == str(trained / "checkpoints" / f"{state}.ckpt")


def test_a_run_without_a_best_state_is_its_last_one(own: Path) -> None:
    (own / "checkpoints" / "best.ckpt").unlink()
    assert written_out(["test", str(own)])[-1] == str(own / "checkpoints" / "last.ckpt")
    (own / "checkpoints" / "last.ckpt").unlink()
    with pytest.raises(UserError, match=r"run: must have a checkpoint, got .*, without .*last.ckpt; train it"):
        written_out(["test", str(own)])


def test_a_file_comes_before_a_config_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ours = str(CONFIGS / "jensen.yaml")
    for flag in ("--config", "-c"):
        assert written_out(["fit", flag, "jensen", "--seed", "jensen"]) == ["fit", flag, ours, "--seed", "jensen"]
    assert written_out(["fit", "--config=jensen"]) == ["fit", f"--config={ours}"]
    assert written_out(["fit", "--config", "jensen.yaml"]) == ["fit", "--config", "jensen.yaml"]
    Path("jensen").touch()
    assert written_out(["fit", "--config", "jensen"]) == ["fit", "--config", "jensen"]
    assert written_out([]) == []
    assert written_out(["--config", "jensen", "fit"]) == ["--config", "jensen", "fit"]  # told by the parser


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "--config", "prior_iwea"], "config: must be .*, got prior_iwea; did you mean prior_iwae?; 'lvm-"),
        (
            ["test", "nowhere"],
            "run: must be the folder of a run, .*, got nowhere, without nowhere/config.yaml; a config",
        ),
        (
            ["fit", ROOT / "configs" / "jensen.yaml"],
            "run: must be the folder of a run, .*; a config is given by --config",
        ),
        (["configs", "jense"], "names: must be of burda_iwae, .*, got jense"),
    ],
)
def test_what_is_not_there_is_told_in_a_line(
    arguments: list[object], message: str, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(message.replace("?", r"\?"), line), line


def test_every_config_is_listed_with_a_sentence_and_shown_whole(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("configs") == 0
    listed = capsys.readouterr().out
    for name in names_of_configs():
        assert re.search(rf"^{name} +\S", listed, re.MULTILINE)
        assert re.fullmatch(r"\S.{20,}\.", about(name)), about(name)
    assert max(map(len, listed.splitlines())) <= 120
    assert run("configs", "jensen") == 0
    assert capsys.readouterr().out.strip() == (ROOT / "configs" / "jensen.yaml").read_text().strip()
