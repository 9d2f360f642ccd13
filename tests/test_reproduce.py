"""The table of systems: rows run, go on after an interruption, and say what they are beside the published figures."""

import importlib.util
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from filelock import FileLock

from lvm_lightning.command import children
from tests.command import SMALL_FIT, Command
from tests.conftest import ROOT


def _script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reproduce", ROOT / "scripts" / "reproduce.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["reproduce"] = module
    spec.loader.exec_module(module)
    return module


reproduce: Any = _script()
COMMAND, *SMALL = [str(word) for word in SMALL_FIT]
assert (COMMAND, SMALL[0]) == ("fit", "--config")
SMALL_ROW = {
    "name": "small",
    "system": "a small prior-IWAE | K = 2",
    "config": SMALL[1],
    "overrides": SMALL[2:],
    "figure": "log p(x) by quadrature",
    "published": {"value": -7.125, "of": "L_5", "source": "a book", "elbo": -9.0, "active_units": 3},
    "pictures": ["means"],
}


def row(**changes: Any) -> Any:
    known = SMALL_ROW | changes
    return reproduce.Row(**known | {"published": known["published"] and reproduce.Published(**known["published"])})


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[str]]:
    """Commands that were run: the real ones, in processes that need not import everything anew."""
    run: list[list[str]] = []

    class Process:
        def __init__(self, arguments: Sequence[str], cwd: Path) -> None:
            assert cwd == ROOT
            assert list(arguments[:3]) == [sys.executable, "-m", "lvm_lightning"]
            run.append(list(arguments[3:]))
            self.command = Command(tmp_path, *arguments[3:])

        def wait(self) -> int:
            return self.command.wait().status

    monkeypatch.setattr(children.subprocess, "Popen", Process)
    return run


def test_a_row_is_trained_tested_described_and_not_run_again(commands: list[list[str]], tmp_path: Path) -> None:
    place = reproduce.Place(tmp_path / "table" / "small", None)
    first = reproduce.run(row(), place)
    assert [arguments[0] for arguments in commands] == ["fit", "test"]
    assert commands[1][-1] == str(place.folder / "checkpoints" / "best.ckpt")
    evaluation = json.loads((place.folder / "evaluation.json").read_text())
    log_p = next(q for q in evaluation["quantities"] if q["name"] == "log p(x) by quadrature")
    assert first["log_p"] == log_p
    assert first["bound"]["name"] == "bound (J=1, N=4, i.i.d.)"
    assert first["provenance"] == evaluation["provenance"]
    assert (first["steps"], first["active_units"]) == (30, None)
    curve = dict(map(tuple, first["validation"]))
    assert list(curve) == [5, 10, 15, 20, 25, 30]
    assert curve[first["tested_step"]] == max(curve.values())
    assert 0 < first["fit_seconds"] < 100
    assert first["test_seconds"] > 0
    again = reproduce.run(row(), place)
    assert len(commands) == 2
    assert again == first
    renamed = row(published=None, system="renamed")
    assert reproduce.run(renamed, place)["row"]["system"] == "renamed"
    with pytest.raises(reproduce.RowError, match="holds the run of another row; name another --output"):
        reproduce.run(row(overrides=[*SMALL[2:], "--seed_everything", "1"]), place)
    with pytest.raises(reproduce.RowError, match=r"figure: must be one of log p\(x\) .*, got 'log q'"):
        reproduce.run(row(figure="log q"), place)

    assert (
        reproduce.own_error(first)
        == reproduce.own_error({"log_p": log_p, "quantities": evaluation["quantities"]})
        != ""
    )
    bound = reproduce.run(row(figure="bound (J=1, N=4, i.i.d.)", like_published="log p(x) by quadrature"), place)
    assert (bound["like_published"], reproduce.own_error(bound)) == (log_p, "")
    assert f"| {reproduce.measured(log_p)} (log p(x) by quadrature) |" in reproduce.line_of(bound)

    order = ["small", "absent", "other"]
    reproduce.publish([first], place.folder.parent, tmp_path / "docs", order)
    other = first | {"row": first["row"] | {"name": "other", "pictures": []}}
    reproduce.publish([other], place.folder.parent, tmp_path / "docs", order)
    assert (tmp_path / "docs" / "small" / "means.png").stat().st_size > 100
    published = json.loads((tmp_path / "docs" / "results.json").read_text())
    assert [result["row"]["name"] for result in published] == ["small", "other"]
    assert str(tmp_path) not in json.dumps(published)
    assert published[0]["command"] == "python scripts/reproduce.py small"
    title, _, head, _, line, _ = (tmp_path / "docs" / "results.md").read_text().splitlines()
    assert title == "# All rows"
    cells = [cell.strip() for cell in line.replace(r"\|", "/").strip("|").split("|")]
    assert len(cells) == len(head.strip("|").split("|"))
    assert cells[:2] == ["`small`", "a small prior-IWAE / K = 2"]
    assert cells[3] == f"**−{-log_p['value']:.2f} ± {log_p['stderr']:.2f}**"
    assert cells[9] == "−7.12 (L_5; a book), ELBO −9.00, 3 active units"


def test_an_interrupted_row_goes_on_to_the_same_numbers(commands: list[list[str]], tmp_path: Path) -> None:
    whole = reproduce.run(row(), reproduce.Place(tmp_path / "whole" / "small", None))
    stopping = ["--trainer.callbacks", "tests.small.SignalAt", "--trainer.callbacks.step", "17"]
    place = reproduce.Place(tmp_path / "table" / "small", None)
    with pytest.raises(reproduce.Stopped) as stopped:
        reproduce.run(row(overrides=[*SMALL[2:], *stopping]), place)
    assert stopped.value.status == 143
    assert not (place.folder / "row.json").exists()
    parts = reproduce.run(row(), place)
    assert "--ckpt_path" in commands[-2]
    assert parts["quantities"] == whole["quantities"]
    assert parts["validation"] == whole["validation"]
    assert parts["provenance"]["weights"] == whole["provenance"]["weights"]


def test_a_row_whose_config_has_changed_is_not_taken_over(commands: list[list[str]], tmp_path: Path) -> None:
    config = tmp_path / "small.yaml"
    config.write_text((ROOT / SMALL[1]).read_text())
    place = reproduce.Place(tmp_path / "table" / "small", None)
    first = reproduce.run(row(config=str(config)), place)
    config.write_text("# a comment changes nothing\n" + config.read_text())
    assert reproduce.run(row(config=str(config)), place) == first
    config.write_text(config.read_text() + "ckpt_path: null\n")
    with pytest.raises(reproduce.RowError, match=r"was run before .*small.yaml got the settings that it has now; move"):
        reproduce.run(row(config=str(config)), place)
    config.write_text("model: [\n")
    with pytest.raises(reproduce.RowError, match=r"config: cannot read .*small.yaml: while parsing"):
        reproduce.run(row(config=str(config)), place)
    assert len(commands) == 2


def test_the_published_rows_are_of_the_settings_that_stand() -> None:
    rows = {row.name: row for row in reproduce.read_table(ROOT / "scripts" / "table.yaml")}
    for published in json.loads((ROOT / "docs" / "results.json").read_text()):
        found = rows.pop(published["row"]["name"])
        assert published["settings"] == reproduce.digest_of_settings(found), found.name
        assert all(published["row"].get(name) == getattr(found, name) for name in reproduce.WHAT_IS_RUN), found.name
    assert not rows


def test_a_row_starts_from_the_weights_of_another_once_that_is_finished(
    commands: list[list[str]], tmp_path: Path
) -> None:
    place = reproduce.Place(tmp_path / "second", None)
    second = row(name="second", weights_of="small", overrides=[*SMALL[2:], "--model.optimizer.lr", "1e-4"])
    with pytest.raises(
        reproduce.RowError, match="starts from the weights of small, which is not finished; run it first"
    ):
        reproduce.run(second, place)
    assert not commands
    reproduce.run(row(), reproduce.Place(tmp_path / "small", None))
    reproduce.run(second, place)
    best = str(tmp_path / "small" / "checkpoints" / "best.ckpt")
    assert commands[2][-2:] == ["--weights_from", best]
    assert "--weights_from" not in commands[0] + commands[1] + commands[3]
    with pytest.raises(reproduce.RowError, match="holds the run of another row"):
        reproduce.run(row(name="second", overrides=second.overrides), place)


def test_a_row_that_was_stopped_before_its_first_checkpoint_starts_anew(
    commands: list[list[str]], tmp_path: Path
) -> None:
    place = reproduce.Place(tmp_path / "small", None)
    place.folder.mkdir()
    (place.folder / "config.yaml").write_text("left: over\n")
    assert reproduce.run(row(), place)["steps"] == 30
    assert "--ckpt_path" not in commands[0]
    lost = reproduce.Place(tmp_path / "lost", None)
    (lost.folder / "checkpoints").mkdir(parents=True)
    (lost.folder / "checkpoints" / "best.ckpt").touch()
    with pytest.raises(reproduce.RowError, match="holds what no run without a checkpoint leaves; move"):
        reproduce.run(row(), lost)
    assert (lost.folder / "checkpoints" / "best.ckpt").exists()


def test_a_command_that_fails_fails_its_row(commands: list[list[str]], tmp_path: Path) -> None:
    with pytest.raises(reproduce.RowError, match="'lvm-lightning fit' ended with status 2, see above"):
        reproduce.run(row(overrides=["--model.inner_samples", "0"]), reproduce.Place(tmp_path / "small", None))
    assert len(commands) == 1


def test_a_command_that_is_killed_is_not_taken_for_one_that_was_asked_to_stop(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Process:
        def __init__(self, arguments: Sequence[str], cwd: Path) -> None: ...

        def wait(self) -> int:
            return -9

    monkeypatch.setattr(children.subprocess, "Popen", Process)
    with pytest.raises(reproduce.RowError, match="'lvm-lightning fit' was ended by SIGKILL"):
        reproduce.run(row(), reproduce.Place(tmp_path / "small", None))


def test_two_processes_do_not_run_one_row(tmp_path: Path) -> None:
    with (
        FileLock(tmp_path / ".small.lock"),
        pytest.raises(reproduce.RowError, match="another process is running it in"),
    ):
        reproduce.run(row(), reproduce.Place(tmp_path / "small", None))


def test_every_row_of_the_table_names_what_is_there() -> None:
    rows = reproduce.read_table(ROOT / "scripts" / "table.yaml")
    assert len({row.name for row in rows}) == len(rows) >= 14
    for found in rows:
        assert (ROOT / found.config).is_file()
        assert found.published is None or found.published.value < 0
    assert {row.published.source for row in rows if row.published} >= {"Burda et al. 2016, appendix D", "its README"}


def script(*arguments: object) -> subprocess.CompletedProcess[str]:
    call = [sys.executable, str(ROOT / "scripts" / "reproduce.py"), *map(str, arguments)]
    return subprocess.run(call, capture_output=True, text=True, timeout=100, check=False)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["nothing"], r"row: must be one of jensen, .*, got nothing"),
        (["burda_vae"], r"--amat: burda_vae needs Larochelle & Murray's files, got no folder; name the one that holds"),
        (["--table", "missing.yaml"], r"--table: cannot read missing.yaml: .*No such file"),
        (["--table", "table.yaml"], r"--table: cannot read .*table.yaml: .*nonsense"),
        (["--table", "latin.yaml"], r"--table: cannot read latin.yaml: 'utf-8' codec"),
        (["jensen", "--output", "latin.yaml"], r"--output: must be a folder .*got latin.yaml \(File exists\); name"),
        (["jensen", "--publish", "latin.yaml"], r"--publish: must be a folder .*got latin.yaml \(File exists\); name"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str],
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("latin.yaml").write_bytes(bytes([233]))
    Path("table.yaml").write_text(f"- {json.dumps(SMALL_ROW | {'nonsense': 1})}\n")
    monkeypatch.setattr(sys, "argv", ["reproduce.py", *arguments])
    with pytest.raises(SystemExit) as left:
        reproduce.main()
    out, err = capsys.readouterr()
    assert (left.value.code, out) == (2, "")
    assert re.fullmatch(f"reproduce.py: {line}.*\n", err), err


def test_a_damaged_record_of_a_row_is_named(tmp_path: Path) -> None:
    place = reproduce.Place(tmp_path / "table" / "small", None)
    place.folder.mkdir(parents=True)
    (place.folder / "row.json").write_text("{")
    with pytest.raises(reproduce.RowError, match=r"small/row.json cannot be read \(JSONDecodeError\); move it away"):
        reproduce.run(row(), place)


def test_it_lists_the_rows() -> None:
    done = script("--list")
    assert done.returncode == 0
    assert done.stdout.splitlines()[0].split() == shlex.split("jensen Jensen bound from the prior, K = 2, J = 128")
