"""A run that was stopped or killed goes on to the same bits."""

import random
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.command import SMALL_FIT, STEPS, Command, command

CALLBACK = "--trainer.callbacks"
EARLY = [
    *[f"{CALLBACK}+", "EarlyStopping", f"{CALLBACK}.monitor", "val/bound", f"{CALLBACK}.mode", "max"],
    *[f"{CALLBACK}.patience", 1, f"{CALLBACK}.min_delta", 0.5],
]
ARRANGEMENTS: dict[str, list[object]] = {
    "every 5 steps": ["--trainer.val_check_interval", 5],
    "two optimisers in one": ["--model.optimizer", "lvm_lightning.networks.MuonWithAdam"],
    "every epoch": ["--trainer.check_val_every_n_epoch", 1, "--trainer.val_check_interval", "1.0"],
    "half an epoch": ["--trainer.check_val_every_n_epoch", 1, "--trainer.val_check_interval", "0.5"],
    "accumulated gradients": ["--trainer.val_check_interval", 5, "--trainer.accumulate_grad_batches", 3],
    "none": ["--trainer.limit_val_batches", 0, "--trainer.num_sanity_val_steps", 0],
    "early stopping": ["--trainer.val_check_interval", 5, *EARLY],
    "early stopping by the epoch": [
        *[
            "--trainer.check_val_every_n_epoch",
            1,
            "--trainer.val_check_interval",
            "1.0",
            *EARLY,
            f"{CALLBACK}.patience",
            2,
        ]
    ],
}
RUN = Path("runs/prior_iwae/version_0")


def stopping_at(step: int, number: int = signal.SIGTERM, *, validating: bool = False) -> list[object]:
    options = [f"{CALLBACK}.step", step, f"{CALLBACK}.number", int(number)]
    return [f"{CALLBACK}+", "tests.small.SignalAt", *options, f"{CALLBACK}.validating", str(validating).lower()]


def left_by(folder: Path) -> dict[str, Any]:
    """What a run left: curve, weights, optimiser, schedule, early stopping, and which state was the best."""
    run = folder / RUN
    last = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    found = {name: last[name] for name in ("global_step", "state_dict", "optimizer_states", "lr_schedulers", "epoch")}
    rows = (run / "training_bound.csv").read_text().splitlines()[1:]
    found["curve"] = [[float(number) for number in row.split(",")] for row in rows]
    stopping = [state for name, state in last["callbacks"].items() if name.startswith("EarlyStopping")]
    found["stopping"] = [{k: v for k, v in state.items() if k in ("wait_count", "best_score")} for state in stopping]
    (state,) = (state for key, state in last["callbacks"].items() if key.startswith("RunCheckpoint"))
    found["score"] = state["best_model_score"]
    best = run / "checkpoints/best.ckpt"
    found["best"] = torch.load(best, weights_only=True)["state_dict"] if best.exists() else None
    return found


def assert_same(one: Any, other: Any, where: str = "") -> None:
    """Bit by bit."""
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
    if isinstance(one, dict | list | tuple):
        assert len(one) == len(other), where
        for key in one if isinstance(one, dict) else range(len(one)):
            assert_same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    else:
        assert one == other, where


class Whole(dict[str, dict[str, Any]]):
    """What the runs that nobody stops leave, each run when it is asked for: this process may not need them all."""

    def __init__(self, folders: pytest.TempPathFactory) -> None:
        super().__init__()
        self.folders = folders

    def __missing__(self, name: str) -> dict[str, Any]:
        folder = self.folders.mktemp("whole") / "run"
        folder.mkdir()
        finished = command(folder, *SMALL_FIT, *ARRANGEMENTS[name])
        assert finished.status == 0, finished.err
        self[name] = left_by(folder)
        return self[name]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """What the runs that nobody stops leave."""
    return Whole(tmp_path_factory)


SOME_STEPS = {
    "every 5 steps": [1, 4, 5, 12, 30],  # before any checkpoint, before and at a validation, an epoch's last, the last
    "two optimisers in one": [7],
    "every epoch": [12, 13, 24],
    "half an epoch": [6, 12],
    "accumulated gradients": [2, 5, 12],  # validations in the middle of a step
    "none": [12, 30],
    "early stopping": [7, 10],
    "early stopping by the epoch": [12, 24],
}
CASES = [(name, step) for name, steps in SOME_STEPS.items() for step in steps]


@pytest.mark.parametrize(("name", "step"), CASES)
def test_a_stopped_run_goes_on_to_the_same_bits(
    name: str, step: int, whole: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    stop_and_compare(tmp_path, name, whole[name], stopping_at(step, signal.SIGTERM))


@pytest.mark.parametrize("step", [5, 30])
def test_a_run_that_is_stopped_in_a_validation_goes_on_to_the_same_bits(
    step: int, whole: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    name = "every 5 steps"
    stop_and_compare(tmp_path, name, whole[name], stopping_at(step, signal.SIGTERM, validating=True))


def stop_and_compare(folder: Path, name: str, whole: dict[str, Any], stopping: list[object], status: int = 143) -> None:
    """Stop, look at what is said, go on as it says, and compare with the run that nobody stopped."""
    run = folder / "run"
    run.mkdir()
    stopped = command(run, *SMALL_FIT, *ARRANGEMENTS[name], *stopping)
    assert stopped.status == status, stopped.err
    line = stopped.err.splitlines()[-1]
    advice = re.fullmatch(r"lvm-lightning: stopped by .*; saved after step (\d+); go on with: lvm-lightning (.*)", line)
    assert advice is not None, line
    assert torch.load(run / RUN / "checkpoints/last.ckpt", weights_only=True)["global_step"] == int(advice[1])
    resumed = command(run, *SMALL_FIT, *ARRANGEMENTS[name], "--ckpt_path", "last")
    assert resumed.status == 0, resumed.err
    assert_same(left_by(run), whole)


def test_ctrl_c_saves_and_its_advice_can_be_followed(whole: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    stopped = command(folder, *SMALL_FIT, *stopping_at(17, signal.SIGINT))
    assert stopped.status == 130
    line = stopped.err.splitlines()[-1]
    assert line.startswith("lvm-lightning: stopped by Ctrl-C; saved after step 17; go on with: lvm-lightning fit ")
    without_signal = (folder / RUN / "config.yaml").read_text().replace("step: 17", "step: 0")
    (folder / RUN / "config.yaml").write_text(without_signal)
    resumed = command(folder, *line.partition("go on with: lvm-lightning ")[2].split())
    assert resumed.status == 0, resumed.err
    assert_same(left_by(folder), whole["every 5 steps"])
    assert [path.name for path in (folder / RUN).parent.iterdir()] == ["version_0"]


def test_a_run_whose_folder_has_moved_keeps_its_best_state(whole: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    folder.mkdir()
    assert command(folder, *SMALL_FIT, *stopping_at(27)).status == 143
    (elsewhere / RUN).parent.mkdir(parents=True)
    (folder / RUN).rename(elsewhere / RUN)
    resumed = command(folder, *SMALL_FIT, "--ckpt_path", elsewhere / RUN / "checkpoints/last.ckpt")
    assert resumed.status == 0, resumed.err
    assert_same(left_by(elsewhere), whole["every 5 steps"])
    assert "changed" not in resumed.err


def test_going_on_from_the_best_state_is_a_run_of_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    assert command(folder, *SMALL_FIT, *stopping_at(27)).status == 143
    before = {path: path.read_bytes() for path in (folder / RUN).rglob("*") if path.is_file()}
    assert command(folder, *SMALL_FIT, "--ckpt_path", "best").status == 0
    assert {path: path.read_bytes() for path in (folder / RUN).rglob("*") if path.is_file()} == before
    new = folder / RUN.parent / "version_1" / "checkpoints" / "last.ckpt"
    assert torch.load(new, weights_only=True)["global_step"] == STEPS


def test_a_second_signal_stops_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    twice = [*stopping_at(7, signal.SIGINT), *stopping_at(7, signal.SIGTERM)]
    stopped = command(folder, *SMALL_FIT, *twice)
    assert stopped.status == 143
    assert "stopped by SIGTERM; saved after step 5; go on with" in stopped.err.splitlines()[-1]


def test_a_closed_terminal_saves(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    stopped = command(folder, *SMALL_FIT, *stopping_at(7, signal.SIGHUP))
    assert stopped.status == 129
    assert "stopped by SIGHUP; saved after step 7; go on with" in stopped.err.splitlines()[-1]


def test_ctrl_c_that_is_held_saves_once_and_prints_no_traceback(tmp_path: Path) -> None:
    """The key repeats until the process is gone."""
    folder = tmp_path / "run"
    folder.mkdir()
    running = Command(folder, *SMALL_FIT, "--trainer.max_steps", -1, "--model.lr_scheduler", "null")
    wait_for((folder / RUN / "checkpoints/last.ckpt").exists)
    while running.process.is_alive():
        running.send(signal.SIGINT)
        time.sleep(0.03)
    stopped = running.wait()
    assert stopped.status == 130, stopped.err
    assert "Traceback" not in stopped.err
    assert re.search("stopped by Ctrl-C; saved after step .*; go on with", stopped.err.splitlines()[-1])


def test_stopping_before_anything_is_saved_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    stopped = command(folder, *SMALL_FIT, "--trainer.enable_checkpointing", "false", *stopping_at(3))
    assert stopped.status == 143
    assert stopped.err.splitlines()[-1] == "lvm-lightning: stopped by SIGTERM; nothing had been saved yet"


def test_a_test_that_is_stopped_says_how_to_go_on(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    assert command(folder, *SMALL_FIT).status == 0
    test = ["test", *SMALL_FIT[1:], "--ckpt_path", "last", "--data.eval_batch_size", 1]
    running = Command(folder, *test)
    wait_for(lambda: any((folder / RUN).glob("evaluation.part/*.npz")))
    running.send(signal.SIGTERM)
    stopped = running.wait()
    assert stopped.status == 143
    assert "run the same command again; a test goes on from its finished batches" in stopped.err.splitlines()[-1]
    assert "taken over from a test that did not end" in command(folder, *test).out


def kill_and_compare(folder: Path, number: signal.Signals, seconds: float, whole: dict[str, Any], name: str) -> bool:
    """Send a signal after a time, whatever the run is doing; start it again until it is done; compare.

    Returns:
        Whether the signal came before the end.
    """
    often = ["--checkpoint.last_every_seconds", 0]
    running = Command(folder, *SMALL_FIT, *ARRANGEMENTS[name], *often)
    wait_for(lambda: (folder / RUN / "config.yaml").exists() or not running.process.is_alive())
    time.sleep(seconds)
    running.send(number)
    stopped = running.wait()
    assert stopped.status in (0, -number if number == signal.SIGKILL else 128 + number), stopped.err
    for checkpoint in folder.glob("runs/*/*/checkpoints/*.ckpt"):
        torch.load(checkpoint, weights_only=True)
    last = folder / RUN / "checkpoints" / "last.ckpt"
    if last.exists():
        again = ["--ckpt_path", last]
    else:  # killed before the first step was saved: the run begins anew
        shutil.rmtree(folder / "runs")
        again = []
    resumed = command(folder, *SMALL_FIT, *ARRANGEMENTS[name], *often, *again)
    assert resumed.status == 0, resumed.err
    assert_same(left_by(folder), whole)
    assert not list(folder.rglob("*.part"))
    return stopped.status != 0


def kill_at_random(kills: int, whole: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    draw, struck = random.Random(0), 0
    for number in range(kills):
        folder = tmp_path / str(number)
        folder.mkdir()
        kind = (signal.SIGKILL, signal.SIGTERM)[number % 2]
        name = ("every 5 steps", "every epoch")[number // 2 % 2]
        struck += kill_and_compare(folder, kind, draw.uniform(0, 1.0), whole[name], name)
    assert struck > kills / 2, "most kills came too late to test anything"


def test_kills_at_random_moments(whole: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    """The short form of the soak test below."""
    kill_at_random(4, whole, tmp_path)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_twenty_kills_at_random_moments(whole: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    kill_at_random(20, whole, tmp_path)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", ARRANGEMENTS)
def test_stopping_at_every_step(name: str, whole: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    for step in range(1, whole[name]["global_step"] + 1):
        (tmp_path / str(step)).mkdir()
        stop_and_compare(tmp_path / str(step), name, whole[name], stopping_at(step))


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until something is the case."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.01)


def test_parts_of_a_killed_run_are_cleared_away(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    assert command(folder, *SMALL_FIT, *stopping_at(7)).status == 143
    part = folder / RUN / "checkpoints" / "last.ckpt.123.part"
    picture = folder / RUN / "figures" / "samples.png.123.part"
    picture.parent.mkdir(exist_ok=True)
    for _ in range(2):  # the second time no step is left
        for half in (part, picture):
            half.write_bytes(b"half of it")
        assert command(folder, *SMALL_FIT, "--ckpt_path", "last").status == 0
        assert not part.exists()
        assert not picture.exists()


def test_two_runs_that_start_together_take_two_folders(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    together = [Command(folder, *SMALL_FIT, "--trainer.max_steps", 1) for _ in range(3)]
    assert [running.wait().status for running in together] == [0, 0, 0]
    assert sorted(path.name for path in (folder / RUN).parent.iterdir()) == ["version_0", "version_1", "version_2"]
    for path in (folder / RUN).parent.iterdir():
        assert len(list(path.glob("events*"))) == 1


def test_a_disk_that_is_full_is_one_line_and_keeps_the_last_state(tmp_path: Path) -> None:
    """A limit on the size of a file stands for the disk: writing fails in the same way."""
    folder = tmp_path / "run"
    folder.mkdir()
    assert command(folder, *SMALL_FIT, *stopping_at(7)).status == 143
    before = (folder / RUN / "checkpoints/last.ckpt").read_bytes()
    full = command(folder, *SMALL_FIT, "--ckpt_path", "last", environment={"LVM_TEST_FILE_LIMIT": "4096"})
    assert full.status == 1
    error = full.err.splitlines()[-1]
    assert error.startswith("lvm-lightning: error: ")
    assert "File too large; saved after step 7; go on with: lvm-lightning fit --config" in error
    assert (folder / RUN / "checkpoints/last.ckpt").read_bytes() == before


def test_too_little_room_is_found_before_training(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    refused = command(folder, *SMALL_FIT, environment={"LVM_TEST_FREE_BYTES": "1000"})
    assert refused.status == 1
    assert re.search(r"the disk has 0 MB left, a run needs about 20 MB; free some", refused.err.splitlines()[-1])
    assert not list(folder.iterdir())
