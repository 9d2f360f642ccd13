"""Further mistakes, in this process, which is cheap: traps of YAML, numbers at the edges, files of another kind."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lvm_lightning.__main__ import run as enter
from tests.command import SMALL_FIT, command
from tests.conftest import Run
from tests.test_mistakes import CONFIGS, FIT, LAST, VAE, WRONG, tree

EXPONENTIAL = ["fit", "--config", CONFIGS / "exponential_posterior.yaml"]
GREY = ["fit", "--config", CONFIGS / "gaussian_vae.yaml"]
TEXT = (CONFIGS / "prior_iwae.yaml").read_text()
LAYERS = [f"&{name} [{', '.join(['*' + before] * 9)}]" for before, name in zip("abcdefgh", "bcdefghi", strict=True)]

# Name → (what a config says, what the line says).
CONFIG_FILES: dict[str, tuple[str, str]] = {
    "a tab": (TEXT.replace("  class_path", "\tclass_path", 1), r"config: must be YAML, got own.yaml, line \d+: .*\\t"),
    "two documents": (f"{TEXT}\n---\nmodel: 2\n", r"config: must be YAML, got own.yaml, line \d+: .*another document"),
    "a tag that runs code": (
        TEXT.replace("latent_dim: 2", "latent_dim: !!python/object/apply:os.system ['touch was_run']"),
        r"config: must be YAML, got own.yaml, line \d+: could not determine a constructor",
    ),
    "an alias that is not there": (TEXT.replace("1250", "*step"), "got own.yaml, line .*undefined alias 'step'"),
    "no for a word": (TEXT.replace("points: lattice", "points: no"), "model.points: must be iid or sobol.*, got False"),
    "a date for a number": (TEXT.replace("dim: 2", "dim: 2026-01-01"), "latent_dim: must be .*, got 2026-01-01"),
    "true for a number": (TEXT.replace("dim: 2", "dim: true"), "latent_dim: must be a whole number .*, got True"),
    "null for a number": (TEXT.replace("dim: 2", "dim: null"), "latent_dim: must be a whole number .*, got None"),
    "a rate that is no number": (TEXT.replace("{lr: 0.008", "{lr: .nan"), "model.optimizer.lr: must be .*, got nan"),
    "an infinite rate": (TEXT.replace("{lr: 0.008", "{lr: .inf"), "optimizer.lr: must be a finite number, got inf"),
    "an argument beside the others": (TEXT.replace("    latent", "  latent"), r"YAML, got own.yaml, line \d+: mapping"),
    "a list for a class": (TEXT.replace("model:\n  cl", "model:\n- cl"), r"model: must be a .* class .*got \[.{79} …"),
    "a zero byte": (f"{TEXT}\0", "config: must be YAML, got own.yaml: unacceptable character #x0000"),
    "half a JSON": ('{"model": 3', "config: must be YAML, got own.yaml, line 1: expected"),
    "a number for a name": (f"{TEXT}3: 4\n", "config: must be settings by name, got 3 for a name in own.yaml"),
    "a list for a name": (f"{TEXT}? [a, b]\n: 4\n", r"must be YAML, got own.yaml, line \d+: found unhashable key"),
    "nothing to merge": (f"{TEXT}<<: 3\n", r"config: must be YAML, got own.yaml, line \d+: expected a mapping"),
    "class_pth": (TEXT.replace("class_path", "class_pth", 1), "model: must be .*, got class_pth in the place of"),
    "init_arg": (TEXT.replace("init_args", "init_arg", 1), "model: must be .*, got init_arg in the place of"),
    "aliases of aliases": (f"a: &a [1, 2]\nb: [{', '.join(LAYERS)}]\n", "must not hold more than 100,000 values"),
    "a list for a seed": (TEXT.replace("ing: 0", "ing: [1]"), r"seed_everything: must be .*whole number, got \[1\]"),
    "an unknown group": (f"{TEXT}bad: 1\n", "bad: no such argument"),
    "a zero byte in a folder's name": (
        TEXT.replace("save_dir: runs", r'save_dir: "a\0b"'), "save_dir: must be a folder .*null byte"
    ),
}  # fmt: skip

# Name → (arguments, what the line says).
ARGUMENTS: dict[str, tuple[list[object], str]] = {
    "an empty name of a config": (["fit", "--config", ""], "Unexpected config"),
    "a second config that is not there": ([*FIT, "--config", "missing.yaml"], "config: .*missing.yaml"),
    "an address for a config": (["fit", "--config", "http://localhost:1/x.yaml"], "config: Path does not exist"),
    "a config in the command line": (["fit", "--config", "{model: 3}"], "model: must be a .* class .*got 3"),
    "an option before the subcommand": (["--config", "x.yaml", "fit"], "config: File does not exist"),
    "an empty subcommand": ([""], "subcommand"),
    "a number for a subcommand": (["3"], "subcommand: must be fit, .*, got '3'"),
    # whole numbers
    "nan samples": ([*FIT, "--model.inner_samples", "nan"], "inner_samples: must be a whole number above 0, got nan"),
    "true samples": ([*FIT, "--model.inner_samples", "true"], "inner_samples: must be a whole .*, got true"),
    "samples beyond floats": ([*FIT, "--model.inner_samples", "1e400"], "inner_samples: must be .*, got 1e400"),
    "samples of 400 digits": ([*FIT, "--model.inner_samples", "9" * 400], "must be below .*, got 9{80} …"),
    "hexadecimal samples": ([*FIT, "--model.inner_samples", "0x10"], "inner_samples: must be .*, got 0x10"),
    "no number of samples": ([*FIT, "--model.inner_samples", ""], "inner_samples: must be a whole number above 0, got"),
    "null for a size": ([*FIT, "--model.latent_dim", "null"], "model.latent_dim: must be a whole number .*, got None"),
    "half a seed": ([*FIT, "--seed_everything", 1.5], "seed_everything: must be .* whole number, got 1.5"),
    "a seed one too large": ([*FIT, "--seed_everything", 2**32], "seed_everything: must be from 0 to 4,.* 4294967296"),
    "a seed of the data": ([*FIT, "--data.seed", -1], "data.seed: must be a whole number from 0 on, got -1"),
    "steps as a flag": ([*FIT, "--trainer.max_steps", "true"], "max_steps: must be -1 or a whole .*, got true"),
    "epochs": ([*FIT, "--trainer.max_epochs", -2], "max_epochs: must be -1 or a whole number from 0 on, got -2"),
    "epochs between validations": ([*FIT, "--trainer.check_val_every_n_epoch", 0], "n_epoch: must be .*above 0, got 0"),
    "a layer below 0": ([*VAE, "--model.encoder.hidden", "[-1]"], r"encoder.hidden: must be a list, .*got \[-1\]"),
    "warm-up": ([*VAE, "--model.kl_warmup", -1], "kl_warmup: must be a number from 0 to 1, got -1"),
    "no observations": ([*EXPONENTIAL, "--data.n", 0], "data.n: must be a whole number above 0, got 0"),
    # numbers
    "an infinite rate in digits": ([*FIT, "--model.optimizer.lr", "1e400"], "lr: must be a finite number, got inf"),
    "one beta": ([*FIT, "--model.optimizer.betas", "[0.9]"], r"betas: must be a list of 2, .*got \[0.9\]"),
    "a nan threshold": ([*FIT, "--data.threshold", "nan"], "data.threshold: must be a number from 0 to 1, got nan"),
    "a nan clip": ([*FIT, "--trainer.gradient_clip_val", "nan"], "gradient_clip_val: must be a number .*, got nan"),
    "an infinite spacing": ([*FIT, "--evaluation.spacing", "inf"], "spacing: must be a finite number, got inf"),
    "a width below 0": ([*FIT, "--evaluation.widen", -1], "evaluation.widen: must be a number above 0, got -1"),
    "an empty grid": ([*FIT, "--pictures.extent", 0], "pictures.extent: must be a number above 0, got 0"),
    "seconds below 0": ([*FIT, "--checkpoint.last_every_seconds", -1], "seconds: must be a number from 0 on, got -1"),
    "an infinite sigma": ([*GREY, "--model.likelihood.sigma", "inf"], "sigma: must be a finite number, got inf"),
    "a latent below 0": ([*EXPONENTIAL, "--data.z", -1], "data.z: must be a number from 0 on, got -1"),
    "words for observations": ([*EXPONENTIAL, "--data.values", "[a]"], r"data.values: must be a list, .*got \[.*a.*\]"),
    # flags, choices and classes
    "a flag of the trainer": ([*FIT, "--trainer.benchmark", 2], "benchmark: must be true or false, got 2"),
    "a flag of the evaluation": ([*FIT, "--evaluation.save_per_example", 2], "must be true or false, got 2"),
    "testing perhaps": ([*FIT, "--test_after_fit", "perhaps"], "test_after_fit: must be true or false, got perhaps"),
    "precision": ([*FIT, "--trainer.precision", "bf16-mix"], "must be .*got bf16-mix; did you mean bf16-mixed"),
    "logger": ([*FIT, "--trainer.logger", "CSVLoger"], "logger: .*got CSVLoger; did you mean CSVLogger?"),
    "plugin": ([*FIT, "--trainer.plugins", "os.system"], "trainer.plugins: must be .*got os.system"),
    "a number for callbacks": ([*FIT, "--trainer.callbacks", 3], "trainer.callbacks: must be a Callback .*got 3"),
    "a range of pixels": ([*FIT, "--data.pixel_range", "0..2"], "pixel_range: must be .*got 0..2; did you mean 0..1"),
    "pooling": ([*VAE, "--model.decoder_bound", "pool"], "decoder_bound: must be .*got pool"),
    "an abstract model": (
        [*FIT, "--model", "lvm_lightning.modules.base.LatentVariableModule"], "model: must be .*got lvm_.*Module"
    ),
    "a dictionary for a model": ([*FIT, "--model", "builtins.dict"], "model: must be a .* class .*got builtins.dict"),
    # studies
    "an option beside a known value": ([*FIT, "--trainer.max_steps", 3, "--largst", 3], "largst: no such argument"),
    "a start in words": (["sample", *FIT[1:], "--count", "nan"], "count: must be a whole number above 0, got nan"),
    "no chains": (["anneal", *FIT[1:], "--chains", 0], "chains: must be a whole number above 0, got 0"),
    "no images": (["tightness", *FIT[1:], "--images", 0], "images: must be a whole number above 0, got 0"),
    "an option of another study": (["diagnose", *FIT[1:], "--chains", 3], "chains: no such argument"),
    "log space without draws": (["log_space", "--samples", 0], "samples: must be a whole number above 0, got 0"),
    "log space in a file": (["log_space", "--output", "a file"], "output: must be a folder .*got a file .*File exists"),
    "log space in the system": (["log_space", "--output", "/proc/x"], "output: must be a folder .*got /proc/x"),
    "a word for log space": (["log_space", "x"], "x: no such argument"),
    "a seed for log space": (["log_space", "--seed", 2**64], "seed: must be below 2.*63, got 18446744073709551616"),
    "a config for log space": (["log_space", "--config", "missing.yaml"], "config: no such argument"),
    "a config to compare": (["compare", "--config", "x.yaml", "a", "b"], "config: no such argument"),
    "nothing for a run": (["compare", "", ""], "RUN: no evaluation in .; run 'lvm-lightning test' on it first"),
    "a dash for a subcommand": (["-"], "subcommand: invalid choice: '-'"),
    "half a number of images": (["tightness", *FIT[1:], "--images", 0.5], "images: must be a whole .*, got 0.5"),
    "a study that does not compile": (["broken_study.X"], "import path of a Study, got 'broken_study.X' .SyntaxError"),
    "a study that fails": (["failing_study.X"], "import path of a Study, got 'failing_study.X' .ZeroDivisionError"),
    "a study without a run": (["abstract_study.Abstract"], r"got 'abstract_study.Abstract' without a run\(\)"),
    "one run to compare": (["compare", "a"], "RUN: must be at least two run folders, got 1"),
    "a file to compare": (["compare", "a file", "a file"], "RUN: a file/evaluation.json is not a readable"),
    "a list to compare": (["compare", "list", "list"], "RUN: list/evaluation.json is not a readable evaluation"),
    "Latin-1 to compare": (["compare", "latin", "latin"], "RUN: latin/evaluation.json is not a readable evaluation"),
    "a deep file to compare": (["compare", "deep", "deep"], "RUN: deep/evaluation.json is not a readable .*Recursion"),
    "an option of compare": (["compare", "a", "b", "--runs", "c"], "runs: no such argument; did you mean run"),
}  # fmt: skip

STUDIES_OF_ONES_OWN = {
    "broken_study.py": b"class X(:\n",
    "failing_study.py": b"1 / 0\n",
    "abstract_study.py": b"from lvm_lightning.studies import Study\nclass Abstract(Study): ...\n",
}
EVALUATIONS = {"list": b"[]", "latin": b"\xe9", "deep": b"[" * 100_000}


@pytest.fixture
def told(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """Run a command that is mistaken, with status 2: its one line. Nothing is left behind."""
    monkeypatch.syspath_prepend(tmp_path)
    files = STUDIES_OF_ONES_OWN | {f"{name}/evaluation.json": content for name, content in EVALUATIONS.items()}
    for name, content in (files | {"a file": b""}).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)

    def call(*arguments: object) -> str:
        before = tree(tmp_path)
        status, err = run(*arguments), capsys.readouterr().err
        assert status == 2, err
        (line,) = [line for line in err.splitlines() if not re.match("[GT]PU available: ", line)]
        after = {name: digest for name, digest in tree(tmp_path).items() if "__pycache__" not in name}
        assert after == before
        assert line.startswith("lvm-lightning: error: ")
        return line

    return call


@pytest.mark.parametrize("case", CONFIG_FILES)
def test_a_mistake_in_a_config_is_one_line(case: str, told: Callable[..., str], tmp_path: Path) -> None:
    text, message = CONFIG_FILES[case]
    (tmp_path / "own.yaml").write_text(text)
    assert re.search(message, line := told("fit", "--config", "own.yaml")), line


@pytest.mark.parametrize("case", ARGUMENTS)
def test_a_mistaken_argument_is_one_line(case: str, told: Callable[..., str]) -> None:
    arguments, message = ARGUMENTS[case]
    assert re.search(message, line := told(*arguments)), line


Checkpoint = dict[str, Any]
WEIGHT = "model.decoder.0.weight"
TEST = ["test", *SMALL_FIT[1:]]


def with_weight(checkpoint: Checkpoint, name: str, weight: object) -> Checkpoint:
    return checkpoint | {"state_dict": checkpoint["state_dict"] | {name: weight}}


def without(part: dict[str, Any], name: str) -> dict[str, Any]:
    return {other: value for other, value in part.items() if other != name}


# Name → (what becomes of a checkpoint, the subcommand, what the line says).
CHECKPOINTS: dict[str, tuple[Callable[[Checkpoint], object], list[object], str]] = {
    "a tensor": (lambda c: torch.zeros(3), TEST, "own.ckpt holds no trained model"),
    "a list of weights": (lambda c: c | {"state_dict": [1, 2]}, TEST, "own.ckpt holds no trained model"),
    "a word for a weight": (lambda c: with_weight(c, WEIGHT, "x"), TEST, "own.ckpt holds no trained model"),
    "a number for settings": (lambda c: c | {"hyper_parameters": 3}, TEST, "own.ckpt holds no trained model"),
    "a number for the run": (lambda c: c | {"lvm_lightning_settings": 3}, SMALL_FIT, "own.ckpt holds no trained model"),
    "no settings": (lambda c: c | {"hyper_parameters": {}}, TEST, "class_path: the checkpoint was trained with None"),
    "an infinite weight": (
        lambda c: with_weight(c, WEIGHT, c["state_dict"][WEIGHT].abs() / 0), TEST, f"be a number, got inf in {WEIGHT} "
    ),
    "a weight too few": (
        lambda c: c | {"state_dict": without(c["state_dict"], WEIGHT)}, TEST, f"got {WEIGHT} with none in own.ckpt, the"
    ),
    "a weight too many": (
        lambda c: with_weight(c, "x", torch.zeros(2)), TEST, r"got x with shape \(2,\) in own.ckpt, the model has none;"
    ),
    "a weight of another shape": (
        lambda c: with_weight(c, WEIGHT, torch.zeros(3, 3)),
        ["sample", *SMALL_FIT[1:]], rf"got {WEIGHT} with shape \(3, 3\) in own.ckpt, the model has shape \(8, 2\);",
    ),
    "weights alone, to go on": (
        lambda c: without(c, "optimizer_states"), SMALL_FIT, "got no optimizer_states in own.ckpt; give the run's last"
    ),
    "no place to go on from": (lambda c: without(c, "loops"), SMALL_FIT, "got no loops in own.ckpt; give the run's"),
}  # fmt: skip

# Name → (subcommand, arguments beside a good checkpoint, what the line says).
BESIDE_A_CHECKPOINT: dict[str, tuple[str, list[object], str]] = {
    "samples in a file": ("sample", ["--output", "a file"], "output: must be a folder .*got a file .*File exists"),
    "samples in the system": ("sample", ["--output", "/proc/x"], "output: must be a folder that can be .*got /proc/x"),
    "samples below a file": ("sample", ["--output", "a file/x"], "output: must be a folder .*got a file/x .*Not a"),
    "annealing into a file": ("anneal", ["--output", "a file"], "output: must be a folder .*got a file"),
    "annealing from no encoder": ("anneal", ["--start", "encoder"], "start: PriorIWAE has no encoder"),
    "a test of nothing": ("test", ["--trainer.limit_test_batches", 0], "limit_test_batches: must be above 0 for test"),
    "no predictions": ("predict", ["--trainer.limit_predict_batches", 0], "limit_predict_batches: must be above 0"),
    "no validation": ("validate", ["--trainer.limit_val_batches", 0], "limit_val_batches: must be above 0 for valid"),
    "a million processes": ("test", ["--trainer.devices", 10**6], "trainer.devices: must be at most .*got 1000000"),
    "weights in float64": ("test", ["--trainer.precision", "64-true"], "precision: must be 32-true, .*got 64-true"),
    "checkpoints in a file": (
        "fit", ["--checkpoint.dirpath", "a file"], "checkpoint.dirpath: must be a folder that can be .*got a file"
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of one step."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    folder.mkdir()
    short = ["--trainer.max_steps", 1, "--trainer.limit_val_batches", 1]
    assert command(folder, *SMALL_FIT, *short).status == 0
    return folder / LAST


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_a_checkpoint_that_is_no_good_is_told(
    case: str, trained: Path, told: Callable[..., str], tmp_path: Path
) -> None:
    change, arguments, message = CHECKPOINTS[case]
    torch.save(change(torch.load(trained, weights_only=True)), tmp_path / "own.ckpt")
    assert re.search(message, line := told(*arguments, "--ckpt_path", "own.ckpt")), line


@pytest.mark.parametrize("case", BESIDE_A_CHECKPOINT)
def test_a_mistake_beside_a_good_checkpoint_is_told(
    case: str, trained: Path, told: Callable[..., str], tmp_path: Path
) -> None:
    subcommand, arguments, message = BESIDE_A_CHECKPOINT[case]
    (tmp_path / "own.ckpt").write_bytes(trained.read_bytes())
    line = told(subcommand, *SMALL_FIT[1:], "--ckpt_path", "own.ckpt", *arguments)
    assert re.search(message, line), line


VARIABLES = {
    "MASTER_PORT=99999": "must be a port, below 65,536, got 99999",
    "MASTER_PORT=x": "must be a whole number",
    "WORLD_SIZE=-1": "must be a whole number in the environment, got '-1'",
    "NODE_RANK=1.0": "must be a whole number in the environment, got '1.0'",
    "LOCAL_RANK= 1": "must be a whole number in the environment, got ' 1'",
    "SLURM_NTASKS=": "must be a whole number in the environment, got ''",
}


@pytest.mark.parametrize("case", VARIABLES)
def test_a_variable_that_is_no_number_is_told(
    case: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name, _, value = case.partition("=")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv(name, value)
    assert enter() == 2
    assert re.match(f"lvm-lightning: error: {name}: {VARIABLES[case]}.*\n$", capsys.readouterr().err)


def test_there_are_enough_mistakes() -> None:
    """Here and in test_mistakes.py; those of other tests come on top."""
    here = len(CONFIG_FILES) + len(ARGUMENTS) + len(CHECKPOINTS) + len(BESIDE_A_CHECKPOINT) + len(VARIABLES)
    assert len(WRONG) + here >= 250
