"""Help: a subcommand's own options first and in a page, and all of them where they are asked for."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from lightning.pytorch.cli import LightningCLI

import lvm_lightning
from lvm_lightning import studies
from lvm_lightning.command import quick
from lvm_lightning.evaluation.per_example import PER_EXAMPLE, REPORT
from lvm_lightning.evaluation.plain import digest_of
from lvm_lightning.support import write_arrays
from tests.conftest import ROOT, Run

OWN = {
    "fit": "--weights_from",
    "test": "--ckpt_path",
    "predict": "--ckpt_path",
    "sample": "--count",
    "tightness": "--largest",
    "anneal": "--chains",
    "diagnose": "--gradient_repeats",
    "compress": "--samples",
}


@pytest.mark.parametrize("subcommand", OWN)
def test_a_page_tells_what_is_the_subcommands_own(
    subcommand: str, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(subcommand, "--help") == 0
    page = capsys.readouterr().out
    assert len(page.splitlines()) <= 60
    assert page.startswith(f"usage: lvm-lightning {subcommand} [RUN]")
    assert page.index(OWN[subcommand]) < page.index("\noptions:")
    assert ("--weights_from" in page) == (subcommand == "fit")
    assert f"'lvm-lightning {subcommand} --help-all' tells all of them" in page
    assert "--trainer.max_steps" not in page


def test_everything_is_told_where_it_is_asked_for(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("fit", "--help-all") == 0
    everything = capsys.readouterr().out
    for option in ("--trainer.max_steps", "--model.help", "--evaluation.log_p", "--weights_from", "--pictures.side"):
        assert option in everything
    assert run("fit", "--help") == 0
    assert len(capsys.readouterr().out.splitlines()) <= 60  # what was asked before leaves nothing behind
    assert run("fit", "--model.help", "PriorIWAE") == 0
    assert "inner_samples" in capsys.readouterr().out


def test_the_command_and_what_needs_no_model_keep_theirs(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--help"], ["compare", "--help"], ["configs", "--help"]):
        assert run(*arguments) == 0
        assert 10 < len(capsys.readouterr().out.splitlines()) <= 60


@pytest.mark.parametrize("subcommand", OWN)
def test_what_is_answered_at_once_is_what_the_whole_command_says(
    subcommand: str, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same options under the same headings; the quick page is made of the files, without an import."""
    assert quick.answer([subcommand, "--config", "prior_iwae", "--help"]) == 0
    page = capsys.readouterr().out
    assert run(subcommand, "--help") == 0
    whole = capsys.readouterr().out
    options = r"(?m)^  (?:-\w, |-\w \w+, )?(--\w+)"
    for one, other in zip(page.split("\noptions:"), whole.split("\noptions:"), strict=True):
        assert set(re.findall(options, one)) == set(re.findall(options, other))
    assert len(page.splitlines()) <= 60
    assert page.split()[9:14] == whole.split()[9:14]  # what it does
    assert page.split("\nsettings in groups")[1] == whole.split("\nsettings in groups")[1]


def test_the_first_page_names_every_subcommand(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert quick.answer(["--help"]) == 0
    page = capsys.readouterr().out
    assert len(page.splitlines()) <= 60
    for word in (*LightningCLI.subcommands(), *studies.STUDIES, *studies.FREE_STUDIES):
        assert re.search(rf"(?m)^    {word}\b", page)
    for word, study in (studies.STUDIES | studies.FREE_STUDIES).items():
        assert quick.summary(word) == (study.__doc__ or "").partition("\n")[0]


@pytest.mark.parametrize(
    "words", [["fit"], ["fit", "--help-all"], ["configs", "--nothing"], ["--config", "a"], ["a.B"]]
)
def test_the_rest_is_for_the_whole_command(words: list[str]) -> None:
    assert quick.answer(words) is None


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert quick.answer(["--version"]) == 0
    assert capsys.readouterr().out == f"lvm-lightning {lvm_lightning.__version__}\n"


def test_an_option_says_what_it_may_be_and_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert quick.answer(["anneal", "-h"]) == 0
    page = " ".join(capsys.readouterr().out.split())
    assert "number of temperatures (a whole number above 0; default: 500)" in page
    assert "(prior, encoder, fitted; default: prior)" in page


@pytest.mark.parametrize("words", [["--help"], ["configs"], *([word, "--help"] for word in quick.WORDS)], ids=" ".join)
def test_an_answer_fits_a_terminal(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert quick.answer(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert 1 < len(lines) <= 60
    assert max(map(len, lines)) <= 80
    assert not re.search(r"default: None| \(\)", "\n".join(lines))  # what says nothing


@pytest.mark.parametrize(("word", "told"), {"": "got none; 'lvm-lightning --help'", "swep": "mean sweep?"}.items())
def test_a_first_word_that_is_no_subcommand_is_refused_at_once(
    word: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert quick.answer([word] if word else []) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("lvm-lightning: error: subcommand: must be fit, ")
    assert told in line


def test_who_reads_may_stop(tmp_path: Path) -> None:
    """``lvm-lightning configs | head`` ends without a word, whenever it finds out."""
    for words in (["configs"], ["--help"]):
        reader, writer = os.pipe()
        os.close(reader)
        command = [sys.executable, "-m", "lvm_lightning", *words]
        with os.fdopen(writer, "w") as out:
            done = subprocess.run(
                command, stdout=out, stderr=subprocess.PIPE, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, check=False
            )
        assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


def test_what_fails_is_told_in_a_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(_: object) -> str:
        raise OSError("the disk is gone")

    monkeypatch.setattr(studies.Configs, "run", fail)
    assert quick.answer(["configs"]) == 1
    assert capsys.readouterr().err == "lvm-lightning: error: the disk is gone\n"


def run_with_a_test(folder: Path, value: float) -> str:
    """A run's folder with a test whose images' values are kept."""
    folder.mkdir()
    quantity = {"name": "ELBO", "value": value, "stderr": 0.5, "images": 4, "unit": "nats per image"}
    quantity |= {"kind": "lower bound", "split": "test", "samples": 1}
    report = {"quantities": [quantity], "provenance": {"data": {"digest": "0f"}}}
    (folder / REPORT).write_text(json.dumps(report))
    write_arrays(folder / PER_EXAMPLE, {REPORT: digest_of(report), "ELBO": [value - 1, value, value, value + 1]})
    return folder.name


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["fit", "--help"], 0),
        (["anneal", "--help"], 0),
        (["configs"], 0),
        (["compare", "one", "two"], 0),
        (["compare", "one", "nothing"], 2),
        (["report", "one", "two"], 0),
        (["report", "one"], 0),
        (["report"], 2),
        (["fti"], 2),
    ],
    ids=str,
)
def test_nothing_slow_is_imported_for_an_answer_at_once(words: list[str], status: int, tmp_path: Path) -> None:
    for name, value in (("one", -90.0), ("two", -88.5)):
        run_with_a_test(tmp_path / name, value)
    slow = {"torch", "lightning", "scipy", "matplotlib", "torchvision", "torchmetrics", "zuko"}
    code = (
        f"import sys; sys.argv = ['lvm-lightning', *{words}]\n"
        "from lvm_lightning.__main__ import run\n"
        "status = run()\n"
        f"print('imported:', sorted({slow} & sys.modules.keys()), status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )
    assert done.stdout.splitlines()[-1] == f"imported: [] {status}", done.stderr
    assert len(done.stderr.splitlines()) == (status > 0), done.stderr
    if words == ["compare", "one", "two"]:
        assert "+1.5 paired" in done.stdout


def test_the_folder_of_the_call_is_importable_by_its_name(tmp_path: Path) -> None:
    """While a run's config is read, the current folder is the config's."""
    code = (
        "import sys; sys.path = [p for p in sys.path if p]; sys.argv = ['lvm-lightning', 'configs']\n"
        "from lvm_lightning.__main__ import run\n"
        "run(); print(sys.path[-1])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert Path(done.stdout.splitlines()[-1]) == tmp_path.resolve()
