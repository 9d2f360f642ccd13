"""A config names classes; what else it names is not called."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.conftest import ROOT, Run

TRACE = Path("trace")


def leave(*_: object, **__: object) -> None:
    TRACE.write_text("called")


def leave_a_module(*_: object, **__: object) -> torch.nn.Module:
    TRACE.write_text("called")
    return torch.nn.Identity()


class Leaver:
    """It leaves its trace when it is made, and when it is called."""

    def __init__(self, *_: object, **__: object) -> None:
        TRACE.write_text("made")

    def __call__(self, *_: object) -> None:
        TRACE.write_text("called")


CALLABLES: dict[str, dict[str, Any]] = {
    f"{__name__}.leave": {},
    f"{__name__}.leave_a_module": {},
    f"{__name__}.Leaver": {},
    "os.system": {"command": f"touch {TRACE}"},
    "subprocess.getoutput": {"cmd": f"touch {TRACE}"},
    "subprocess.Popen": {"args": ["touch", str(TRACE)]},
}
MODEL = ("decoder", "encoder", "posterior", "prior", "likelihood", "optimizer", "lr_scheduler", "bound")
KEYS = [
    *("model", "data", *(f"model.init_args.{name}" for name in MODEL)),
    *("trainer.callbacks", "trainer.logger", "trainer.plugins", "trainer.strategy", "trainer.profiler"),
    "evaluation.evaluators",
]
FEW = list(CALLABLES)[:2]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("callables", [FEW, pytest.param(list(CALLABLES), marks=pytest.mark.soak)], ids=["few", "all"])
def test_what_a_class_path_names_is_looked_at_before_it_is_called(
    key: str, callables: list[str], run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in callables:
        given = {"class_path": path, "init_args": CALLABLES[path]}
        for value in (given, [given]):
            config = yaml.safe_load((ROOT / "configs" / "burda_vae.yaml").read_text())
            *above, last = key.split(".")
            inner = config
            for name in above:
                inner = inner.setdefault(name, {})
            inner[last] = value
            Path("config.yaml").write_text(yaml.safe_dump(config))
            assert run("fit", "--config", "config.yaml", "--trainer.fast_dev_run", "true") == 2
            assert not TRACE.exists()
            assert key.split(".")[0] in capsys.readouterr().err.splitlines()[-1]


def test_a_function_may_be_named_where_it_is_annotated_with_what_is_asked_for(run: Run) -> None:
    """And is called then: whoever names it wants that."""
    arguments = ["--config", ROOT / "configs" / "prior_iwae.yaml", "--model.decoder", f"{__name__}.leave_a_module"]
    assert run("fit", *arguments, "--print_config") == 0


@pytest.mark.parametrize("bound", ["elbo", "lvm_lightning.objectives.elbo", "lvm_lightning.objectives.bounds.elbo"])
def test_a_bound_is_named_by_its_name_or_its_path(bound: str, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("fit", "--config", ROOT / "configs" / "prior_iwae.yaml", "--model.bound", bound, "--print_config") == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["model"]["init_args"]["bound"] == "lvm_lightning.objectives.elbo"
