"""Figures at each validation and when training ends, to the loggers and to ``figures/`` in the run's folder."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from matplotlib.figure import Figure
from torch import Tensor

from lvm_lightning.callbacks.board import log_figure, tensorboards
from lvm_lightning.callbacks.run_folder import run_folder
from lvm_lightning.data.loader import Batch
from lvm_lightning.data.protocol import Description
from lvm_lightning.densities import StandardNormal
from lvm_lightning.evaluation import closed_forms
from lvm_lightning.evaluation.closed_forms import Problem
from lvm_lightning.evaluation.diagnostics import ACTIVE, activity
from lvm_lightning.evaluation.rise import Tightness, tightness
from lvm_lightning.figures import curves, pictures
from lvm_lightning.figures import latents as scatter
from lvm_lightning.figures.pictures import Vector
from lvm_lightning.modules import ExponentialPosterior, GaussianVAE
from lvm_lightning.modules.base import LatentVariableModule
from lvm_lightning.modules.provenance import name_of
from lvm_lightning.support import PositiveFloat, PositiveInt

SOURCE_LIMIT = 15.0
"""Where the teaching source cuts its grid over z off."""
BAD_FACTOR = 4.0
"""A surrogate at so many times θ* lies beside the posterior: its weights are heavy."""
EXTENT = 3.0
"""Half the width of a decoded grid whose prior has no quantiles that are known."""
SAMPLES, REPEATS = 4096, 2000


def publish(trainer: Trainer, folder: Path, figures: Iterable[tuple[str, Figure]]) -> None:
    """Write figures as ``figures/<name>.png`` in the run's folder, and to the loggers at the current step.

    :class:`Pictures` says whether a vector graphic lies beside each. One process draws them: give an
    iterator that draws when it is asked.
    """
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    vector = next((callback.vector for callback in callbacks if isinstance(callback, Pictures)), None)
    for name, figure in figures if trainer.is_global_zero else ():
        pixels = pictures.save_figure(figure, folder / "figures" / f"{name}.png", vector)
        for logger in trainer.loggers:
            log_figure(logger, name, figure, pixels, trainer.global_step)


def as_images(x: Tensor, data: Description) -> Tensor:
    """Examples of such data ``(n, D)`` as images ``(n, H, W)`` in [0, 1], ready to draw."""
    return pictures.darkness(x.cpu().view(-1, *(data.shape or ())), data.scale)


class Pictures(Callback):
    """Draw what the model generates, at each validation, to the loggers and to ``figures/`` in the run's folder.

    ``samples`` are drawn from p(x), ``means`` are E[x|z] at the same z (not samples of x: a sample has no grey),
    and ``latent_grid`` decodes a grid of z when K = 2. The points z stay the same from one validation to the next.

    Args:
        side: images along one side of each picture.
        extent: half the width of the decoded grid. By default the grid has the quantiles of a standard-normal prior,
            each with the same share of p(z) around it, and reaches to ±3 under any other prior.
        vector: whether each figure of the run also lies there as an SVG or a PDF; by default none does, as figures are
            drawn at each validation.
    """

    def __init__(
        self, side: PositiveInt = 8, extent: PositiveFloat | None = None, vector: Vector | None = None
    ) -> None:
        self.side, self.extent, self.vector = side, extent, vector

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw, in one process, outside the sanity check."""
        module = cast(LatentVariableModule, pl_module)
        if not trainer.sanity_checking and module.data.shape is not None:  # observations are no images
            with torch.inference_mode(), module.full_precision():
                publish(trainer, run_folder(trainer), self.draw(module))

    def draw(self, module: LatentVariableModule) -> Iterator[tuple[str, Figure]]:
        """Names and figures, one after the other."""
        model, images, about = module.model, partial(as_images, data=module.data), name_of(module)
        drawn = model.sample(self.side**2, module.noise("figures", 0))
        means = f"{type(model.likelihood).__name__} means E[x|z]"
        yield "samples", pictures.image_grid(images(drawn.x), f"{len(drawn.x):,} samples x ~ p(x)\n{about}")
        yield "means", pictures.image_grid(images(drawn.mean), f"{means}, z ~ p(z): not samples of x\n{about}")
        if model.prior.dim == 2:
            quantiles = self.extent is None and isinstance(model.prior, StandardNormal)
            axis = self.axis(quantiles).to(drawn.z)
            z2, z1 = torch.meshgrid(axis.flip(0), axis, indexing="ij")
            mean = model.likelihood.mean(model.decode(torch.stack([z1, z2], -1).view(-1, 2)))
            where = "at quantiles of p(z)" if quantiles else "on a grid of z"
            yield "latent_grid", pictures.latent_grid(images(mean), axis.tolist(), f"{means} {where}\n{about}")

    def axis(self, quantiles: bool) -> Tensor:
        """Values of z₁ and z₂ on the decoded grid, rising: quantiles of N(0, 1), or evenly spaced."""
        if quantiles:
            found: Tensor = torch.special.ndtri((torch.arange(self.side) + 0.5) / self.side)
            return found
        extent = self.extent or EXTENT
        return torch.linspace(-extent, extent, self.side)


class PosteriorPictures(Callback):
    """Draw what the encoder does with held-out images, to the loggers and to ``figures/`` in the run's folder.

    ``reconstructions`` shows inputs and under each E[x|z] at the proposal's location; ``latents`` where the proposals
    lie, by digit; ``units`` the KL of each latent dimension and which are active, also as TensorBoard histograms.

    Args:
        images: number of reconstructions.
    """

    def __init__(self, images: int = 32) -> None:
        self.images = images

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int, *_: Any
    ) -> None:
        """Keep the first images."""
        if batch_idx == 0:
            self._inputs = batch.x[: self.images]

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw, in one process, outside the sanity check."""
        if not trainer.sanity_checking and isinstance(pl_module, GaussianVAE):
            publish(trainer, run_folder(trainer), self.draw(pl_module))
            latents, step = pl_module.latents, trainer.global_step
            if latents is not None and latents.kl is not None:
                for logger in tensorboards(trainer):
                    logger.experiment.add_histogram("latents/kl_per_dimension_nats", latents.kl.mean(0), step)
                    logger.experiment.add_histogram("latents/activity", activity(latents.location), step)

    def draw(self, module: GaussianVAE) -> Iterator[tuple[str, Figure]]:
        """Names and figures, one after the other."""
        latents, x = module.latents, self._inputs
        assert latents is not None
        with torch.inference_mode(), module.full_precision():
            mean = module.model.likelihood.mean(module.model.decode(module.propose(x).location))
        inputs, means = (as_images(examples, module.data) for examples in (x, mean))
        about = name_of(module)
        title = f"Validation images, and under each E[x|z], z = E_q[z]\n{about}"
        yield "reconstructions", pictures.reconstruction_grid(inputs, means, title)
        what = "Posterior means" if latents.kl is not None else "Images of the base's means under the flow"
        yield "latents", scatter.latent_scatter(latents.location, latents.label, f"{what}, {about}")
        if latents.kl is not None:
            yield "units", scatter.unit_activity(latents.kl.mean(0), activity(latents.location), ACTIVE, about)


class ExponentialPictures(Callback):
    """Keep θ of every step, and draw ``posterior``, ``kl``, ``theta`` and ``gap`` when training ends."""

    def __init__(self) -> None:
        self._path: list[Tensor | float] = []
        self._x: Tensor | None = None

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, _: Any, batch: Batch, *__: Any) -> None:
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
    yield "kl", curves.kl_curve(rates.numpy(), exact, truncated, best, SOURCE_LIMIT)
    yield "theta", curves.rate_path(path, best)
    yield "gap", curves.weighted_gaps({name: gaps(problem, rate) for name, rate in proposals.items()})


def posterior(problem: Problem, surrogates: Mapping[str, float]) -> Figure:
    """The joint, the posterior and exponential surrogates, name → θ."""
    mean, variance = closed_forms.posterior_moments(problem)
    z = torch.linspace(0, mean + 6 * variance**0.5, 2001, dtype=torch.float64)
    joint, exact = closed_forms.log_joint(problem, z).exp(), closed_forms.log_posterior(problem, z).exp()
    numerical = joint / torch.trapezoid(joint, z)
    densities = {name: (theta * (-theta * z).exp()).numpy() for name, theta in surrogates.items()}
    return curves.posterior_curves(z.numpy(), joint.numpy(), exact.numpy(), numerical.numpy(), densities)


def truncated_kl(problem: Problem, rates: Tensor, limit: float, points: int = 1000) -> Tensor:
    """Σ q log(q/p) Δz on a grid over [0, limit], p normalised on that grid: what the teaching source computes.

    It leaves out what q has beyond the grid: as θ falls, ever less of q is left in the sum, which goes to 0.
    """
    z = torch.linspace(0, limit, points, dtype=torch.float64)
    log_p = closed_forms.log_joint(problem, z)
    log_p = log_p - torch.logsumexp(log_p, 0) - (z[1] - z[0]).log()
    log_q = rates.log().unsqueeze(1) - rates.unsqueeze(1) * z
    return torch.trapezoid(log_q.exp() * (log_q - log_p), z, dim=-1)


def gaps(problem: Problem, rate: float) -> list[Tightness]:
    """log p(x) − L_N for each N, its standard error, and its prediction with the exact Var[w], for q = Exp(rate)."""
    generator = torch.Generator().manual_seed(0)
    e = -torch.rand(SAMPLES, REPEATS, dtype=torch.float64, generator=generator).log()
    log_w = closed_forms.log_joint(problem, e / rate) - (torch.tensor(rate).double().log() - e)
    log_p = torch.full((REPEATS,), closed_forms.log_marginal(problem), dtype=torch.float64)
    variance = closed_forms.relative_variance(problem, rate)
    return [dataclasses.replace(row, predicted_gap=variance / (2 * row.samples)) for row in tightness(log_w, log_p)]
