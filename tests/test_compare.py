"""Runs side by side: values of one test alone are paired, and a damaged file blocks nothing that does not need it."""

import random
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from lvm_lightning.evaluation import Measured
from lvm_lightning.evaluation.per_example import PER_EXAMPLE, REPORT, read_per_example
from lvm_lightning.evaluation.report import FinishedBatches
from lvm_lightning.evaluation.tags import tags_of
from lvm_lightning.studies import Compare
from lvm_lightning.support.errors import UserError
from tests.command import SMALL_FIT
from tests.conftest import Run
from tests.test_diagnosis import written_run

VALUES = torch.arange(40, dtype=torch.float64).sin()


def damaged(content: bytes, count: int) -> Iterator[bytes]:
    """Empty, cut off at many lengths, and with some bytes changed."""
    chance = random.Random(0)
    for i in range(count // 2):
        yield content[: i * len(content) // (count // 2)]
    for _ in range(count - count // 2):
        changed = bytearray(content)
        for _ in range(chance.randint(1, 5)):
            changed[chance.randrange(len(changed))] ^= chance.randint(1, 255)
        yield bytes(changed)


def test_values_of_an_earlier_test_are_not_paired(tmp_path: Path) -> None:
    first, second = written_run(tmp_path / "a", VALUES), written_run(tmp_path / "b", VALUES + 1)
    written_run(tmp_path / "b", VALUES + 2, keep=False)  # a kill before the values of the new test were written
    line, note = Compare(first, second).run().splitlines()[2::2]
    assert "+2.00 ± " in line
    assert "unpaired" in line
    assert line.endswith("  40")
    assert re.fullmatch(r"note: .*b/evaluation_per_example.npz is not of the test in .*; test again with .*", note)
    np.savez(second / PER_EXAMPLE, ELBO=VALUES)  # of an older version, which did not say
    assert "unpaired" in Compare(first, second).run()


def test_a_test_that_keeps_no_values_removes_those_of_an_earlier_one(run: Run) -> None:
    arguments = [*SMALL_FIT[1:], "--trainer.max_steps", 1, "--trainer.limit_val_batches", 1]
    assert run("fit", *arguments) == 0
    tested = ["test", *arguments, "--ckpt_path", "last", "--evaluation.save_per_example"]
    folder = Path("runs/prior_iwae/version_0")
    assert run(*tested, "true") == 0
    assert run("compare", folder, folder) == 0
    assert (folder / PER_EXAMPLE).is_file()
    assert run(*tested, "false") == 0
    assert not (folder / PER_EXAMPLE).exists()


def test_other_numbers_of_the_same_images_are_refused(
    tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = written_run(tmp_path / "a", torch.randn(200)), written_run(tmp_path / "b", torch.randn(10_000))
    assert run("compare", first, second) == 2
    message = rf"RUN: the runs must be about the same images, got 200 in {first} and 10,000 in {second}; test both .*\n"
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize("name", [REPORT, PER_EXAMPLE])
def test_a_damaged_file_is_named_in_one_line_or_believed_whole(name: str, tmp_path: Path) -> None:
    first, second = written_run(tmp_path / "a", VALUES), written_run(tmp_path / "b", VALUES + 1)
    whole, refused = (second / name).read_bytes(), 0
    for content in damaged(whole, 100):
        (second / name).write_bytes(content)
        try:
            told = Compare(first, second).run()
        except UserError as error:
            assert name == REPORT or re.match(rf"RUN: .*b/{name} is not ", str(error))  # noqa: PT017
            assert "\n" not in str(error)  # noqa: PT017
            refused += 1
        else:
            assert name == REPORT or re.search(r"unpaired|\+1 (± \S+ )?paired", told)  # whole: what changed is a date
    assert refused > (60 if name == REPORT else 90)


def test_a_damaged_part_is_measured_again(tmp_path: Path) -> None:
    part = FinishedBatches(tmp_path, "key")
    found = [Measured("a bound", VALUES, "lower bound", 7), Measured("one", VALUES[:1], "exact", 0, constant=True)]
    part.keep("batch0", found)
    file = tmp_path / "batch0.npz"
    whole, again = file.read_bytes(), 0
    for content in damaged(whole, 1000):
        file.write_bytes(content)
        recalled = part.recall("batch0")
        again += recalled is None
        assert recalled is None or all(torch.equal(a.values, b.values) for a, b in zip(recalled, found, strict=True))
    assert again > 900
    file.write_bytes(whole)
    assert part.recall("batch0") is not None


def test_missing_values_are_no_values(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_per_example(tmp_path, {})


def test_rows_meet_whatever_the_number_of_samples_is(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """The central experiment: one model and N = 2, 4, 8."""
    arguments = [*SMALL_FIT[1:], "--trainer.max_steps", 1, "--trainer.limit_val_batches", 1]
    folders = []
    for number, N in enumerate((2, 4, 8)):
        assert run("fit", *arguments, "--model.inner_samples", N, "--test_after_fit", "true") == 0
        folders.append(Path(f"runs/prior_iwae/version_{number}"))
    capsys.readouterr()
    assert run("compare", *folders) == 0
    table = capsys.readouterr().out
    assert "—" not in table
    (line,) = [line for line in table.splitlines() if line.startswith("bound  ")]
    assert all(f"(J=1, N={N}, i.i.d.)" in line for N in (2, 4, 8))
    assert line.count("unpaired") == 2


NAMES = [
    *["log p(x) by quadrature", "error of the quadrature", "bound (J=1, N=8, i.i.d.)", "log p(x) − bound", "ELBO"],
    *["log p(x) ≥ L_2000 (fitted proposals)", "log p(x) ≥ L_5000", "active units", "Pareto k of the weights"],
    *["importance-weighted bound L_4", "importance-weighted bound L_16", "θ*, the ELBO's maximum", "θ"],
]


def test_tags_do_not_depend_on_the_number_of_samples_and_are_all_different() -> None:
    tags = tags_of(NAMES)
    assert len(set(tags.values()) - {""}) == len(NAMES)
    assert [tags[name] for name in NAMES[:5]] == ["log_px", "log_px_error", "bound", "gap", "elbo"]
    assert tags["log p(x) ≥ L_5000"] == "iw_bound"
    assert tags["log p(x) ≥ L_2000 (fitted proposals)"] != "log_px"  # it is known exactly
    others = ["log p(x) ≥ L_500 (fitted proposals)", "error of L_500 (fitted proposals)", "KL(p(z) ‖ p(z|x))"]
    assert list(tags_of(others).values()) == ["log_px", "log_px_error", "gap"]
