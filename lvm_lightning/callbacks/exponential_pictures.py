"""Figures of the exponential-posterior model, when its training ends."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from matplotlib.figure import Figure
from torch import Tensor

from lvm_lightning.callbacks.run_folder import publish, run_folder
from lvm_lightning.data.loader import Batch
from lvm_lightning.evaluation import closed_forms
from lvm_lightning.evaluation.closed_forms import Problem
from lvm_lightning.evaluation.rise import powers, tightness
from lvm_lightning.figures import kl_curve, posterior_curves, rate_path, weighted_gaps
from lvm_lightning.figures.toy import Array
from lvm_lightning.modules import ExponentialPosterior

SOURCE_LIMIT = 15.0
"""Where the teaching source cuts its grid over z off."""
BAD_FACTOR = 4.0
"""A surrogate at so many times θ* lies beside the posterior: its weights are heavy."""
SAMPLES, REPEATS = powers(2, 4096), 2000


class ExponentialPictures(Callback):
    """Keep θ of every step, and draw ``posterior``, ``kl``, ``theta`` and ``gap`` when training ends."""

    def __init__(self) -> None:
        self._path: list[Tensor | float] = []
        self._x: Tensor | None = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, *_: Any
    ) -> None:
        """Keep θ, on its device."""
        if isinstance(pl_module, ExponentialPosterior):
            self._path.append(pl_module.theta)
            self._x = batch.x[0]

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw."""
        if isinstance(pl_module, ExponentialPosterior) and self._x is not None:
            problem = Problem.of(self._x, pl_module.rate, pl_module.sigma)
            publish(trainer, run_folder(trainer), draw(problem, self.state_dict()["path"]))

    def state_dict(self) -> dict[str, Any]:
        """θ so far, so that a resumed run draws its whole path."""
        return {"path": [float(theta) for theta in self._path]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a checkpoint's path."""
        self._path = list(state_dict["path"])


def draw(problem: Problem, path: Sequence[float]) -> Iterator[tuple[str, Figure]]:
    """Names and figures, one after the other."""
    best, theta = closed_forms.best_rate(problem), path[-1]
    bad = BAD_FACTOR * best
    surrogates = {f"q at the end of training, θ = {theta:.4g}": theta, f"q at θ* = {best:.4g}": best}
    proposals = {f"θ* = {best:.3g}": best, f"θ = {BAD_FACTOR:g} θ* = {bad:.3g}": bad}
    rates = torch.logspace(-4, 1, 500, dtype=torch.float64) * best
    exact, truncated = closed_forms.kl(problem, rates).numpy(), truncated_kl(problem, rates, SOURCE_LIMIT).numpy()
    yield "posterior", posterior(problem, surrogates)
    yield "kl", kl_curve(rates.numpy(), exact, truncated, best, SOURCE_LIMIT)
    yield "theta", rate_path(path, best)
    gaps = {name: importance_weighted_gaps(problem, rate) for name, rate in proposals.items()}
    yield "gap", weighted_gaps(SAMPLES, gaps)


def posterior(problem: Problem, surrogates: Mapping[str, float]) -> Figure:
    """The joint, the posterior and exponential surrogates, name → θ."""
    mean, variance = closed_forms.posterior_moments(problem)
    z = torch.linspace(0, mean + 6 * variance**0.5, 2001, dtype=torch.float64)
    joint, exact = closed_forms.log_joint(problem, z).exp(), closed_forms.log_posterior(problem, z).exp()
    numerical = joint / torch.trapezoid(joint, z)
    densities = {name: (theta * (-theta * z).exp()).numpy() for name, theta in surrogates.items()}
    return posterior_curves(z.numpy(), joint.numpy(), exact.numpy(), numerical.numpy(), densities)


def truncated_kl(problem: Problem, rates: Tensor, limit: float, points: int = 1000) -> Tensor:
    """Σ q log(q/p) Δz on a grid over [0, limit], p normalised on that grid: what the teaching source computes.

    It leaves out what q has beyond the grid: as θ falls, ever less of q is left in the sum, which goes to 0.
    """
    z = torch.linspace(0, limit, points, dtype=torch.float64)
    log_p = closed_forms.log_joint(problem, z)
    log_p = log_p - torch.logsumexp(log_p, 0) - (z[1] - z[0]).log()
    log_q = rates.log().unsqueeze(1) - rates.unsqueeze(1) * z
    return torch.trapezoid(log_q.exp() * (log_q - log_p), z, dim=-1)


def importance_weighted_gaps(problem: Problem, rate: float) -> tuple[Array, Array, Array]:
    """log p(x) − L_N for each N, its standard error, and its prediction with the exact Var[w], for q = Exp(rate)."""
    generator = torch.Generator().manual_seed(0)
    e = -torch.rand(SAMPLES[-1], REPEATS, dtype=torch.float64, generator=generator).log()
    log_w = closed_forms.log_joint(problem, e / rate) - (torch.tensor(rate).double().log() - e)
    log_p = torch.full((REPEATS,), closed_forms.log_marginal(problem), dtype=torch.float64)
    gap, stderr = np.array([(row.gap, row.gap_stderr) for row in tightness(log_w, log_p)], dtype=np.float64).T
    return gap, stderr, closed_forms.relative_variance(problem, rate) / (2 * np.array(SAMPLES))
