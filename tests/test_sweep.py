"""Sweeps: a run for each combination, gone on with where it was stopped, and a table and a picture of all."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from filelock import FileLock
from PIL import Image

from lvm_lightning.command import quick, sweeping
from lvm_lightning.command.sweeping import Sweep, sweep
from lvm_lightning.support import UserError
from tests.command import SMALL_FIT
from tests.conftest import Run

SMALL = [str(word) for word in SMALL_FIT[1:]]
SWEPT = [*SMALL, "--model.inner_samples", "2,8", "--output", "swept"]


@pytest.fixture
def commands(run: Run, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What is run; in this process, so that the slow imports are not waited for."""
    found: list[list[str]] = []

    def run_command(arguments: list[str]) -> int:
        found.append(list(arguments))
        return run(*arguments)

    monkeypatch.setattr(sweeping, "run_command", run_command)
    return found


def test_a_list_is_a_run_for_each_value_and_brackets_are_one() -> None:
    words = ["--config=a,b", "--model.decoder.hidden", "[8, 8]", "--model.inner_samples", "8,32", "--flag"]
    found = Sweep.of([*words, "--seed_everything", "0"])
    assert found.varied == {"config": ["a", "b"], "model.inner_samples": ["8", "32"]}
    assert found.fixed == ["--model.decoder.hidden", "[8, 8]", "--flag", "--seed_everything", "0"]
    assert found.folder == Path("runs/sweep_a")
    assert len(found.combinations()) == 4
    folders = {found.folder_of(chosen).name for chosen in found.combinations()}
    assert folders == {"config-a_inner_samples-8", "config-a_inner_samples-32"} | {
        "config-b_inner_samples-8",
        "config-b_inner_samples-32",
    }


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--config", "prior_iwae"], "sweep: must vary a setting, got no list; as in --model.inner_samples 8,32,128"),
        (
            ["--model.inner_samples", "8,,32"],
            "model.inner_samples: must be values between commas, with no gap, got 8,,32",
        ),
        (["--model.inner_samples=8,"], "model.inner_samples: must be values between commas, with no gap, got 8,"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert quick.answer(["sweep", *words]) == 2
    assert capsys.readouterr().err == f"lvm-lightning: error: {said}\n"
    assert not list(tmp_path.iterdir())


def test_a_sweep_is_stopped_gone_on_with_and_told(
    commands: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = sweeping.run_command

    def stopped(arguments: list[str]) -> int:
        """The first run is finished, the second ends before its first step."""
        return whole(arguments) if len(commands) < 1 else 130

    monkeypatch.setattr(sweeping, "run_command", stopped)
    assert sweep(SWEPT) == 130
    assert "the same command goes on" in capsys.readouterr().err
    (tmp_path / "swept" / "inner_samples-8").mkdir()  # what a run leaves that is killed before its first checkpoint
    monkeypatch.setattr(sweeping, "run_command", whole)
    assert sweep(SWEPT) == 0
    told = capsys.readouterr()
    assert [words[0] for words in commands] == ["fit", "fit"]
    assert "run 1 of 2, model.inner_samples 2: finished before" in told.err
    record = json.loads((tmp_path / "swept" / "sweep.json").read_text())
    assert [run["settings"] for run in record["runs"]] == [{"model.inner_samples": "2"}, {"model.inner_samples": "8"}]
    for run in record["runs"]:
        config = yaml.safe_load((Path(run["folder"]) / "config.yaml").read_text())
        assert str(config["model"]["init_args"]["inner_samples"]) == run["settings"]["model.inner_samples"]
        reported = json.loads((Path(run["folder"]) / "evaluation.json").read_text())["quantities"]
        assert run["values"]["log_px"]["value"] == reported[0]["value"]
    table = (tmp_path / "swept" / "sweep.txt").read_text()
    head = table.splitlines()[0].split()
    assert head[0] == "inner_samples"
    assert [line.split()[0] for line in table.splitlines()[2:4]] == ["2", "8"]
    assert table.splitlines()[-1] == "unit: nats per image"
    assert table.strip() in told.out
    with Image.open(tmp_path / "swept" / "sweep.png") as picture:
        assert min(picture.size) > 300
    assert sweep(SWEPT) == 0
    assert len(commands) == 2  # all are finished
    with pytest.raises(UserError, match=r"output: must be the folder of the same sweep, got swept of another"):
        sweep([*SMALL, "--model.inner_samples", "2,4", "--output", "swept"])


def test_a_run_with_a_checkpoint_goes_on(commands: list[list[str]], tmp_path: Path) -> None:
    asked = Sweep.of(SWEPT)
    first = asked.combinations()[0]
    arguments = sweeping._arguments(asked, first)
    assert arguments[-2:] == ["--test_after_fit", "true"]
    assert sweeping.run_command([*arguments[:-2], "--trainer.max_steps", "10"]) == 0
    again = sweeping._arguments(asked, first)
    assert again == ["fit", "swept/inner_samples-2", "--test_after_fit", "true"]
    assert sweeping.run_command(again) == 0
    assert (tmp_path / "swept" / "inner_samples-2" / "evaluation.json").is_file()


def test_processes_share_a_sweep(commands: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with FileLock(tmp_path / "swept" / ".inner_samples-2.lock"):
        assert sweep(SWEPT) == 0
        assert len(commands) == 1
        told = capsys.readouterr()
        assert "run 1 of 2, model.inner_samples 2: another process runs it" in told.err
        assert told.out.endswith("1 of 2 runs are still run by other processes; the last one writes the table\n")
        assert not (tmp_path / "swept" / "sweep.txt").exists()
    assert sweep(SWEPT) == 0
    assert len(commands) == 2
    assert (tmp_path / "swept" / "sweep.txt").is_file()


def test_what_is_no_run_is_not_removed(commands: list[list[str]], tmp_path: Path) -> None:
    precious = tmp_path / "swept" / "inner_samples-2" / "thesis.tex"
    precious.parent.mkdir(parents=True)
    precious.write_text("all of it")
    with pytest.raises(UserError, match="inner_samples-2 holds what no run without a checkpoint leaves; move it away"):
        sweep(SWEPT)
    assert precious.read_text() == "all of it"
    assert commands == []


def test_a_run_that_fails_ends_the_sweep_with_its_status(
    commands: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep([*SMALL, "--model.latent_dim", "2,0", "--model.inner_samples", "2", "--output", "x"]) == 2
    assert "latent_dim: must be a whole number above 0, got 0" in capsys.readouterr().err


def test_the_process_of_a_run_has_its_status(capfd: pytest.CaptureFixture[str]) -> None:
    assert sweeping.run_command(["configs", "nothing"]) == 2
    assert "names: must be of" in capfd.readouterr().err


def test_several_curves_stand_over_a_setting() -> None:
    from lvm_lightning.figures.curves import sweep_curves

    points: Any = {("log p(x)", f"seed {s}"): [(8.0, -5.0, 0.1), (128.0, -4.0, 0.1)] for s in (0, 1)}
    (axes,) = sweep_curves(points, "inner_samples", "nats").axes
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_xscale()) == ("inner samples", "nats", "log")
    legend = axes.get_legend()
    assert legend is not None
    assert {text.get_text() for text in legend.get_texts()} == {"log p(x), seed 0", "log p(x), seed 1"}
