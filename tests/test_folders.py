"""Every file of a run lies in the run's folder, and no run writes over another's."""

from pathlib import Path

import pytest

from tests.command import SMALL_FIT, command

STEP = ["--trainer.max_steps", 1, "--trainer.limit_val_batches", 1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the command runs."""
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


@pytest.mark.parametrize("home", ["~", "${HOME}"])
def test_a_path_is_expanded_before_anything_uses_it(home: str, folder: Path, tmp_path: Path) -> None:
    environment = {"HOME": str(tmp_path / "home")}
    (tmp_path / "home").mkdir()
    options = [*STEP, "--trainer.logger.save_dir", f"{home}/runs", "--trainer.default_root_dir", f"{home}/root"]
    for seed in (0, 1):
        finished = command(folder, *SMALL_FIT, *options, "--seed_everything", seed, environment=environment)
        assert finished.status == 0, finished.err
    runs = tmp_path / "home" / "runs" / "prior_iwae"
    for number in (0, 1):
        assert f"seed_everything: {number}" in (runs / f"version_{number}" / "config.yaml").read_text()
        assert len(list((runs / f"version_{number}").glob("events*"))) == 1
    last = f"{home}/runs/prior_iwae/version_0/checkpoints/last.ckpt"
    sample = ["sample", *SMALL_FIT[1:], "--ckpt_path", last, "--count", 4, "--output", f"{home}/drawn"]
    assert command(folder, *sample, environment=environment).status == 0
    assert (tmp_path / "home" / "drawn" / "samples.npz").exists()
    compared = command(folder, "compare", f"{home}/a", f"{home}/b", environment=environment)
    assert f"no evaluation in {tmp_path / 'home' / 'a'};" in compared.err
    assert not list(folder.iterdir())
