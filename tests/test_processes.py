"""Two processes are one: the same gradient, the same metrics, no image twice."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.command import SMALL_FIT, Command, Finished
from tests.command import command as run_command
from tests.conftest import ROOT, arrays
from tests.test_resume import assert_same, left_by, stopping_at

CONFIG = ROOT / "configs" / "prior_iwae.yaml"
VAE = ROOT / "configs" / "burda_iwae.yaml"
LAPLACE = ROOT / "configs" / "laplace_iwae.yaml"
TWO = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.accelerator", "cpu"]
ONE_STEP = [
    *["--model.inner_samples", "8", "--model.decoder.hidden", "[16, 16]", "--model.lr_scheduler", "null"],
    *["--model.optimizer", "torch.optim.SGD", "--model.optimizer.lr", "1.0", "--data.batch_size", "64"],
    *["--trainer.max_steps", "1", "--trainer.val_check_interval", "1", "--trainer.log_every_n_steps", "1"],
    *["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"],
    *["--trainer.limit_val_batches", "1", "--data", "tests.small.SmallImages", "--model.data_dim", "12"],
    *["--evaluation.spacing", "0.2"],
]


def command(folder: Path, *arguments: object) -> None:
    """The command in one process."""
    finished = run_command(folder, *arguments)
    assert finished.status == 0, finished.err


def command_in_two(folder: Path, *arguments: object) -> None:
    """The command in two processes, which a launcher starts."""
    port = free_port()
    both = [Command(folder, *arguments, *TWO, environment=under_torchrun(rank, port)) for rank in (0, 1)]
    for finished in [running.wait() for running in both]:
        assert finished.status == 0, finished.err


def weights(folder: Path) -> torch.Tensor:
    (path,) = folder.glob("runs/*/version_0/checkpoints/last.ckpt")
    state = torch.load(path, weights_only=True)["state_dict"]
    return torch.cat([value.double().flatten() for value in state.values()])


CASES = {
    "shared points": (CONFIG, ["--model.share_points", "true"]),
    "own points": (CONFIG, ["--model.share_points", "false"]),
    "own points in portions": (CONFIG, ["--model.share_points", "false", "--model.inner_samples", "1024"]),
    "modes": (LAPLACE, ["--model.pilots", "32", "--model.latent_dim", "2", "--trainer.precision", "32-true"]),
    "an encoder": (
        VAE,
        [
            *["--model.encoder.hidden", "[16]", "--model.estimator", "doubly_reparameterised"],
            *["--model.free_bits", "0.2", "--evaluation.samples", "32", "--trainer.precision", "32-true"],
        ],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_first_gradient_of_two_processes_is_that_of_one(tmp_path: Path, case: str) -> None:
    """One step of SGD with rate 1 moves the weights by minus the gradient."""
    moved = []
    config, options = CASES[case]
    for folder, run, rate in [("first", command, 0.0), ("one", command, 1.0), ("two", command_in_two, 1.0)]:
        (tmp_path / folder).mkdir()
        run(tmp_path / folder, "fit", "--config", config, *ONE_STEP, *options, "--model.optimizer.lr", rate)
        moved.append(weights(tmp_path / folder))
    one, two = moved[1] - moved[0], moved[2] - moved[0]
    assert one.norm() > 0.1
    assert (two - one).norm() / one.norm() < 1e-6
    if not case.startswith("own points"):
        evaluate_in_two_processes(tmp_path, config, options)


def evaluate_in_two_processes(folder: Path, config: Path, model: list[str]) -> None:
    """The same checkpoint, 103 images, batches that two processes do not divide evenly: one has none of the last."""
    evaluations = []
    (checkpoint,) = (folder / "one").glob("runs/*/version_0/checkpoints/last.ckpt")
    for run in (command, command_in_two):
        options = [*ONE_STEP, *model, "--data.eval_batch_size", "17", "--ckpt_path", checkpoint]
        run(folder, "test", "--config", config, *options)
        evaluations.append(json.loads((checkpoint.parent.parent / "evaluation.json").read_text())["quantities"])
    for single, double in zip(*evaluations, strict=True):
        assert double["images"] == single["images"] == 103
        assert double["value"] == pytest.approx(single["value"], abs=1e-5, rel=1e-8)
        assert double["stderr"] == pytest.approx(single["stderr"], abs=1e-5, rel=1e-8)
    uneven = ["--data.eval_batch_size", "17", "--ckpt_path", checkpoint]
    command_in_two(folder, "predict", "--config", config, *ONE_STEP, *model, *uneven)
    parts = [arrays(checkpoint.parent.parent / f"predictions_rank{rank}.npz") for rank in (0, 1)]
    assert sum(len(part["bound"]) for part in parts) == 103


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return int(listener.getsockname()[1])


def under_torchrun(rank: int, port: int) -> dict[str, str]:
    """What torchrun tells a process."""
    return {
        **{"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0"},
        **{"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test"},
    }


def under_slurm(rank: int, port: int) -> dict[str, str]:
    """What srun tells a process."""
    return {
        **{"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank), "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"},
        **{"SLURM_NODEID": "0", "SLURM_NODELIST": "localhost", "SLURM_JOB_ID": "1", "SLURM_JOB_NAME": "test"},
        **{"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)},
    }


LAUNCHERS = {"torchrun": under_torchrun, "srun": under_slurm}
AS_IN_THE_SCRIPT = {
    "torchrun": [],
    "srun": ["--trainer.plugins", "SLURMEnvironment", "--trainer.plugins.auto_requeue", "false"],
}
RUN = Path("runs/prior_iwae/version_0")


def start_two(folder: Path, *arguments: object, launcher: str = "torchrun") -> list[Command]:
    """The small run on two processes, each started as a launcher would."""
    folder.mkdir(exist_ok=True)
    port, arguments_of_all = free_port(), [*SMALL_FIT, *TWO, *AS_IN_THE_SCRIPT[launcher], *arguments]
    return [Command(folder, *arguments_of_all, environment=LAUNCHERS[launcher](rank, port)) for rank in (0, 1)]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What two processes leave that nobody stops."""
    folder = tmp_path_factory.mktemp("two") / "run"
    for running in start_two(folder):
        finished = running.wait()
        assert finished.status == 0, finished.err
    assert [path.name for path in (folder / RUN).parent.iterdir()] == ["version_0"]
    return left_by(folder)


def test_two_processes_leave_what_one_leaves(two: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    assert run_command(folder, *SMALL_FIT).status == 0
    one = left_by(folder)
    for name in ("state_dict", "curve", "score"):
        torch.testing.assert_close(
            torch.as_tensor(flat(two[name])), torch.as_tensor(flat(one[name])), rtol=1e-4, atol=2e-4
        )


def flat(found: Any) -> list[float]:
    """All numbers of a nested structure."""
    if isinstance(found, torch.Tensor):
        return [float(value) for value in found.flatten()]
    if isinstance(found, dict | list | tuple):
        return [number for part in (found.values() if isinstance(found, dict) else found) for number in flat(part)]
    return [float(found)]


@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize("rank", [0, 1])
def test_sigterm_to_either_process_stops_both_and_both_go_on(
    rank: int, launcher: str, two: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    at = [*stopping_at(17, signal.SIGTERM), "--trainer.callbacks.rank", rank]
    for running in start_two(folder, *at, launcher=launcher):
        stopped = running.wait()
        assert stopped.status == 143, stopped.err
        assert "saved after step 17; go on with" in stopped.err.splitlines()[-1]
    for running in start_two(folder, "--ckpt_path", "last", launcher=launcher):
        assert running.wait().status == 0
    assert_same(left_by(folder), two)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_the_other_and_the_run_goes_on(rank: int, two: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    at = [*stopping_at(17, signal.SIGKILL), "--trainer.callbacks.rank", rank]
    ends = [running.wait(seconds=60) for running in start_two(folder, *at)]
    assert ends[rank].status == -signal.SIGKILL
    assert ends[1 - rank].status == 1
    assert "another process of this run has ended" in ends[1 - rank].err.splitlines()[-1]
    assert "go on with: lvm-lightning fit" in ends[1 - rank].err.splitlines()[-1]
    for running in start_two(folder, "--ckpt_path", "last"):
        assert running.wait().status == 0
    assert_same(left_by(folder), two)


def test_lightnings_own_launcher_stops_both(tmp_path: Path, two: dict[str, Any]) -> None:
    """Without a launcher, Lightning starts the second process itself, and one line speaks for both."""
    at = [*stopping_at(17, signal.SIGTERM), "--trainer.callbacks.rank", "1"]
    call = [sys.executable, "-m", "lvm_lightning", *map(str, [*SMALL_FIT, *TWO])]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    options: dict[str, Any] = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True, "timeout": 90}
    stopped = subprocess.run([*call, *map(str, at)], check=False, **options)
    assert stopped.returncode == 143, stopped.stderr
    assert stopped.stderr.count("stopped by") == 1
    for running in start_two(tmp_path, "--ckpt_path", "last"):
        assert running.wait().status == 0
    assert_same(left_by(tmp_path), two)


def test_torchrun_itself(tmp_path: Path, two: dict[str, Any]) -> None:
    """The command of the README."""
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node",
        "2",
        "--master_port",
        str(free_port()),
    ]
    call = [*torchrun, "-m", "lvm_lightning", *map(str, [*SMALL_FIT, *TWO])]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(call, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert_same(left_by(tmp_path), two)


def test_a_port_in_use_ends_every_process_and_is_named(tmp_path: Path) -> None:
    """Nobody answers at the port: the second process would wait there for half an hour."""
    with socket.socket() as listener:
        listener.bind(("", 0))
        listener.listen()
        port = str(listener.getsockname()[1])
        call = [sys.executable, "-m", "lvm_lightning", *map(str, [*SMALL_FIT, *TWO])]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "MASTER_PORT": port, "MASTER_ADDR": "localhost"}
        # its pipes stay open as long as one of its processes lives
        failed = subprocess.run(
            call, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=90, check=False
        )
    assert failed.returncode == 1
    (error,) = [line for line in failed.stderr.splitlines() if not re.match("[GT]PU available: ", line)]
    assert f"MASTER_PORT: must be a free port, got {port}, where another" in error
    assert not list(tmp_path.iterdir())


SOON = {"LVM_TEST_SECONDS_TO_MEET": "2"}


@pytest.fixture
def no_store() -> Iterator[str]:
    """A port where something listens that never answers."""
    with socket.socket() as listener:
        listener.bind(("", 0))
        listener.listen()
        yield str(listener.getsockname()[1])


def under_srun(folder: Path, port: str, ranks: tuple[int, ...], *arguments: object) -> list[Finished]:
    """What those processes of a run leave that srun alone has started: it ends none of them."""
    folder.mkdir(exist_ok=True)
    call = [*SMALL_FIT, *TWO, *AS_IN_THE_SCRIPT["srun"], *arguments]
    all_of_them = [Command(folder, *call, environment=under_slurm(rank, int(port)) | SOON) for rank in ranks]
    return [running.wait(seconds=60) for running in all_of_them]


def errors(finished: Finished) -> list[str]:
    return [line for line in finished.err.splitlines() if line.startswith("lvm-lightning: error: ")]


def test_a_port_in_use_ends_every_process_that_srun_has_started(no_store: str, tmp_path: Path) -> None:
    one, two = under_srun(tmp_path / "run", no_store, (0, 1))
    assert (one.status, two.status) == (1, 1)
    (error,) = errors(one) + errors(two)
    assert f"MASTER_PORT: must be a free port, got {no_store}, where another process listens" in error
    assert not list((tmp_path / "run").iterdir())


@pytest.mark.parametrize(
    ("rank", "message"),
    [
        (0, "every process of the run must come to port {}, got 1 of 2 within 2 s"),
        (1, "process 0 must listen there, got {}"),
    ],
)
def test_a_process_whose_others_never_come_ends(rank: int, message: str, tmp_path: Path) -> None:
    port = str(free_port())
    (alone,) = under_srun(tmp_path / "run", port, (rank,))
    assert alone.status == 1
    (error,) = errors(alone)
    assert f"MASTER_PORT: {message.format(port)}" in error


@pytest.mark.parametrize("ranks", [[0, 1], [0], [1]])
def test_a_failure_of_all_processes_is_told_once_and_one_of_a_single_process_too(
    ranks: list[int], tmp_path: Path
) -> None:
    """Process 0 tells what they all have; who waits for one that has failed ends as well."""
    lost = ["--data", "tests.small.LostImages", "--data.ranks", ranks]
    finished = under_srun(tmp_path / "run", str(free_port()), (0, 1), *lost)
    assert [one.status for one in finished] == [1, 1]
    told = [error.partition(": error: ")[2] for one in finished for error in errors(one)]
    expected = {
        (0, 1): ["images of process 0: cannot be read"],
        (0,): ["images of process 0: cannot be read", "[process 1] another process of this run has ended"],
        (1,): ["another process of this run has ended", "[process 1] images of process 1: cannot be read"],
    }[tuple(ranks)]
    assert all(map(str.startswith, told, expected)), told
    assert len(told) == len(expected), told


def test_a_killed_process_takes_those_that_it_started_with_it(tmp_path: Path) -> None:
    at = [*stopping_at(7, signal.SIGKILL), "--trainer.callbacks.rank", "0"]
    call = [sys.executable, "-m", "lvm_lightning", *map(str, [*SMALL_FIT, *TWO, *at])]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    killed = subprocess.run(
        call, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=90, check=False
    )
    assert killed.returncode == -signal.SIGKILL


@pytest.mark.parametrize("wrong", [["--model.inner_samples", "0"], ["--model.roulette", "0.5"], ["--modle", "x"]])
def test_of_several_processes_one_tells_a_mistake(wrong: list[str], tmp_path: Path) -> None:
    all_of_them = [running.wait() for running in start_two(tmp_path / "run", *wrong)]
    assert [finished.status for finished in all_of_them] == [2, 2]
    assert len(all_of_them[0].err.splitlines()) == 1
    assert all_of_them[1].err == ""
