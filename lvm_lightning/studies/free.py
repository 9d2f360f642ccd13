"""Studies that need no model: runs side by side, from their ``evaluation.json``, and why log space."""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lvm_lightning.densities.likelihoods import Bernoulli
from lvm_lightning.evaluation.quantity import aligned, with_error
from lvm_lightning.figures.pictures import log_space_figure, render, save_png
from lvm_lightning.networks import MLP
from lvm_lightning.objectives.bounds import iw_elbo
from lvm_lightning.studies.base import FreeStudy
from lvm_lightning.support import NonNegativeInt, PositiveInt, UserError, generator_for

ABOUT = ("source", "binarisation", "seed", "threshold", "dequantise", "pixel_range", "digest")
"""What must agree between runs for their numbers to be about the same images."""


class Run:
    """One run's evaluation.

    Args:
        path: the run's folder.

    Raises:
        UserError: if there is no readable ``evaluation.json`` in it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        file = path / "evaluation.json"
        try:
            content = json.loads(file.read_text())
            self.quantities: dict[str, dict[str, Any]] = {
                q["name"]: q | {"stderr": math.nan if q["stderr"] is None else q["stderr"]}
                for q in content["quantities"]
            }
            self.data: dict[str, Any] = content["provenance"]["data"]
        except FileNotFoundError:
            raise UserError(f"RUN: no evaluation in {path}; run 'lvm-lightning test' on it first") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"RUN: {file} is not a readable evaluation ({type(error).__name__})") from error

    def per_example(self, name: str) -> "np.ndarray[Any, np.dtype[np.float64]] | None":
        """Each image's value of a quantity, where ``test`` has kept them."""
        file = self.path / "evaluation_per_example.npz"
        if not file.is_file():
            return None
        with np.load(file, allow_pickle=False) as arrays:
            return np.asarray(arrays[name], dtype=np.float64) if name in arrays else None


class Compare(FreeStudy):
    """Put the tests of two runs or more side by side, in one table.

    A row for each quantity, a column for each run, and differences from the first. A difference has a paired standard
    error where both runs kept each image's value (--evaluation.save_per_example true): most of the spread over images
    is common to both, and cancels.

    Args:
        run: folders of the runs.
    """

    def __init__(self, *run: Path) -> None:
        self.folders = [Path(folder) for folder in run]

    def run(self) -> str:
        """The table.

        Raises:
            UserError: if there are fewer than two runs, one has no evaluation, one does not say what its data are, or
                they are about different data.
        """
        if len(self.folders) < 2:
            raise UserError(f"RUN: must be at least two run folders, got {len(self.folders)}")
        runs = [Run(folder) for folder in self.folders]
        for run in runs:
            require_same_data(runs[0], run)
        rows = [["quantity", *(str(run.path) for run in runs), *(f"{run.path} − {runs[0].path}" for run in runs[1:])]]
        for name in dict.fromkeys(name for run in runs for name in run.quantities):
            differences = [_difference(runs[0], run, name) for run in runs[1:]]
            rows.append([name, *(_cell(run, name) for run in runs), *differences])
        return aligned(rows)


def require_same_data(first: Run, other: Run) -> None:
    """Refuse runs whose numbers are about different images, or about images that nobody can name.

    Raises:
        UserError: naming the run, or both.
    """
    if not other.data.get("digest"):
        raise UserError(
            f"RUN: the data of a run must say what they are, got none in {other.path}; test it with a data module that "
            "has a description() with a digest"
        )
    key = next((key for key in ABOUT if other.data.get(key) != first.data.get(key)), None)
    if key is not None:
        one, two = (f"{key} {run.data.get(key)!r} in {run.path}" for run in (first, other))
        raise UserError(f"RUN: the runs must be about the same data, got {one} and {two}; test both on one data set")


def _cell(run: Run, name: str) -> str:
    q = run.quantities.get(name)
    return "—" if q is None else with_error(q["value"], q["stderr"])


def _difference(first: Run, other: Run, name: str) -> str:
    """Value and standard error of other − first: paired, or "unpaired" where the images' values are not there."""
    if name not in first.quantities or name not in other.quantities:
        return "—"
    a, b = first.per_example(name), other.per_example(name)
    if a is not None and b is not None and a.shape == b.shape and len(a) > 1:
        stderr = float((b - a).std(ddof=1)) / math.sqrt(len(a))
        return f"{with_error(float((b - a).mean()), stderr, '+')} paired"
    p, q = first.quantities[name], other.quantities[name]
    return f"{with_error(q['value'] - p['value'], math.hypot(p['stderr'], q['stderr']), '+')} unpaired"


LATENT, PIXELS, SIDE = 2, 784, 28


class Estimates(NamedTuple):
    """Two estimates of p(x) from the same S draws, over the number d = 1 … D of pixels that are counted.

    Attributes:
        naive: 1/S Σ_s Π_j p(x_j|z_s) in float32, ``(D,)``.
        log_space: logsumexp_s Σ_j log p(x_j|z_s) − log S in float32, ``(D,)``, nats.
    """

    naive: Tensor
    log_space: Tensor


def estimates(logits: Tensor, x: Tensor) -> Estimates:
    """Both estimates for one image: logits ``(S, D)`` of S draws from the prior, x ``(D,)``."""
    log_pixel = -torch.nn.functional.softplus((1 - 2 * x) * logits)  # log p(x_j|z_s)
    naive = log_pixel.exp().cumprod(-1).mean(0)
    return Estimates(naive, iw_elbo(log_pixel.cumsum(-1)))


class LogSpace(FreeStudy):
    """See an estimate of p(x) underflow, and its log-space twin beside it.

    Draws 10 images from an untrained 2-128-128-784 decoder, and estimates the probability of the first both ways.
    Writes ``log_space.png``.

    Args:
        output: folder of the figure.
        samples: number S of draws from the prior.
        seed: seed of the weights and of the draws.
    """

    def __init__(
        self, output: Path = Path("runs/why_log_space"), samples: PositiveInt = 128, seed: NonNegativeInt = 0
    ) -> None:
        self.output, self.samples, self.seed = Path(output), samples, seed

    def run(self) -> str:
        """Draw, estimate, and tell what was found."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            decoder, likelihood = MLP(LATENT, PIXELS, hidden=(128, 128), activation="ELU"), Bernoulli()
        generator = generator_for(self.seed, "figures", 0)
        with torch.no_grad():
            images = likelihood.sample(decoder(torch.randn(10, LATENT, generator=generator)), generator)
            found = estimates(decoder(torch.randn(self.samples, LATENT, generator=generator)), images[0])
        path = self.output / "log_space.png"
        figure = log_space_figure(images.view(-1, SIDE, SIDE), found.naive.log().numpy(), found.log_space.numpy())
        save_png(render(figure), path)
        return f"{_account(found, self.samples)}\nwritten to {path}"


def _account(found: Estimates, samples: int) -> str:
    zero = found.naive == 0
    first_zero = int(zero.int().argmax()) + 1 if bool(zero.any()) else None
    power, logarithm = torch.tensor(0.8).pow(PIXELS), PIXELS * torch.tensor(0.8).log()
    return (
        f"0.8^{PIXELS} in float32: {float(power):g}; {PIXELS} log 0.8 = {float(logarithm):.2f} nats\n"
        f"p(x) of one image, {samples} draws from the prior, float32:\n"
        f"  1/S Σ_s p(x|z_s)                       {float(found.naive[-1]):g}"
        f"{f'   (0 from {first_zero} pixels on)' if first_zero else ''}\n"
        f"  logsumexp_s log p(x|z_s) − log S       {float(found.log_space[-1]):.2f} nats"
    )
