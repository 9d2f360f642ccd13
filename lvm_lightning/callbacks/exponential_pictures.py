"""Figures of the exponential-posterior model, when its training ends."""

from collections.abc import Iterator, Mapping
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from lvm_lightning.callbacks.run_folder import publish, run_folder
from lvm_lightning.evaluation import closed_forms as exponential
from lvm_lightning.evaluation.closed_forms import Problem
from lvm_lightning.evaluation.rise import tightness
from lvm_lightning.figures import kl_curve, posterior_curves, rate_path, weighted_gaps
from lvm_lightning.modules import ExponentialPosterior

SOURCE_LIMIT = 15.0
"""Where the teaching source cuts its grid over z off."""
BAD_FACTOR = 4.0
"""A surrogate at so many times θ* lies beside the posterior: its weights are heavy."""
REPEATS, LARGEST = 2000, 4096


class ExponentialPictures(pl.Callback):
    """Keep θ of every step, and draw ``posterior``, ``kl``, ``theta`` and ``gap`` when training ends."""

    def __init__(self) -> None:
        self._path: list[Tensor] = []
        self._x: Tensor | None = None

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep θ, on its device."""
        if isinstance(pl_module, ExponentialPosterior):
            self._path.append(pl_module.theta)
            self._x = batch.x[0]

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw."""
        if not isinstance(pl_module, ExponentialPosterior) or self._x is None:
            return
        folder = run_folder(trainer)
        if trainer.is_global_zero:
            path = [float(theta) for theta in self._path]
            for name, figure in draw(Problem.of(self._x, pl_module.rate, pl_module.sigma), path):
                publish(trainer, folder, figure, name)

    def state_dict(self) -> dict[str, Any]:
        """θ so far, so that a resumed run draws its whole path."""
        return {"path": [float(theta) for theta in self._path]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a checkpoint's path."""
        self._path = [torch.tensor(theta, dtype=torch.float64) for theta in state_dict["path"]]


def draw(problem: Problem, path: list[float]) -> Iterator[tuple[str, Figure]]:
    """Names and figures, one after the other."""
    best, theta = exponential.best_rate(problem), path[-1]
    mean, variance = exponential.posterior_moments(problem)
    z = torch.linspace(0, mean + 6 * variance**0.5, 2001, dtype=torch.float64)
    joint = exponential.log_joint(problem, z).exp()
    surrogates = {
        f"q at the end of training, θ = {theta:.4g}": theta * (-theta * z).exp(),
        f"q at θ* = {best:.4g}": best * (-best * z).exp(),
    }
    yield (
        "posterior",
        posterior_curves(
            z.numpy(),
            joint.numpy(),
            exponential.log_posterior(problem, z).exp().numpy(),
            (joint / torch.trapezoid(joint, z)).numpy(),
            {name: density.numpy() for name, density in surrogates.items()},
        ),
    )
    rates = torch.logspace(-4, 1, 500, dtype=torch.float64) * best
    truncated = truncated_kl(problem, rates, SOURCE_LIMIT)
    yield (
        "kl",
        kl_curve(
            rates.numpy(),
            exponential.kl(problem, rates).numpy(),
            truncated.numpy(),
            best,
            float(rates[truncated.argmin()]),
            SOURCE_LIMIT,
        ),
    )
    yield "theta", rate_path(path, best)
    gaps = {}
    bad = BAD_FACTOR * best
    for name, rate in [(f"θ* = {best:.3g}", best), (f"θ = {BAD_FACTOR:g} θ* = {bad:.3g}", bad)]:
        samples, *curves = importance_weighted_gaps(problem, rate)
        gaps[name] = (curves[0], curves[1], curves[2])
    yield "gap", weighted_gaps(samples, gaps)


def truncated_kl(problem: Problem, rates: Tensor, limit: float, points: int = 1000) -> Tensor:
    """Σ q log(q/p) Δz on a grid over [0, limit], p normalised on that grid: what the teaching source computes.

    It leaves out what q has beyond the grid: as θ falls, ever less of q is left in the sum, which goes to 0.
    """
    z = torch.linspace(0, limit, points, dtype=torch.float64)
    log_p = exponential.log_joint(problem, z)
    log_p = log_p - torch.logsumexp(log_p, 0) - (z[1] - z[0]).log()
    log_q = rates.log().unsqueeze(1) - rates.unsqueeze(1) * z
    return torch.trapezoid(log_q.exp() * (log_q - log_p), z, dim=-1)


def importance_weighted_gaps(
    problem: Problem, rate: float
) -> tuple[list[int], np.ndarray[Any, np.dtype[np.float64]], np.ndarray[Any, np.dtype[np.float64]], Any]:
    """N, log p(x) − L_N, its standard error, and its prediction with the exact Var[w], for q = Exp(rate)."""
    generator = torch.Generator().manual_seed(0)
    e = -torch.rand(LARGEST, REPEATS, dtype=torch.float64, generator=generator).log()
    z = e / rate
    log_w = exponential.log_joint(problem, z) - (torch.tensor(rate).double().log() - e)
    log_p = torch.full((REPEATS,), exponential.log_marginal(problem), dtype=torch.float64)
    rows = tightness(log_w, log_p)
    predicted = exponential.relative_variance(problem, rate) / (2 * np.array([row.samples for row in rows]))
    gap, stderr = np.array([row.gap for row in rows]), np.array([row.gap_stderr for row in rows])
    return [row.samples for row in rows], gap, stderr, predicted
