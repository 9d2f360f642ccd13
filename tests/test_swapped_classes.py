"""Another class in the place of the one that a config names starts from its own defaults."""

import inspect
import itertools
import json
from pathlib import Path
from typing import Any, get_args, get_type_hints

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from lvm_lightning import data, densities, networks, objectives
from lvm_lightning.callbacks.pictures import Pictures
from lvm_lightning.callbacks.run_checkpoint import RunCheckpoint
from lvm_lightning.command.parsing import Parser, classes_first
from lvm_lightning.modules import ExponentialPosterior, GaussianVAE, PriorIWAE
from lvm_lightning.modules.base import LatentVariableModule
from lvm_lightning.modules.optimizing import LRSchedulerCallable, OptimizerCallable

HINTS = get_type_hints(GaussianVAE.__init__, include_extras=True)
TRAINER = {name: p.annotation for name, p in inspect.signature(pl.Trainer).parameters.items()}


def of(room: Any, base: type) -> list[type]:
    """The classes that a room offers for an argument."""
    return [c for c in vars(room).values() if inspect.isclass(c) and issubclass(c, base) and not inspect.isabstract(c)]


OPTIMIZERS = [*(getattr(torch.optim, name) for name in ("Adam", "AdamW", "SGD", "RMSprop")), networks.MuonWithAdam]
SCHEDULES = [getattr(torch.optim.lr_scheduler, name) for name in ("OneCycleLR", "CosineAnnealingLR", "StepLR")]
CHOICES: dict[str, tuple[Any, list[type]]] = {
    "model": (LatentVariableModule, [GaussianVAE, PriorIWAE, ExponentialPosterior]),
    "posterior": (HINTS["posterior"], of(densities, densities.Posterior)),
    "prior": (HINTS["prior"], [densities.StandardNormal, densities.FlowPrior, densities.VampPrior]),
    "likelihood": (HINTS["likelihood"], of(densities, densities.Likelihood)),
    "network": (HINTS["decoder"], of(networks, torch.nn.Module)),
    "bound": (HINTS["bound"], [objectives.Renyi, objectives.Jackknife, objectives.CUBO]),
    "optimizer": (OptimizerCallable, OPTIMIZERS),
    "lr_scheduler": (LRSchedulerCallable, SCHEDULES),
    "data": (pl.LightningDataModule, of(data, pl.LightningDataModule)),
    "logger": (TRAINER["logger"], [TensorBoardLogger, CSVLogger]),
    "callback": (pl.Callback, [EarlyStopping, ModelCheckpoint, RunCheckpoint, Pictures, LearningRateMonitor]),
}


def path_of(choice: type) -> str:
    return f"{choice.__module__}.{choice.__qualname__}"


def own_defaults(choice: type) -> dict[str, Any]:
    """What the class has in Python, where it is a plain value."""
    parameters = inspect.signature(choice).parameters.values()
    plain = (bool, int, float, str, tuple, list, type(None))
    return {p.name: plainly(p.default) for p in parameters if isinstance(p.default, plain)}


def plainly(value: Any) -> Any:
    return list(value) if isinstance(value, tuple | list) else str(value) if isinstance(value, Path) else value


def other_than_default(choice: type) -> dict[str, Any]:
    """Arguments that differ from the class's defaults wherever that is easy."""
    hints, found = get_type_hints(choice.__init__, include_extras=True), dict[str, Any]()  # type: ignore[misc]
    for name, default in own_defaults(choice).items():
        words = [word for word in get_args(hints.get(name)) if isinstance(word, str) and word != default]
        if isinstance(default, bool):
            found[name] = not default
        elif isinstance(default, int | float):
            found[name] = default + 1 if isinstance(default, int) else 0.5 * default + 0.125
        elif isinstance(default, str) and words:
            found[name] = words[0]
    return found | required(choice)


def required(choice: type) -> dict[str, Any]:
    """Arguments without a default, but for those that the program itself fills in."""
    given = ("self", "params", "optimizer", "parameters", "latent_dim", "dim", "in_features", "out_features")
    missing = [p for p in inspect.signature(choice).parameters.values() if p.default is p.empty]
    names = [p.name for p in missing if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL) and p.name not in given]
    return {name: {"save_dir": "x", "path": "x", "monitor": "y", "max_lr": 0.5}.get(name, 2) for name in names}


@pytest.mark.parametrize("name", CHOICES)
def test_a_class_that_takes_anothers_place_has_its_own_defaults(name: str) -> None:
    hint, choices = CHOICES[name]
    assert len(choices) > 1
    parser = Parser(exit_on_error=False)
    parser.add_argument("--part", type=hint)
    for before, after in itertools.permutations(choices, 2):
        first = {"class_path": path_of(before), "init_args": other_than_default(before)}
        needed = [f"--part.{key}={value}" for key, value in required(after).items()]
        arguments = [f"--part={json.dumps(first)}", f"--part={path_of(after)}", *needed]
        part = parser.parse_args(arguments).part
        found = {key: plainly(value) for key, value in part.init_args.items()} if "init_args" in part else {}
        expected = own_defaults(after)
        assert {key: found[key] for key in expected if key in found} == {
            k: v for k, v in expected.items() if k in found
        }


@pytest.mark.parametrize("files", [1, 2])
def test_what_a_config_says_of_the_old_class_is_the_old_classes(files: int, tmp_path: Path) -> None:
    parser = Parser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_subclass_arguments(LatentVariableModule, "model")
    posterior = {"class_path": "lvm_lightning.densities.GaussianPosterior", "init_args": {"scale": "exp"}}
    optimizer = {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.5, "weight_decay": 0.25}}
    chosen = {"latent_dim": 3, "posterior": posterior, "optimizer": optimizer}
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text(json.dumps({"model": {"class_path": "GaussianVAE", "init_args": chosen}}))
    swapped = {"posterior": "InverseAutoregressiveFlow", "optimizer": "SGD"}
    second.write_text(json.dumps({"model": {"init_args": swapped}}))
    later = [f"--config={second}"] if files == 2 else [f"--model.{key}={name}" for key, name in swapped.items()]
    arguments = parser.parse_args([f"--config={first}", *later]).model.init_args
    assert arguments.latent_dim == 3  # of the class that stays
    assert arguments.posterior.init_args.scale == "softplus"
    assert (arguments.optimizer.init_args.lr, arguments.optimizer.init_args.weight_decay) == (0.001, 0)
    told = parser.parse_args([f"--config={first}", *later, "--model.posterior.scale=exp"]).model.init_args.posterior
    assert told.init_args.scale == "exp"  # after the class: its own
    again = parser.parse_args([f"--config={first}", "--model.posterior=GaussianPosterior"]).model.init_args.posterior
    assert again.init_args.scale == "exp"  # the same class under a shorter name
    renamed = parser.parse_args([f"--config={first}", "--model.optimizer=torch.optim.adam.Adam"]).model.init_args
    assert renamed.optimizer.init_args.lr == 0.5
    model = parser.parse_args([f"--config={first}", "--model=PriorIWAE"]).model
    assert model.init_args.latent_dim == 2


def test_an_argument_of_a_class_is_its_own_wherever_it_stands() -> None:
    given = [
        "--a.b.c",
        "1",
        "--a.b=X",
        "-1",
        "--config",
        "y",
        "--a.d",
        "2",
        "--a",
        "Z",
        "--ab",
        "--l+",
        "p",
        "--l.q",
        "3",
    ]
    moved = [
        "--a",
        "Z",
        "--a.b=X",
        "-1",
        "--a.b.c",
        "1",
        "--config",
        "y",
        "--a.d",
        "2",
        "--ab",
        "--l+",
        "p",
        "--l.q",
        "3",
    ]
    assert classes_first(given) == moved
    assert classes_first(moved) == moved
    assert classes_first(["RUN", "--a.b", "1", "--a", "2"]) == ["RUN", "--a", "2", "--a.b", "1"]
    assert classes_first([]) == []
