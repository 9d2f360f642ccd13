"""Try the package as a new user has it: its wheel, in an environment and a folder that have nothing else, offline.

It builds the wheel, installs it, and then goes through what the README and docs/ promise: a config by its name, a run
by its folder, own images of 8 × 8 pixels, an own network, prior and study by their import paths, Python. Each step must
end with status 0 and leave the files that it says it writes.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OFFLINE = ["unshare", "--map-root-user", "--net"]
"""Runs a command in a network that has nothing in it (Linux)."""
NO_SOCKETS = """import socket

def refuse(self, address):
    if self.family != getattr(socket, "AF_UNIX", None):
        raise OSError(f"the network is off, got {address}")

socket.socket.connect = socket.socket.connect_ex = refuse
"""
"""sitecustomize.py where there is no such command: Python code finds no network."""

FILES = {
    "mynet.py": '''"""A decoder of one's own."""

from torch import nn


class Wide(nn.Sequential):
    def __init__(self, in_features: int, out_features: int, width: int = 32) -> None:
        super().__init__(nn.Linear(in_features, width), nn.GELU(), nn.Linear(width, out_features))
''',
    "myprior.py": '''"""A prior of one's own: a Student distribution in each dimension."""

import torch
from torch import Tensor

from lvm_lightning.densities import Prior


class Student(Prior):
    def __init__(self, dim: int, df: float = 5.0) -> None:
        super().__init__(dim)
        self.df = df

    def log_prob(self, z: Tensor) -> Tensor:
        return torch.distributions.StudentT(self.df).log_prob(z).sum(-1)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        normal = torch.randn(count, self.dim, generator=generator)
        chi2 = 2 * torch._standard_gamma(torch.full((count, self.dim), self.df / 2), generator=generator)
        return (normal * (self.df / chi2).sqrt()).to(self.like)
''',
    "mystudy.py": '''"""A study of one's own."""

import torch

from lvm_lightning.studies import Study, Subject


class Brightness(Study):
    def run(self, subject: Subject) -> str:
        with torch.inference_mode():
            drawn = subject.model.sample(100, torch.Generator().manual_seed(0))
        return f"mean of E[x|z]: {float(drawn.mean.mean()):.3f}"
''',
    "digits.py": '''"""500 pictures of 8 × 8 with values 0 … 16: bars in one of eight places, and noise."""

import numpy as np

rng = np.random.default_rng(0)
images = rng.integers(0, 3, (500, 8, 8))
images[np.arange(500), rng.integers(0, 8, 500)] += 13
np.save("digits.npy", images)
''',
    "inpython.py": '''"""A run in Python."""

import sys

import numpy as np

import lvm_lightning

model = lvm_lightning.load(sys.argv[1])
x = np.load("digits.npy")[:20] > 8
found = model.log_prob(x)
assert model.sample(5).x.shape == (5, 64) and model.encode(x).shape[0] == model.reconstruct(x).shape[0] == 20
print(f"{found.name} = {float(found.value.mean()):.2f} nats per image, own error {float(found.error.mean()):.2g}")
''',
    "notebook.py": '''"""The code cells of a notebook, one after the other."""

import json
import sys

import matplotlib

matplotlib.use("Agg")
cells = [cell for cell in json.load(open(sys.argv[1]))["cells"] if cell["cell_type"] == "code"]
names = {"__name__": "__main__"}
for cell in cells:
    exec("".join(cell["source"]), names)
print(f"{len(cells)} cells")
''',
}
"""What the user writes."""
STEPS = 20
QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]
SHORT = ["--trainer.max_steps", str(STEPS), "--trainer.val_check_interval", "10", "--trainer.log_every_n_steps", "5"]
DIGITS = ["--data", "ArrayImages", "--data.path", "digits.npy", "--data.highest", "16", "--data.batch_size", "50"]
COMMANDS: list[tuple[list[str], str]] = [
    (["configs"], ""),
    (["fit", "--config", "prior_iwae", *SHORT, *QUIET], "runs/prior_iwae/version_0/checkpoints/best.ckpt"),
    (
        ["test", "runs/prior_iwae/version_0", "--trainer.limit_test_batches", "1", *QUIET],
        "runs/prior_iwae/version_0/evaluation.json",
    ),
    (["sample", "runs/prior_iwae/version_0", *QUIET], "runs/prior_iwae/version_0/samples.png"),
    (["tightness", "runs/prior_iwae/version_0", "--largest", "64", "--images", "50", *QUIET], ""),
    (
        [
            "fit",
            "--config",
            "prior_iwae",
            *DIGITS,
            "--model.data_dim",
            "64",
            "--test_after_fit",
            "true",
            *SHORT,
            *QUIET,
        ],
        "runs/prior_iwae/version_1/evaluation.json",
    ),
    (
        [
            *["fit", "--config", "burda_vae", *DIGITS, "--model.data_dim", "64", "--model.latent_dim", "3"],
            *["--model.decoder", "mynet.Wide", "--model.decoder.width", "16", "--model.prior", "myprior.Student"],
            *["--test_after_fit", "true", *SHORT, *QUIET],
        ],
        "runs/burda_vae/version_0/evaluation.json",
    ),
    (["mystudy.Brightness", "runs/burda_vae/version_0", *QUIET], ""),
    (["report", "runs/prior_iwae/version_0"], "runs/prior_iwae/version_0/report.html"),
    (["compress", "runs/prior_iwae/version_0", "--images", "100", *QUIET], "runs/prior_iwae/version_0/images.lvmc"),
    (["decompress", "runs/prior_iwae/version_0/images.lvmc"], "runs/prior_iwae/version_0/images.npz"),
    (["compare", "runs/prior_iwae/version_1", "runs/prior_iwae/version_1"], ""),
]
"""Each command, and a file that it must leave."""


class StepError(Exception):
    """A step that did not end well."""


def step(command: Sequence[str | Path], folder: Path, environment: Mapping[str, str], left: str = "") -> None:
    """Run a command and look at what it leaves.

    Raises:
        StepError: if its status is not 0, or the file is not there.
    """
    words, started = [str(word) for word in command], time.monotonic()
    done = subprocess.run(words, cwd=folder, env=dict(environment), capture_output=True, text=True, check=False)
    shown = " ".join(Path(word).name if os.sep in word and Path(word).is_absolute() else word for word in words)
    if done.returncode:
        raise StepError(f"{shown}\nstatus {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    if left and not (folder / left).is_file():
        raise StepError(f"{shown}\nleft no {left}\n{done.stdout[-2000:]}")
    print(f"{time.monotonic() - started:5.1f} s  {shown[:150]}", flush=True)


def environment_with(wheel: Path, folder: Path, reuse: bool) -> Path:
    """Make an environment that has the wheel; returns its folder of programs.

    Args:
        wheel: the wheel.
        folder: of the environment.
        reuse: whether it takes the dependencies of the environment that runs this, instead of installing them.
    """
    here = dict(os.environ)
    step([sys.executable, "-m", "venv", folder], ROOT, here)
    programs = folder / "bin"
    (packages,) = folder.glob("lib/python*/site-packages")
    if reuse:
        (packages / "reused.pth").write_text("".join(f"{folder}\n" for folder in _dependencies()))
    no_deps: list[str | Path] = ["--no-deps"] if reuse else ["--constraint", ROOT / "scripts" / "constraints.txt"]
    step([programs / "python", "-m", "pip", "install", "--quiet", *no_deps, wheel], ROOT, here)
    if not offline():
        (packages / "sitecustomize.py").write_text(NO_SOCKETS)
    return programs


def _dependencies() -> list[str]:
    """Folders of the packages that this environment has; what is installed as editable is not found through them."""
    return [path for path in sys.path if path.endswith("site-packages")]


def offline() -> list[str]:
    """What stands before a command so that it has no network; nothing where sockets are refused in Python."""
    found = shutil.which(OFFLINE[0]) and not subprocess.run([*OFFLINE, "true"], check=False).returncode
    return OFFLINE if found else []


def main() -> int:
    """Run it; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reuse", action="store_true", help="take this environment's torch and Lightning")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        try:
            step([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", place, ROOT], ROOT, os.environ)
            programs = environment_with(next(place.glob("*.whl")), place / "environment", options.reuse)
            work = place / "empty"
            work.mkdir()
            for name, content in FILES.items():
                (work / name).write_text(content)
            # nothing of the repository, and nothing that this shell has set for Python
            clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL"))}
            clean["PATH"] = f"{programs}{os.pathsep}{clean['PATH']}"
            print(f"network off by {' '.join(offline()) or 'refused sockets'}", flush=True)
            python = [*offline(), str(programs / "python")]
            command = [*offline(), str(programs / "lvm-lightning")]
            step([*python, "digits.py"], work, clean, "digits.npy")
            for words, left in COMMANDS:
                step([*command, *words], work, clean, left)
            step([*python, "inpython.py", "runs/burda_vae/version_0"], work, clean)
            for notebook in sorted((ROOT / "docs").glob("*.ipynb")):
                step([*python, "notebook.py", notebook], work, clean)
        except StepError as error:
            print(f"try_wheel.py: error: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
