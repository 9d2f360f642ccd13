"""Help: a subcommand's own options first and in a page, and all of them where they are asked for."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from lightning.pytorch.cli import LightningCLI

import lvm_lightning
from lvm_lightning import studies
from lvm_lightning.command import quick
from tests.conftest import ROOT, Run

OWN = {
    "fit": "--weights_from",
    "test": "--ckpt_path",
    "predict": "--ckpt_path",
    "sample": "--count",
    "tightness": "--largest",
    "anneal": "--chains",
    "diagnose": "--gradient_repeats",
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


@pytest.mark.parametrize("words", [["fit"], ["fit", "--help-all"], ["configs", "--nothing"], [], ["a.B"]])
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


@pytest.mark.parametrize(
    "words", [["--help"], ["fit", "--help"], ["anneal", "--help"], ["configs"], ["compare", "a", "b"]]
)
def test_nothing_slow_is_imported_for_an_answer_at_once(words: list[str], tmp_path: Path) -> None:
    slow = {"torch", "lightning", "scipy", "matplotlib", "torchvision", "torchmetrics", "zuko"}
    code = (
        f"import sys; sys.argv = ['lvm-lightning', *{words}]\n"
        "from lvm_lightning.__main__ import run\n"
        "status = run()\n"
        f"print('imported:', sorted({slow} & sys.modules.keys()), status)"
    )
    done = subprocess.run(  # noqa: PLW1510  # a mistake's status is looked at
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.stdout.splitlines()[-1] == f"imported: [] {2 if 'compare' in words else 0}", done.stderr
    if "compare" in words:
        assert done.stderr == "lvm-lightning: error: RUN: no evaluation in a; run 'lvm-lightning test' on it first\n"


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
