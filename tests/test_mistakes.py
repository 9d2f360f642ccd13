"""Every mistake is one line with the right status, and nothing is written over or left behind."""

import gzip
import hashlib
import os
import pickle
import re
from pathlib import Path

import pytest
import torch
import yaml

from tests.command import SMALL_FIT, command
from tests.conftest import ROOT, Run

CONFIGS = ROOT / "configs"
CONFIG = CONFIGS / "prior_iwae.yaml"
FIT = ["fit", "--config", CONFIG]
VAE = ["fit", "--config", CONFIGS / "burda_iwae.yaml"]
CYCLE = [*FIT, "--model.lr_scheduler", "torch.optim.lr_scheduler.OneCycleLR", "--model.lr_scheduler.max_lr"]
TOTAL = ["--model.lr_scheduler.total_steps"]
TEST = ["test", *SMALL_FIT[1:], "--ckpt_path"]
RUN = Path("runs/prior_iwae/version_0")
LAST = RUN / "checkpoints/last.ckpt"
AMAT = [*FIT, "--data.source", "larochelle_murray", "--data.folder"]
CALLBACK = "--trainer.callbacks+"

# Name → (arguments, status, what the line says).
WRONG: dict[str, tuple[list[object], int, str]] = {
    # the command line and its files
    "no subcommand": ([], 2, "subcommand"),
    "subcommand": (["fti"], 2, "'fti'; did you mean fit?"),
    "no config": (["fit"], 2, "required: fit.data, fit.model; give a --config"),
    "missing config": (["fit", "--config", "missing.yaml"], 2, "missing.yaml"),
    "a folder as config": (["fit", "--config", "."], 2, "config: Path is not a file"),
    "no name of a config": (["fit", "--config"], 2, "config: expected one argument"),
    "broken config": (["fit", "--config", "broken.yaml"], 2, "config: must be YAML, got broken.yaml, line 1: "),
    "empty config": (["fit", "--config", "empty.yaml"], 2, "config"),
    "a list as config": (["fit", "--config", "list.yaml"], 2, "config"),
    "config in UTF-16": (["fit", "--config", "utf-16.yaml"], 2, "config: must be text in UTF-8, got utf-16.yaml; save"),
    "config in Latin-1": (["fit", "--config", "latin-1.yaml"], 2, "config: must be text in UTF-8, got latin-1.yaml"),
    "config that holds itself": (["fit", "--config", "loop.yaml"], 2, "not hold itself, got that in loop.yaml, line 1"),
    "a key twice": (["fit", "--config", "twice.yaml"], 2, "seed_everything: must be given once in twice.yaml, .* 3"),
    "a deep config": (["fit", "--config", "deep.yaml"], 2, "config: must not be nested as deeply as deep.yaml"),
    "abbreviated key": (["fit", "--conf", CONFIG], 2, "conf: no such argument; did you mean config?"),
    "word": ([*FIT, "extra"], 2, "extra: no such argument"),
    "study without a class": (["nothing.Study"], 2, "subcommand: must be the import path of a Study, got 'nothing.St"),
    "study that is none": (["pathlib.Path"], 2, "must be a subclass of lvm_lightning.studies.Study, got 'p"),
    # keys
    "key of the model": ([*FIT, "--model.inner_sample", 3], 2, "model.inner_sample: .* did you mean inner_samples?"),
    "key of a network": ([*FIT, "--model.decoder.hiden", "[3]"], 2, "model.decoder.hiden: .* did you mean hidden?"),
    "key of the data": ([*FIT, "--data.batchsize", 3], 2, "data.batchsize: .* did you mean batch_size?"),
    "key of the trainer": ([*FIT, "--trainer.max_step", 3], 2, "trainer.max_step: .* did you mean trainer.max_steps?"),
    "key of the optimiser": ([*FIT, "--model.optimizer.beta", 3], 2, "model.optimizer.beta: .* did you mean betas?"),
    "key of a callback": (
        [*FIT, CALLBACK, "EarlyStopping", "--trainer.callbacks.patiens", 3], 2, "callbacks.patiens: .*mean patience?"
    ),
    "key of the logger": ([*FIT, "--trainer.logger.save_dri", "x"], 2, "save_dri: .* did you mean save_dir?"),
    "group": ([*FIT, "--modle.latent_dim", 3], 2, "modle.latent_dim: .* did you mean model.latent_dim?"),
    "key in a file": (["fit", "--config", "inner_sample.yaml"], 2, "model.inner_sample: .*mean inner_samples?"),
    "trainer's key in a file": (["fit", "--config", "max_step.yaml"], 2, "max_step: .*mean trainer.max_steps?"),
    "a number for a group": (["fit", "--config=a number.yaml"], 2, "trainer: must be settings by name .*got 293"),
    "group in a file": (["fit", "--config", "trainr.yaml"], 2, "trainr.* did you mean trainer"),
    # classes and choices
    "model": ([*FIT, "--model", "PriorIWEA"], 2, "model: must be a .* class .*got PriorIWEA; .*mean PriorIWAE?"),
    "optimiser": ([*FIT, "--model.optimizer", "Adan"], 2, "model.optimizer: .*got Adan; did you mean Adam?"),
    "no optimiser": ([*FIT, "--model.optimizer", "null"], 2, "model.optimizer: must be a .* class .*got None"),
    "no decoder": ([*FIT, "--model.decoder", "null"], 2, "model.decoder: must be a .* class .*got None"),
    "callback": ([*FIT, CALLBACK, "EarlyStoping"], 2, "callbacks: .*got EarlyStoping; did you mean EarlyStopping?"),
    "a class of another kind": ([*FIT, "--model", "torch.nn.Linear"], 2, "model: .*torch.nn.Linear"),
    "points": ([*FIT, "--model.points", "sobl"], 2, "model.points: must be iid or sobol.*, got sobl; .*mean sobol?"),
    "source": ([*FIT, "--data.source", "FashionMINST"], 2, "data.source: .*got FashionMINST; .*mean FashionMNIST?"),
    "activation": ([*FIT, "--model.decoder.activation", "Elu"], 2, "activation: must be ELU .*got Elu"),
    "estimator": ([*VAE, "--model.estimator", "score"], 2, "model.estimator: must be pathwise .*got score"),
    "scale of the posterior": ([*VAE, "--model.posterior.scale", "log"], 2, "posterior.scale: must be .*got log"),
    "start of the chains": (["anneal", *FIT[1:], "--start", "middle"], 2, "must be .* or fitted, got middle"),
    # old names
    "class of the old tree": (
        [*FIT, "--model.optimizer", "lvm_lightning.optimizers.MuonWithAdam"], 2,
        "model.optimizer: .*got lvm.*; it is now lvm_lightning.networks.MuonWithAdam"
    ),
    "class of the old tree in a file": (
        ["fit", "--config", "old.yaml"], 2, "model.posterior: .*; it is now lvm_lightning.densities.GaussianPosterior"
    ),
    # numbers
    "no samples": ([*FIT, "--model.inner_samples", 0], 2, "model.inner_samples: must be a whole number above 0, got 0"),
    "samples in words": ([*FIT, "--model.inner_samples", "many"], 2, "must be a whole number above 0, got many"),
    "samples in floats": ([*FIT, "--model.latent_dim", "1e3"], 2, "latent_dim: must be a whole number .*, got 1e3"),
    "more samples than 64 bits": (
        [*FIT, "--model.inner_samples", 2**63], 2, r"inner_samples: must be below 2\*\*63, got 9223372036854775808"
    ),
    "a batch of more than 64 bits": ([*FIT, "--data.eval_batch_size", 10**30], 2, "eval_batch_size: must be below 2"),
    "seed of more than 64 bits": (["sample", *FIT[1:], "--seed", 2**70], 2, "seed: must be below 2"),
    "empty layer": ([*FIT, "--model.decoder.hidden", "[8, 0]"], 2, r"hidden: must be a list, each .*above 0, got \[8"),
    "layers in words": ([*FIT, "--model.decoder.hidden", "two"], 2, "model.decoder.hidden: must be a list, .*got two"),
    "too many Sobol dimensions": (
        [*FIT, "--model.points", "sobol", "--model.latent_dim", 30000], 2, "21,201 dimensions, got 30,000; set"
    ),
    "another number of pixels": ([*FIT, "--model.data_dim", 10], 2, "data_dim: must be the 784 pixels .*got 10; set"),
    "a flag in words": ([*FIT, "--model.share_points", "maybe"], 2, "share_points: must be true or false, got maybe"),
    "rate": ([*FIT, "--model.optimizer.lr", -1], 2, "model.optimizer: Invalid learning rate: -1"),
    "rate in words": ([*FIT, "--model.optimizer.lr", "fast"], 2, "model.optimizer.lr: must be a number .*got fast"),
    "betas": ([*FIT, "--model.optimizer.betas", "[2, 3]"], 2, "model.optimizer: Invalid beta .*2.0"),
    "rate of the schedule": ([*CYCLE, -1, *TOTAL, 1250], 2, "lr_scheduler: .* 0 or more, got -0.04"),
    "empty schedule": ([*CYCLE, 0.01, *TOTAL, 0], 2, "lr_scheduler: .*total_steps, but got 0"),
    "too short a schedule": ([*CYCLE, 0.01, *TOTAL, 9], 2, "lr_scheduler: .* 1,250 .*got 9; set both"),
    "a share of the training": (
        [*FIT, "--model.lr_scheduler.warmup", 1.5], 2, "lr_scheduler.warmup: must be a number from 0 to 1, got 1.5"
    ),
    "order of the ELBO": (
        [*VAE, "--model.bound", "Renyi", "--model.bound.alpha", 1], 2, r"alpha: must be in \[0, 1\), got 1; the limit"
    ),
    "sigma": (
        [*VAE, "--model.likelihood", "Gaussian", "--model.likelihood.sigma", 0], 2, "likelihood.sigma: .*above 0, got 0"
    ),
    "free bits of a flow": (
        ["fit", "--config", CONFIGS / "iaf_vae.yaml", "--model.free_bits", 0.1], 2, "free_bits: needs the closed-form"
    ),
    "threshold": ([*FIT, "--data.threshold", 2], 2, "data.threshold: must be a number from 0 to 1, got 2"),
    "seed": ([*FIT, "--seed_everything", -1], 2, "seed_everything: must be from 0 to 4,294,967,295, got -1"),
    "seed in words": ([*FIT, "--seed_everything", "lucky"], 2, "seed_everything: must be .* whole number, got lucky"),
    "one repeat": (["diagnose", *FIT[1:], "--gradient_repeats", 1], 2, "gradient_repeats: must be 0 or .*from 2 on"),
    "no largest": (["tightness", *FIT[1:], "--largest", 0], 2, "largest: must be a whole number above 0, got 0"),
    "no spacing": ([*FIT, "--evaluation.spacing", 0], 2, "evaluation.spacing: must be a number above 0, got 0"),
    "no images to draw": (["sample", *FIT[1:], "--count", 0], 2, "count: must be a whole number above 0, got 0"),
    "a batch of all": ([*FIT, "--data.batch_size", 60000], 2, "data.batch_size: .* 50,000 .*got 60000"),
    # the trainer
    "steps": ([*FIT, "--trainer.max_steps", -5], 2, "trainer.max_steps: must be -1 or .* from 0 on, got -5"),
    "steps in words": ([*FIT, "--trainer.max_steps", "all"], 2, "max_steps: must be .*a whole number .*, got all"),
    "time": ([*FIT, "--trainer.max_time", "soon"], 2, "'soon'.*DD:HH:MM:SS"),
    "time below 0": ([*FIT, "--trainer.max_time", "{weeks: -1}"], 2, "max_time: .*got {'weeks': -1} .less than 0"),
    "time without end": ([*FIT, "--trainer.max_time", "{weeks: 99999999999}"], 2, "trainer.max_time: .*got {'weeks'"),
    "sanity steps": ([*FIT, "--trainer.num_sanity_val_steps", -7], 2, "num_sanity_val_steps: must be -1 or .*got -7"),
    "interval of validations": (
        [*FIT, "--trainer.val_check_interval", 0], 2, "val_check_interval: must be a whole .* 1 or more,.*got 0"
    ),
    "interval of logging": ([*FIT, "--trainer.log_every_n_steps", 0], 2, "log_every_n_steps: must be .*above 0, got 0"),
    "accumulation": ([*FIT, "--trainer.accumulate_grad_batches", 0], 2, "accumulate_grad_batches: .*above 0, got 0"),
    "clipping": ([*FIT, "--trainer.gradient_clip_val", -1], 2, "gradient_clip_val: must be a number above 0, got -1"),
    "way of clipping": ([*FIT, "--trainer.gradient_clip_algorithm", "l1"], 2, "must be norm or value, got l1"),
    "limit": ([*FIT, "--trainer.limit_train_batches", 2.5], 2, "limit_train_batches: must be .*got 2.5"),
    "device": ([*FIT, "--trainer.accelerator", "abacus"], 2, "trainer: .*accelerator abacus"),
    "device that is not there": ([*FIT, "--trainer.accelerator", "tpu"], 2, "trainer: .*accelerator tpu"),
    "no devices": ([*FIT, "--trainer.devices", 0, "--trainer.accelerator", "cpu"], 2, "trainer: .*devices 0"),
    "nodes": ([*FIT, "--trainer.num_nodes", 0], 2, "num_nodes: must be .*above 0, got 0"),
    "strategy": ([*FIT, "--trainer.strategy", "clever"], 2, "trainer: .*strategy clever"),
    "strategy of another device": (
        [*FIT, "--trainer.strategy", "fsdp", "--trainer.accelerator", "cpu"], 2, "trainer: .*fsdp"
    ),
    "precision": ([*FIT, "--trainer.precision", 8], 2, "trainer.precision: must be 64 or .*got 8"),
    "profiler": ([*FIT, "--trainer.profiler", "x"], 2, "trainer.profiler: must be .*simple .*got x"),
    "way of the best": ([*FIT, "--checkpoint.mode", "up"], 2, "checkpoint.mode: must be min or max, got up"),
    "number of the best": ([*FIT, "--checkpoint.save_top_k", -5], 2, "save_top_k: must be -1 or .*from 0 on, got -5"),
    "compiler": (
        [*FIT, CALLBACK, "lvm_lightning.callbacks.CompiledNetworks", "--trainer.callbacks.backend", "gcc"],
        2, "backend: must be one of .*inductor.*got gcc$",
    ),
    # data
    "grey images": ([*FIT, "--data.binarisation", "none"], 2, "needs binary images, got grey ones; set"),
    "noise on bits": ([*VAE, "--data.dequantise", "true"], 2, "data.dequantise: serves grey values, got True"),
    "observations for a model of images": (
        [*FIT, "--data", "lvm_lightning.data.ExponentialObservations"], 2, "PriorIWAE models images, got Exponential"
    ),
    "images for a model of observations": (
        ["fit", "--config", CONFIGS / "exponential_posterior.yaml", "--data", "StaticMNIST"], 2, "models observations"
    ),
    "no folder": ([*FIT, "--data.source", "larochelle_murray"], 2, "data.folder: must name the folder"),
    "no files": ([*AMAT, "nowhere"], 1, "nowhere/binarized_mnist_train.amat: found neither"),
    "too few rows": ([*AMAT, "short"], 1, "short/.*must hold 50,000 lines of 784 bits, got 2 lines"),
    "too few columns": ([*AMAT, "narrow"], 1, "narrow/.*must hold 50,000 lines of 784 bits, got .* 1,400 bits"),
    "values other than 0 and 1": ([*AMAT, "grey"], 1, "grey/.*only zeros and ones, got '2' in line 2"),
    "broken gzip": ([*AMAT, "broken_gz"], 1, "broken_gz/.*not a readable file"),
    "broken download": (
        [*FIT, "--data.source", "FashionMNIST", "--data.folder", "truncated"], 1, "truncated/FashionMNIST: must hold"
    ),
    # folders
    "a file as folder": ([*FIT, "--trainer.logger.save_dir", "broken.yaml"], 2, "must be a folder .*broken.y"),
    "a folder of the system": ([*FIT, "--trainer.logger.save_dir", "/proc/x"], 2, "save_dir: must be a folder .*/proc"),
    "a run that is there": ([*SMALL_FIT, "--trainer.logger.version", 0], 2, "version: must not hold a run already"),
    "a run without a logger": (
        [*SMALL_FIT, "--trainer.logger", "false", "--trainer.default_root_dir", RUN], 2, "must not hold a run already"
    ),
    # checkpoints
    "no checkpoint to validate": (["validate", *FIT[1:]], 2, "ckpt_path: validate needs a trained model, got none"),
    "no checkpoint to test": (["test", *FIT[1:]], 2, "ckpt_path: test needs a trained model, got none"),
    "no checkpoint to predict": (["predict", *FIT[1:]], 2, "ckpt_path: predict needs a trained model, got none"),
    "no checkpoint to sample": (["sample", *FIT[1:]], 2, "ckpt_path: sample needs a trained model, got none"),
    "a folder of the system to validate in": (
        ["validate", *SMALL_FIT[1:], "--ckpt_path", "good.ckpt", "--trainer.logger.save_dir", "/proc/x"],
        2, "save_dir: .*/proc"
    ),
    "no last run": (["test", *VAE[1:], "--ckpt_path", "last"], 2, "no run under runs/burda_iwae has a 'last'"),
    "missing checkpoint": ([*TEST, "no.ckpt"], 2, "no such file: no.ckpt"),
    "a folder as checkpoint": ([*TEST, "."], 2, "is not a readable checkpoint"),
    "text as checkpoint": ([*TEST, "text.ckpt"], 2, "text.ckpt is not a readable checkpoint"),
    "empty checkpoint": ([*TEST, "empty.ckpt"], 2, "empty.ckpt is not a readable checkpoint"),
    "truncated checkpoint": ([*TEST, "truncated.ckpt"], 2, "truncated.ckpt is not a readable checkpoint"),
    "flipped checkpoint": ([*TEST, "flipped.ckpt"], 2, "flipped.ckpt is"),
    "other checkpoint": ([*TEST, "other.ckpt"], 2, "other.ckpt holds no trained model"),
    "hostile pickle": ([*TEST, "hostile.ckpt"], 2, "hostile.ckpt is not a readable checkpoint"),
    "hostile checkpoint": ([*TEST, "hostile_zip.ckpt"], 2, "hostile_zip.ckpt is not a readable checkpoint"),
    "hostile checkpoint to go on from": (
        [*SMALL_FIT, "--ckpt_path", "hostile_zip.ckpt"], 2, "hostile_zip.ckpt is not a readable checkpoint"
    ),
    "another model's checkpoint": (
        ["test", *VAE[1:], "--ckpt_path", LAST], 2, "model.class_path: .*PriorIWAE'.*GaussianVAE'; use the run's own"
    ),
    "another size": ([*TEST, LAST, "--model.latent_dim", 3], 2, "latent_dim: .* trained with 2, the .* says 3; use"),
    "another rate": (
        [*SMALL_FIT, "--ckpt_path", LAST, "--model.optimizer.lr", 0.1], 2, "optimizer: .*'lr': 0.008.*'lr': 0.1"
    ),
    "another seed": (
        [*SMALL_FIT, "--ckpt_path", LAST, "--seed_everything", 1], 2, "seed_everything: .*started with 0, .* says 1; go"
    ),
    "other batches": (
        [*SMALL_FIT, "--ckpt_path", LAST, "--data.batch_size", 60], 2, "data.batch_size: .*started with 50, .*says 60"
    ),
    # compare
    "nothing to compare": (["compare"], 2, "RUN: must be at least two run folders, got 0"),
    "missing runs": (["compare", "a", "b"], 2, "no evaluation in a"),
}  # fmt: skip


class Hostile:
    """A pickle that would make a file."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("touch was_run",)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run and every broken file."""
    folder = tmp_path_factory.mktemp("mistakes") / "run"
    folder.mkdir()
    assert command(folder, *SMALL_FIT).status == 0
    text = CONFIG.read_text()
    files = {
        "broken.yaml": b"model: [1, {",
        "empty.yaml": b"",
        "list.yaml": b"- 1\n- 2\n",
        "inner_sample.yaml": text.replace("inner_samples:", "inner_sample:").encode(),
        "max_step.yaml": text.replace("max_steps:", "max_step:").encode(),
        "old.yaml": (CONFIGS / "burda_vae.yaml").read_text().replace("densities.G", "proposals.G").encode(),
        "trainr.yaml": text.replace("trainer:", "trainr:").encode(),
        "a number.yaml": re.sub(r"trainer:\n(  .*\n)*", "trainer: 293\n", text).encode(),
        "text.ckpt": b"not a checkpoint",
        "empty.ckpt": b"",
        "hostile.ckpt": pickle.dumps(Hostile()),
        "short/binarized_mnist_train.amat": b"0 1 " * 784,
        "narrow/binarized_mnist_train.amat": (b"0 " * 700 + b"\n") * 2,
        "grey/binarized_mnist_train.amat": b"0 " * 784 + b"\n2 " + b"0 " * 783,
        "broken_gz/binarized_mnist_train.amat.gz": gzip.compress(os.urandom(1000))[:500],
    }
    names = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
    files |= {f"truncated/FashionMNIST/raw/{name}": b"\0\0\x08\x03\0\0" for name in names}
    files |= {"utf-16.yaml": text.encode("utf-16"), "latin-1.yaml": b"# " + bytes([233]) + text.encode()}
    files |= {"loop.yaml": b"model: &a {init_args: *a}\n", "deep.yaml": b"a: " + b"[" * 5000}
    files |= {"twice.yaml": b"seed_everything: 1\ntrainer: {}\nseed_everything: 2\n"}
    files |= {"good.ckpt": (folder / LAST).read_bytes()}
    whole = (folder / LAST).read_bytes()
    files |= {"truncated.ckpt": whole[: len(whole) // 2]}
    middle = len(whole) // 2
    files |= {"flipped.ckpt": whole[:4] + bytes(255 - byte for byte in whole[4:middle]) + whole[middle:]}
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (folder / "short/binarized_mnist_train.amat").write_bytes((b"0 " * 784 + b"\n") * 2)
    torch.save({"weights": torch.zeros(2)}, folder / "other.ckpt")
    good = torch.load(folder / LAST, weights_only=True)
    torch.save(good | {"hyper_parameters": Hostile()}, folder / "hostile_zip.ckpt")
    return folder


def tree(folder: Path) -> dict[str, str]:
    """Every file with its digest, every folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(folder.rglob("*"))
    }


def test_there_are_enough_of_them() -> None:
    assert len(WRONG) >= 60


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_is_one_line_and_changes_nothing(case: str, prepared: Path) -> None:
    arguments, status, message = WRONG[case]
    before = tree(prepared)
    finished = command(prepared, *arguments)
    assert finished.status == status, finished.err
    *others, error = finished.err.splitlines()
    assert all(re.match("[GT]PU available: ", line) for line in others), finished.err
    assert error.startswith("lvm-lightning: error: ")
    assert re.search(message, error), error
    assert tree(prepared) == before


def slips(config: Path) -> dict[str, tuple[list[object], str]]:
    """Name → (arguments, what the line says): the same slips in any configuration."""
    content = yaml.safe_load(config.read_text())
    given = {name: value for name, value in content["model"]["init_args"].items() if name != "sigma"}
    number = next(name for name, value in given.items() if isinstance(value, int))
    part = next(name for name, value in given.items() if isinstance(value, dict))
    inner = next(name for name in given[part]["init_args"])
    model = content["model"]["class_path"].rpartition(".")[2]
    wrong = {"binarisation": "sometimes"} if "StaticMNIST" in content["data"]["class_path"] else {"values": "many"}
    ((setting, value),) = wrong.items()
    return {
        "an argument's name": ([f"--model.{number}s_", 3], rf"model\.{number}s_: no such argument; did you mean"),
        "a part's argument": ([f"--model.{part}.{inner}_", 3], rf"model\.{part}\.{inner}_: .*did you mean {inner}"),
        "a number": ([f"--model.{number}", "some"], rf"model\.{number}: must be a whole number .*got some"),
        "a part's class": ([f"--model.{part}", "Nonesuch"], rf"model\.{part}: must be a .* class .*got Nonesuch"),
        "the model's class": (["--model", f"{model}s"], rf"model: must be .*got {model}s; did you mean {model}"),
        "a setting of the data": ([f"--data.{setting}", value], rf"data\.{setting}: must be .*got {value}"),
        "a bound that is none": (["--model.bound", "math.log"], r"model\.bound: must be .*got math\.log"),
        "a group": (["--trainr.max_steps", 3], r"trainr\.max_steps: .*did you mean trainer\.max_steps"),
    }


@pytest.mark.soak
@pytest.mark.parametrize("subcommand", ["fit", "test"])
@pytest.mark.parametrize("config", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_same_slips_in_every_configuration(config: Path, subcommand: str, prepared: Path) -> None:
    """Seventeen configurations, two subcommands and eight slips."""
    before = tree(prepared)
    for name, (arguments, message) in slips(config).items():
        finished = command(prepared, subcommand, "--config", config, *arguments)
        assert finished.status == 2, (name, finished.err)
        (error,) = finished.err.splitlines()
        assert re.search(f"^lvm-lightning: error: {message}", error), (name, error)
    assert tree(prepared) == before


@pytest.mark.parametrize("steps", [2, 0])
def test_an_unknown_quantity_to_monitor_is_found_before_training(steps: int, tmp_path: Path) -> None:
    """Which quantities there are, only a validation shows: the one before training."""
    folder = tmp_path / "run"
    folder.mkdir()
    options = ["--checkpoint.monitor", "val/bond", "--trainer.num_sanity_val_steps", steps]
    finished = command(folder, *SMALL_FIT, *options)
    assert finished.status == 2
    assert (
        "checkpoint.monitor: must be one of val/bound, val/bound_stderr, got val/bond" in finished.err.splitlines()[-1]
    )
    assert not list(folder.rglob("*.ckpt"))


@pytest.mark.parametrize("steps", [2, 0])
@pytest.mark.parametrize(
    ("callback", "monitor"), [("EarlyStopping", "val/bond"), ("EarlyStopping", "bound"), ("ModelCheckpoint", "val/los")]
)
def test_an_unknown_quantity_that_a_callback_monitors_is_found_before_training(
    callback: str, monitor: str, steps: int, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where no validation is asked for before training: one batch tells."""
    watching = [CALLBACK, callback, "--trainer.callbacks.monitor", monitor, "--trainer.num_sanity_val_steps", steps]
    assert run(*SMALL_FIT, *watching) == 2
    rule = "trainer.callbacks.monitor: must be one of val/bound, val/bound_stderr, train/bound, got " + monitor
    assert rule in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.rglob("*.ckpt"))


ENVIRONMENTS = {
    "RANK": ({"RANK": "x"}, "RANK: must be a whole number in the environment, got 'x'; unset it"),
    "LOCAL_RANK": ({"LOCAL_RANK": "1"}, "LOCAL_RANK: must not be set for a run of one process, got LOCAL_RANK=1"),
}


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_a_variable_that_is_left_over_is_told(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    environment, message = ENVIRONMENTS[name]
    finished = command(folder, *SMALL_FIT, environment=environment)
    assert finished.status == 2
    assert message in finished.err.splitlines()[-1]
    assert not list(folder.iterdir())


def test_hostile_files_would_have_run(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The two files are hostile indeed: read carelessly they run their code, which the tree above did not show."""
    monkeypatch.chdir(tmp_path)
    pickle.loads((prepared / "hostile.ckpt").read_bytes())
    assert Path("was_run").exists()
    Path("was_run").unlink()
    torch.load(prepared / "hostile_zip.ckpt", weights_only=False)
    assert Path("was_run").exists()


def test_debugging_shows_it_all(prepared: Path) -> None:
    for mistake in ([*AMAT, "grey"], [*FIT, "--data.binarisation", "none"], [*FIT, "--model.inner_samples", 0]):
        finished = command(prepared, *mistake, environment={"LVM_DEBUG": "1"})
        assert finished.status == 1
        assert "Traceback (most recent call last)" in finished.err
