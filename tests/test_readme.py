"""The README and the pages in docs/: their size, their links, and their commands as they stand, with fewer steps."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lvm_lightning.command import sweeping
from tests.conftest import ROOT, Run
from tests.test_arrays import digits

README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
FEWER: list[object] = [
    *["--trainer.max_steps", 4, "--trainer.val_check_interval", 2],
    *["--model.decoder.hidden", "[8]", "--trainer.limit_val_batches", 1, "--trainer.limit_test_batches", 1],
    *["--trainer.log_every_n_steps", 1, "--evaluation.spacing", 0.2, "--trainer.enable_progress_bar", "false"],
]
FEWER_OF = {
    "tightness": ["--largest", 16, "--images", 20],
    "predict": ["--trainer.limit_predict_batches", 1],
}


def commands(page: Path) -> Iterator[list[str]]:
    """The command lines of a page, without their comments."""
    for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                yield words


def test_a_newcomer_finishes_it() -> None:
    text = README.read_text()
    assert len(text.splitlines()) <= 150
    assert len(re.findall(r"\]\(", text)) >= 15


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\((.*?)\)", page.read_text()):
        path, _, heading = link.partition("#")
        if "://" in link:
            continue
        target = page.parent / path if path else page
        assert target.exists(), link
        if heading:
            titles = [line.lstrip("# ").lower() for line in target.read_text().splitlines() if line.startswith("#")]
            assert heading in {re.sub(r"[^\w -]", "", title).replace(" ", "-") for title in titles}, link


def test_its_commands_work_one_after_the_other(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "digits.npy", digits(1797))  # as many as scikit-learn's: that is no package of ours
    done = []
    for program, *arguments in commands(README):
        if program != "lvm-lightning":
            script = next((word for word in arguments if word.startswith("scripts/")), None)
            assert (ROOT / script).is_file() if script else "sklearn" in arguments[-1]
            continue
        word = arguments[0]
        if word == "sweep":  # its runs are processes of their own
            monkeypatch.setattr(sweeping, "run_command", lambda words: run(*words))
            assert sweeping.sweep([*arguments[1:], *map(str, FEWER)]) == 0
            assert (tmp_path / "runs" / "sweep_prior_iwae" / "sweep.png").is_file()
            continue
        made = word == "fit" and "--config" in arguments
        assert run(*arguments, *(FEWER if made else FEWER_OF.get(word, []))) == 0, arguments
        done.append(word)
    assert {"configs", "fit", "test", "sample", "tightness", "predict", "report"} <= set(done)
    assert len(list(Path("runs/prior_iwae").glob("version_*"))) == 3


@pytest.mark.parametrize("page", PAGES[1:], ids=lambda page: page.name)
def test_commands_of_the_pages_name_files_that_are_there(page: Path) -> None:
    for words in commands(page):
        for word in words:
            if word.startswith(("configs/", "scripts/")):
                assert (ROOT / word).exists(), word
