"""What the tests share. Everything is seeded; tolerances are given in standard errors."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.layout_engine import ConstrainedLayoutEngine
from torch import Tensor

ROOT = Path(__file__).parent.parent
Run = Callable[..., int]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run the command in this process, in an empty folder: ``run("fit", "--config", …) → exit status``."""
    import tests.unpacked  # noqa: F401
    from lvm_lightning.command.cli import main
    from lvm_lightning.support.errors import PROGRAM

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ConstrainedLayoutEngine, "execute", lambda self, fig: None)  # half of a short run

    def call(*arguments: object) -> int:
        monkeypatch.setattr("sys.argv", [PROGRAM, *map(str, arguments)])
        return main()

    return call


def commands_in(folder: Path, *commands: Sequence[object]) -> None:
    """Run commands in a folder, in this process; each must end well. For what the tests of a module share."""
    from lvm_lightning.command.cli import main
    from lvm_lightning.support.errors import PROGRAM

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for arguments in commands:
            patch.setattr("sys.argv", [PROGRAM, *map(str, arguments)])
            assert main() == 0


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with the development data; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("LVM_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("the development data are not here")
    return folder


def arrays(path: Path | str) -> dict[str, Any]:
    """The arrays of an ``.npz``, read to the end and closed."""
    with np.load(path) as file:
        return dict(file)


@contextlib.contextmanager
def kept_for_backward() -> Iterator[list[int]]:
    """Sizes, in numbers, of the tensors that autograd keeps."""
    kept: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept


def assert_within(estimates: Tensor, expected: Tensor | float, errors: float = 3.0) -> None:
    """Assert that the mean over the first axis is within ``errors`` standard errors of what is expected."""
    n = len(estimates)
    stderr = estimates.std(0) / n**0.5
    deviation = ((estimates.mean(0) - expected) / stderr).abs().max()
    assert deviation <= errors, f"{float(deviation):.2f} standard errors away"
