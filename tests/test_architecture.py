"""The rooms of the house: who imports whom, and that importing does nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "lvm_lightning"
FILES = sorted(PACKAGE.rglob("*.py"))

ROOMS = (
    *("support", "objectives", "densities", "networks", "model", "data", "evaluation", "figures", "modules"),
    *("studies", "callbacks", "command"),
)
"""The rooms from the ground up: each imports only rooms before it."""
ENTRANCES = ("__init__", "__main__")
LIGHTNING = ("modules", "data", "studies", "callbacks", "command")
"""Rooms that know Lightning."""
LARGEST = 250
"""Lines of a file."""


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module or "")
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_rooms_before_it(path: Path) -> None:
    here = room(path)
    rooms = {name.split(".")[1] for name in imported(path) if name.startswith("lvm_lightning.")}
    entrances = {"__main__": {"command"}, "__init__": {"command", "modules"}}
    assert rooms <= (entrances[here] if here in entrances else set(ROOMS[: ROOMS.index(here) + 1]))


def test_the_package_has_these_rooms_and_no_other() -> None:
    found = {room(path) for path in FILES}
    assert found <= {*ROOMS, *ENTRANCES}
    assert len(found - set(ENTRANCES)) <= 12


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_is_read_in_one_sitting(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LARGEST


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_science_does_not_know_lightning(path: Path) -> None:
    if room(path) not in (*LIGHTNING, *ENTRANCES):
        assert not {i for i in imported(path) if i.split(".")[0] in ("lightning", "pytorch_lightning")}


@pytest.mark.parametrize("name", ["modules", "evaluation", "objectives", "data", "densities", "studies"])
def test_only_figures_and_their_callers_know_matplotlib(name: str) -> None:
    for path in FILES:
        if room(path) == name:
            assert not {i for i in imported(path) if i.startswith("matplotlib")}, path


def test_the_data_module_is_the_only_one_that_modules_know_by_its_batch() -> None:
    for path in FILES:
        if room(path) == "modules":
            data = {i for i in imported(path) if i.startswith("lvm_lightning.data")}
            assert data <= {"lvm_lightning.data.loader", "lvm_lightning.data.protocol"}, path


def test_importing_changes_nothing(tmp_path: Path) -> None:
    """No file, no output, no random number drawn, no warning."""
    code = (
        "import random, jsonargparse, lightning.pytorch.cli, matplotlib.figure, torch, torchmetrics, torchvision\n"
        "before = torch.get_rng_state(), random.getstate(), torch.is_grad_enabled(), torch.get_num_threads()\n"
        "import lvm_lightning, lvm_lightning.command.cli\n"
        "after = torch.get_rng_state(), random.getstate(), torch.is_grad_enabled(), torch.get_num_threads()\n"
        "assert torch.equal(before[0], after[0]) and before[1:] == after[1:]\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not list(tmp_path.iterdir())


def test_top_level_holds_nothing_else() -> None:
    allowed = {"pyproject.toml", "lvm_lightning", "configs", "scripts", "tests", "README.md", "LICENSE", "docs"}
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    top = {name.split("/")[0] for name in tracked}
    assert {name for name in top if not name.startswith(".")} <= allowed
