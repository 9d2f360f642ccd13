"""Every file of a run lies in the run's folder, and no run writes over another's."""

import re
import shutil
import signal
from pathlib import Path

import pytest
import torch

from tests.command import SMALL_FIT, STEPS, Command, Finished, command
from tests.test_mistakes import tree
from tests.test_resume import CALLBACK, RUN, stopping_at, wait_for

VERSION = ["--trainer.logger.version", 0]
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


def refused(folder: Path, message: str, *arguments: object) -> None:
    """The command is refused in one line, and changes nothing."""
    before = tree(folder.parent)
    finished = command(folder, *arguments)
    assert finished.status == 2, finished.err
    (error,) = [line for line in finished.err.splitlines() if not re.match("[GT]PU available: ", line)]
    assert re.search(message, error), error
    assert {name: digest for name, digest in tree(folder.parent).items() if ".logs" not in name} == {
        name: digest for name, digest in before.items() if ".logs" not in name
    }


def test_a_run_does_not_write_over_the_checkpoints_of_another(folder: Path) -> None:
    shared = ["--checkpoint.dirpath", folder / "shared"]
    stopped = command(folder, *SMALL_FIT, *shared, *stopping_at(7))
    assert stopped.status == 143
    held = f"checkpoint.dirpath: must not hold a run already, got .*shared; go on .*{folder}/shared/last.ckpt"
    refused(folder, held, *SMALL_FIT, *shared)
    refused(folder, held, *SMALL_FIT, *shared, "--ckpt_path", folder / "shared/best.ckpt")
    refused(folder, held, *SMALL_FIT, *shared, "--trainer.logger", "false", "--trainer.default_root_dir", "new")
    run = folder / RUN
    refused(folder, "version: must not hold", *SMALL_FIT, "--ckpt_path", folder / "shared/best.ckpt", *VERSION)
    advice = stopped.err.splitlines()[-1].partition("go on with: lvm-lightning ")[2].split()
    assert advice[:3] == ["fit", "--config", str(run.relative_to(folder) / "config.yaml")]
    (run / "config.yaml").write_text((run / "config.yaml").read_text().replace("step: 7", "step: 0"))
    resumed = command(folder, *advice)
    assert resumed.status == 0, resumed.err
    assert torch.load(folder / "shared/last.ckpt", weights_only=True)["global_step"] == STEPS


@pytest.mark.parametrize("file", ["config.yaml", "training_bound.csv"])
def test_a_run_without_logger_and_checkpoints_does_not_write_over_a_file(file: str, folder: Path) -> None:
    (folder / file).write_text("kept")
    without = ["--trainer.logger", "false", "--trainer.enable_checkpointing", "false"]
    refused(folder, "trainer.default_root_dir: must not hold a run already, got .", *SMALL_FIT, *without)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        *[("checkpoint.filename", "../x"), ("checkpoint.filename", "/tmp/x"), ("trainer.logger.name", "/tmp/x")],
        *[("trainer.logger.version", "../x"), ("trainer.logger.sub_dir", "a/../../x")],
    ],
)
def test_a_name_does_not_lead_out_of_the_folder(key: str, name: str, folder: Path) -> None:
    refused(folder, f"{key}: must be a name inside the run's folder, got {name}", *SMALL_FIT, f"--{key}", name)


def test_the_best_state_is_not_called_like_the_last(folder: Path) -> None:
    refused(folder, "checkpoint.filename: must not be that of the last", *SMALL_FIT, "--checkpoint.filename", "last")


def one_of_two(folder: Path, number: int, *arguments: object) -> Finished:
    """Start a command twice together: one goes on, the other is told; returns what the first left."""
    go = folder.parent / f"go{number}"
    wait = [f"{CALLBACK}+", "tests.small.WaitFor", f"{CALLBACK}.file", go]
    both = [Command(folder, *arguments, *wait) for _ in range(2)]
    wait_for(lambda: any(not running.process.is_alive() for running in both))
    go.touch()
    loser, winner = sorted((running.wait() for running in both), key=lambda finished: -finished.status)
    assert (loser.status, winner.status) == (2, 0), loser.err + winner.err
    assert len(loser.err.splitlines()) == 1
    assert re.search(r"must not be in use, got .*, where another 'lvm-lightning \w+' is at work; wait", loser.err)
    assert not list(folder.rglob("*.lock"))
    return winner


def pairs(count: int, folder: Path, way: str) -> None:
    """Two new runs of one name, two that go on with one run, or two tests of one run; each time one wins."""
    for number in range(count):
        if way == "fit":
            one_of_two(folder, number, *SMALL_FIT, "--trainer.logger.version", number)
            left = folder / "runs/prior_iwae" / f"version_{number}"
        elif way == "fit without a logger":
            without = ["--trainer.logger", "false", "--trainer.default_root_dir", folder / str(number)]
            one_of_two(folder, number, *SMALL_FIT, *without, "--checkpoint.dirpath", folder / str(number))
            left = folder / str(number)
        else:
            if not (folder / RUN).exists():
                assert command(folder, *SMALL_FIT, *stopping_at(7)).status == 143
                shutil.copytree(folder / RUN, folder.parent / "kept")
            shutil.rmtree(folder / RUN)
            shutil.copytree(folder.parent / "kept", folder / RUN)
            arguments = SMALL_FIT if way == "go on" else ["test", *SMALL_FIT[1:]]
            one_of_two(folder, number, *arguments, "--ckpt_path", "last")
            left = folder / RUN
        if way == "test":
            assert not (left / "evaluation.part").exists()
            assert (left / "evaluation.json").exists()
        else:
            assert len((left / "training_bound.csv").read_text().splitlines()) == STEPS + 1
    assert len(list((folder / "runs/prior_iwae").glob("*"))) == (
        count if way == "fit" else way != "fit without a logger"
    )


WAYS = ["fit", "fit without a logger", "go on", "test"]


@pytest.mark.parametrize("way", WAYS)
def test_of_two_commands_on_one_run_one_goes_on(way: str, folder: Path) -> None:
    pairs(2, folder, way)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("way", WAYS)
def test_of_two_commands_on_one_run_one_goes_on_every_time(way: str, folder: Path) -> None:
    pairs(50, folder, way)


def test_a_killed_run_leaves_no_lock_and_a_test_may_run_beside_a_training(folder: Path) -> None:
    killed = Command(folder, *SMALL_FIT, *VERSION, f"{CALLBACK}+", "tests.small.WaitFor", f"{CALLBACK}.file", "never")
    wait_for((folder / RUN / ".fit.lock").exists)
    killed.send(signal.SIGKILL)
    killed.wait()
    for path in (folder / RUN).glob("*"):
        if path.name != ".fit.lock":
            path.unlink()
    at_work = [f"{CALLBACK}+", "tests.small.WaitFor", f"{CALLBACK}.file", "go", f"{CALLBACK}.step", 7]
    training = Command(folder, *SMALL_FIT, *VERSION, *at_work)
    wait_for((folder / RUN / "checkpoints/last.ckpt").exists)
    tested = command(folder, "test", *SMALL_FIT[1:], "--ckpt_path", "last")
    (folder / "go").touch()
    assert tested.status == 0, tested.err
    assert training.wait().status == 0


def test_a_file_system_without_locks_is_told(folder: Path) -> None:
    finished = command(folder, *SMALL_FIT, *STEP, environment={"LVM_TEST_NO_LOCKS": "1"})
    assert finished.status == 0, finished.err
    assert "note: no locks in runs/prior_iwae/version_0; start no second command on this run" in finished.err


def test_runs_of_a_logger_that_has_one_folder_for_all_stay_apart(folder: Path) -> None:
    named = [*SMALL_FIT, "--trainer.logger", "tests.small.NamedRuns", "--trainer.logger.save_dir", "runs"]
    for seed in (0, 1):
        finished = command(folder, *named, *STEP, "--seed_everything", seed, "--trainer.logger.project", "digits")
        assert finished.status == 0, finished.err
    runs = sorted((folder / "runs" / "digits").iterdir(), key=lambda run: run.stat().st_ctime)
    assert {path.name for path in (folder / "runs").iterdir()} == {"digits"}
    assert len(runs) == 2
    for seed, run in enumerate(runs):
        assert f"seed_everything: {seed}" in (run / "config.yaml").read_text()
        assert {path.name for path in run.iterdir()} >= {"checkpoints", "figures", "training_bound.csv"}
    before = (runs[1] / "training_bound.csv").read_text()
    resumed = command(folder, "fit", runs[0], "--trainer.max_steps", 2, "--trainer.limit_val_batches", 1)
    assert resumed.status == 0, resumed.err
    assert len((runs[0] / "training_bound.csv").read_text().splitlines()) == 3
    assert (runs[1] / "training_bound.csv").read_text() == before
    assert sorted((folder / "runs" / "digits").iterdir()) == sorted(runs)
    taken = ["--trainer.logger.project", "digits", "--trainer.logger.version", runs[0].name]
    refused(folder, "trainer.logger.version: must not hold a run already", *named, *taken)
