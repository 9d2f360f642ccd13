"""What is shown while something runs and when it is done: bars and tables, in a terminal and in a log."""

import importlib
import io
import random
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from jsonargparse import Namespace
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar

from lvm_lightning.callbacks import BoundProgressBar, progress
from lvm_lightning.evaluation import LOG_P, NATS, Quantity, table
from lvm_lightning.evaluation.layout import LOG, WORD, Screen, aligned
from lvm_lightning.evaluation.report import with_error
from lvm_lightning.evaluation.rise import tightness
from lvm_lightning.modules import PriorIWAE
from lvm_lightning.studies.compare import Run as Evaluated
from lvm_lightning.studies.compare import shown
from lvm_lightning.studies.tightness import table as table_of_tightness
from lvm_lightning.support import progress as bars
from tests.command import SMALL_FIT
from tests.conftest import Run
from tests.small import D, SmallImages, small_trainer
from tests.test_diagnosis import written_run
from tests.test_evaluators import network

WIDTHS = (80, 120)
ESCAPE = "\x1b"
NAMES = (
    *("log p(x) by quadrature", "log p(x) ≥ L_2000 (fitted proposals)", "image-independent Bernoulli"),
    *("KL(q(z) ‖ p(z)), of the aggregate posterior", "annealed from the prior: 500 temperatures, 16 chains", "ELBO"),
)
UNITS = ("nats per image", "nats per image (density on [0, 1])", "|mean|/standard deviation", "of 50 latent dimensions")


def quantities(seed: int) -> list[Quantity]:
    chance, found = random.Random(seed), []
    for name in chance.sample(NAMES, 5):
        value, stderr = chance.uniform(-1e4, 0), chance.choice([0.0, 1e-7, 0.0321, 12.3])
        kind = chance.choice(["stochastic estimate", "lower bound"])
        split, samples = chance.choice(["simulated", "test"]), chance.choice([0, 50_000])
        found.append(Quantity(name, value, stderr, chance.choice(UNITS), kind, split, samples, 10_000))  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("width", WIDTHS)
def test_a_table_that_fits_the_screen_loses_nothing(width: int, seed: int) -> None:
    found = quantities(seed)
    text = table(found, Screen(width))
    assert max(map(len, text.splitlines())) <= width
    assert ESCAPE not in text
    for q in found:
        (line,) = [line for line in text.splitlines() if with_error(q.value, q.stderr) in line]
        assert q.samples == 0 or "50,000" in line or "samples: 50,000" in text
    words = [word for q in found for cell in (q.name, q.unit, q.kind, q.split) for word in cell.split()]
    assert not [word for word in words if word not in text and (len(word) <= WORD or re.search(r"\d", word))]
    assert "images: 10,000" in text or width > 80


def test_a_log_has_a_line_for_each_row_whatever_the_terminal_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("COLUMNS", "FORCE_COLOR"):
        monkeypatch.setenv(variable, "40")
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    found = quantities(0)
    text = table(found, Screen.here())
    assert text == table(found) == table(found, LOG)
    assert ESCAPE not in text
    for q, line in zip(found, text.splitlines()[2:], strict=True):
        cells = (q.name, with_error(q.value, q.stderr), q.unit, q.kind, q.split, f"{q.samples:,}", f"{q.images:,}")
        assert re.fullmatch(r"\s+".join(map(re.escape, cells)), line)


def test_a_terminal_has_its_width_and_a_bold_heading_unless_without_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setenv("COLUMNS", "93")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert Screen.here() == Screen(93, styled=True)
    found = quantities(0)
    bold = table(found, Screen.here())
    assert f"{ESCAPE}[1m" in bold
    monkeypatch.setenv("NO_COLOR", "1")
    assert ESCAPE not in table(found, Screen.here())
    assert [line.rstrip() for line in re.sub(r"\x1b\[[\d;]*m", "", bold).splitlines()] == (
        table(found, Screen.here()).splitlines()
    )


def test_lines_are_rather_too_long_than_cut() -> None:
    rows = [["a", "b"], ["extraordinarily", "-1234.5678 ± 0.0012"], ["two words", "3"]]
    text = aligned(rows, Screen(10))
    assert "extraordin  -1234.5678 ± 0.0012\narily\n" in text
    assert "two words   3" in text


@pytest.mark.parametrize("width", [*WIDTHS, None])
def test_runs_side_by_side_are_whole_on_every_screen(
    width: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    images = torch.randn(300, dtype=torch.float64)
    folders = [Path("runs/prior_iwae") / f"version_{number}" for number in range(3)]
    for number, folder in enumerate(folders):
        written_run(folder, images - 100 + number + 0.1 * number * torch.randn(300), keep=number < 2)
    runs = [Evaluated(folder) for folder in folders]
    text = shown(runs, Screen(width))
    for run in runs:
        (q,) = run.quantities.values()
        assert with_error(q.value, q.stderr) in text
        assert str(run.path) in text
    differences = re.findall(r"[+-]\d+\.\d+ ± \d+\.\d+ (?:un)?paired", shown(runs))
    assert len(differences) == 2
    for told in differences:
        assert told in text
    if width:
        assert max(map(len, text.splitlines())) <= width
        assert "run 3: runs/prior_iwae/version_2" in text


@pytest.mark.parametrize("width", WIDTHS)
def test_the_table_of_bounds_over_n_is_whole(width: int) -> None:
    rows = tightness(2 * torch.randn(1024, 40) - 100, torch.full((40,), -97.9))
    exact = [Quantity("error of the quadrature", 1e-5, 1e-7, "nats", "stochastic estimate", "test", 0, 40)]
    units = {LOG_P: "nats per image (density on [0, 1])", NATS: "nats per image"}
    text = table_of_tightness(rows, exact, units, Screen(width))
    assert max(map(len, text.splitlines())) <= width
    for row in rows:
        assert row.gap is not None
        assert row.gap_stderr is not None
        numbers = (f"{row.samples:,}", with_error(row.bound, row.stderr), with_error(row.gap, row.gap_stderr))
        assert re.search(r"^" + r"\s+".join(map(re.escape, numbers)) + rf"\s+{row.predicted_gap:.4g}$", text, re.M)


# Bars


class Terminal(io.StringIO):
    """A file that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_bar_is_few_lines_in_a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bars, "SECONDS", 0.0)
    log = io.StringIO()
    for _ in bars.Bar(range(1000), desc="work", file=log, mininterval=0):
        pass
    lines = log.getvalue().splitlines()
    assert len(lines) == 10  # each once, the last one too
    assert re.fullmatch(r"work: 10 %, 10\d of 1,000, 00:00 gone, 00:00 left", lines[0])
    assert re.fullmatch(r"work: 100 %, 1,000 of 1,000, 00:00 gone, 00:00 left", lines[-1])
    assert not set(log.getvalue()) & {"\r", ESCAPE}


def test_a_bar_that_takes_no_time_says_nothing_in_a_log_unless_it_stays() -> None:
    for leave, lines in ((False, 0), (True, 1)):
        log = io.StringIO()
        for _ in bars.Bar(range(1000), desc="work", file=log, mininterval=0, leave=leave):
            pass
        assert len(log.getvalue().splitlines()) == lines


def test_a_bar_without_an_end_has_a_line_each_time_it_has_doubled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bars, "SECONDS", 0.0)
    log = io.StringIO()
    bar = bars.Bar(desc="work", file=log, mininterval=0, leave=False)
    for _ in range(100):
        bar.update()
    bar.close()
    assert [int(n) for n in re.findall(r"^work: (\d+) \[", log.getvalue(), re.M)] == [1, 2, 4, 8, 16, 32, 64]


def test_a_bar_in_a_terminal_says_what_is_left() -> None:
    terminal = Terminal()
    bar = bars.Bar(desc="work", total=1000, file=terminal, initial=400, mininterval=0)
    bar.start_t -= 60
    bar.update(100)
    bar.close()
    assert re.search(r"\rwork:  50%\|.*\| 500/1,000 \[01:00, 05:00 left, +1\.6\d/s\]", terminal.getvalue())


# The bar of a training


class SaveAt(pl.Callback):
    """Save within a training: at its end Lightning counts a broken-off epoch as a whole one."""

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == 15:
            trainer.save_checkpoint(Path(trainer.default_root_dir) / "last.ckpt")


def fitted(folder: Path, checkpoint: Path | None = None, **options: Any) -> Any:
    """The bar of a training with these options of the trainer, 600/50 = 12 steps an epoch."""
    bar = BoundProgressBar(seconds=0)
    trainer = small_trainer(folder, enable_progress_bar=True, callbacks=[bar, SaveAt()], **options)
    module = PriorIWAE(inner_samples=2, data_dim=D, decoder=network)
    trainer.fit(module, SmallImages(batch_size=50), ckpt_path=checkpoint)
    return bar.train_progress_bar


@pytest.mark.parametrize(
    ("options", "total"),
    [
        ({"max_steps": 20}, 20),
        ({"max_epochs": 3}, 36),
        ({"max_epochs": 2, "limit_train_batches": 7, "accumulate_grad_batches": 2}, 8),
        ({"max_epochs": 2, "max_steps": 15}, 15),
    ],
)
def test_the_bar_counts_the_steps_of_the_whole_training(
    options: dict[str, Any], total: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bar = fitted(tmp_path, **options)
    assert (bar.initial, bar.n, bar.total) == (0, total, total)
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert re.fullmatch(rf"fit: 100 %, {total} of {total}, 00:\d\d gone, 00:00 left, bound=-\d+\.\d\d nats", line)


def test_the_bar_of_a_resumed_training_goes_on(tmp_path: Path) -> None:
    first = fitted(tmp_path, max_steps=15)
    assert (first.initial, first.n) == (0, 15)
    again = fitted(tmp_path, tmp_path / "last.ckpt", max_epochs=3)
    assert (again.initial, again.n, again.total) == (15, 36, 36)


def test_a_training_has_one_bar_and_tells_its_validations_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    fitted(tmp_path, max_steps=24, val_check_interval=4, num_sanity_val_steps=1)
    drawn = terminal.getvalue()
    assert set(re.findall(r"\r(\w[^:|]*):", drawn)) == {"fit"}
    assert "validation 1/1" in drawn
    assert drawn.count("\n") == 1 + drawn.count("stopped")


def test_the_users_own_bar_is_the_only_one() -> None:
    for setting, drawn in [(None, True), (True, True), (False, False)]:
        assert progress.wanted(Namespace(enable_progress_bar=setting)) == drawn
    for own in (TQDMProgressBar(), [RichProgressBar()]):
        assert not progress.wanted(Namespace(callbacks=own))


def test_a_run_in_a_log_has_few_lines(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    shown = ["--trainer.enable_progress_bar", "true"]
    assert run(*SMALL_FIT, *shown) == 0
    out, err = capsys.readouterr()
    assert re.search(r"^fit: 100 %, 30 of 30, 00:\d\d gone, 00:00 left, bound=-\d+\.\d\d nats$", err, re.M)
    assert len(err.splitlines()) < 8
    assert not set(out + err) & {"\r", ESCAPE}
    assert run("predict", "runs/prior_iwae/version_0", *shown) == 0
    out, err = capsys.readouterr()
    assert re.search(r"^predict: 100 %, 3 of 3, .* left$", err, re.M)
    assert re.fullmatch(r"predictions \(.*\) of 103 images written to runs/\S+/predictions.npz", out.splitlines()[-1])


def test_reproducing_says_which_row_of_how_many_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    reproduce = importlib.import_module("reproduce")
    now = [100.0]
    monkeypatch.setattr(reproduce, "time", SimpleNamespace(monotonic=lambda: now[0]))
    told = reproduce.Told(2, 3, "burda_vae")
    told("training")
    now[0] += 754
    told("test")
    assert capsys.readouterr().out == "row 2 of 3, burda_vae: training\nrow 2 of 3, burda_vae, after 12:34: test\n"
