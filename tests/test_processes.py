"""Two processes are one: the same gradient, the same metrics, no image twice."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import ROOT

CONFIG = ROOT / "configs" / "prior_iwae.yaml"
VAE = ROOT / "configs" / "burda_iwae.yaml"
TWO = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.accelerator", "cpu"]
ONE_STEP = [
    *["--model.inner_samples", "8", "--model.decoder.hidden", "[16, 16]", "--model.lr_scheduler", "null"],
    *["--model.optimizer", "torch.optim.SGD", "--model.optimizer.lr", "1.0", "--data.batch_size", "64"],
    *["--trainer.max_steps", "1", "--trainer.val_check_interval", "1", "--trainer.log_every_n_steps", "1"],
    *["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"],
]


def command(folder: Path, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning:lvm_lightning", "-m", "lvm_lightning", *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def weights(folder: Path) -> torch.Tensor:
    (path,) = folder.glob("runs/*/version_0/checkpoints/last.ckpt")
    state = torch.load(path, weights_only=True)["state_dict"]
    return torch.cat([value.double().flatten() for value in state.values()])


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_is_no_success(tmp_path: Path, number: signal.Signals, status: int) -> None:
    """Lightning alone would exit with 0 after SIGTERM."""
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # else a shell's background job hands on that it ignores it
    options = [*ONE_STEP, "--trainer.max_steps", "100000", "--trainer.val_check_interval", "1000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "lvm_lightning", "fit", "--config", str(CONFIG), *options],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 90
    while not list(tmp_path.glob("runs/*/version_0/events*")) and time.monotonic() < deadline:
        time.sleep(0.2)
    time.sleep(3)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status, errors


CASES = {
    "shared points": (CONFIG, ["--model.share_points", "true"]),
    "own points": (CONFIG, ["--model.share_points", "false"]),
    "own points in portions": (CONFIG, ["--model.share_points", "false", "--model.inner_samples", "1024"]),
    "an encoder": (
        VAE,
        [
            *["--model.encoder.hidden", "[16]", "--model.estimator", "doubly_reparameterised"],
            *["--model.free_bits", "0.2", "--model.test_samples", "8"],
        ],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_first_gradient_of_two_processes_is_that_of_one(tmp_path: Path, case: str) -> None:
    """One step of SGD with rate 1 moves the weights by minus the gradient."""
    moved = []
    config, options = CASES[case]
    for folder, extra in [("first", ["--model.optimizer.lr", "0.0"]), ("one", []), ("two", TWO)]:
        (tmp_path / folder).mkdir()
        command(tmp_path / folder, "fit", "--config", config, *ONE_STEP, *options, *extra)
        moved.append(weights(tmp_path / folder))
    one, two = moved[1] - moved[0], moved[2] - moved[0]
    assert one.norm() > 1
    assert (two - one).norm() / one.norm() < 1e-5
    if not case.startswith("own points"):
        evaluate_in_two_processes(tmp_path, config, options)


def evaluate_in_two_processes(folder: Path, config: Path, model: list[str]) -> None:
    """The same checkpoint, 10,000 images, batches that two processes do not divide evenly at the end."""
    evaluations = []
    (checkpoint,) = (folder / "one").glob("runs/*/version_0/checkpoints/last.ckpt")
    for extra in ([], TWO):
        options = [*ONE_STEP, *model, "--data.eval_batch_size", "999", "--ckpt_path", checkpoint, *extra]
        command(folder, "test", "--config", config, *options)
        evaluations.append(json.loads((checkpoint.parent.parent / "evaluation.json").read_text())["quantities"])
    for single, double in zip(*evaluations, strict=True):
        assert double["images"] == single["images"] == 10_000
        assert double["value"] == pytest.approx(single["value"], abs=1e-5)
        assert double["stderr"] == pytest.approx(single["stderr"], abs=1e-5)
    command(folder, "predict", "--config", config, *ONE_STEP, *model, "--ckpt_path", checkpoint, *TWO)
    parts = [np.load(checkpoint.parent.parent / f"predictions_rank{rank}.npz") for rank in (0, 1)]
    assert sum(len(part["bound"]) for part in parts) == 10_000
