"""A trained model looked at from all sides: train, validation and test beside each other, latents, gradients."""

import math
from pathlib import Path
from typing import cast

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.nn import Parameter

from lvm_lightning.data.loader import Batch
from lvm_lightning.data.selection import rows_of
from lvm_lightning.densities.proposals import DiagonalGaussian
from lvm_lightning.evaluation.diagnostics import active_units, mutual_information, signal_to_noise
from lvm_lightning.evaluation.quantity import Kind, Quantity, table
from lvm_lightning.evaluation.report import Provenance, write_report
from lvm_lightning.modules.base import LatentVariableModule
from lvm_lightning.objectives.bounds import elbo, iw_elbo
from lvm_lightning.support.randomness import Purpose, generator_for

SPLITS = ("train", "val", "test")
BATCH = 100
"""Images that are looked at together."""


def write_diagnosis(
    model: LatentVariableModule,
    data: pl.LightningDataModule,
    provenance: Provenance,
    folder: Path,
    *,
    images: int,
    samples: int,
    gradient_repeats: int,
    seed: int,
) -> tuple[str, Path]:
    """Bounds on evenly spaced images of each split, what the latents do on test, and the gradient's signal-to-noise.

    Writes ``diagnosis.json``.

    Returns:
        A table, and the path.
    """
    rows = {split: rows_of(data, split, images).to(model.device) for split in SPLITS}
    quantities: list[Quantity] = []
    for split, x in rows.items():
        quantities += bounds_of(model, x, split, samples, seed)
    quantities += latents_of(model, rows["test"], seed)
    if gradient_repeats:
        quantities += gradients_of(model, rows["train"][:BATCH], gradient_repeats, seed)
    path = folder / "diagnosis.json"
    write_report(path, quantities, provenance)
    return table(quantities), path


def bounds_of(model: LatentVariableModule, x: Tensor, split: str, samples: int, seed: int) -> list[Quantity]:
    """ELBO and L_S of a split, and log p(x) where it is exact."""
    lower, tight = [], []
    for number, part in enumerate(x.split(BATCH)):
        with torch.inference_mode():
            log_w = model.draw_log_weights(Batch.whole(part), samples, generator_for(seed, "diagnosis", number))
            lower.append(elbo(log_w))
            tight.append(iw_elbo(log_w.double()))
    with torch.inference_mode():
        exact = model.log_marginal(x)
    found: list[tuple[str, Tensor, Kind]] = [
        (f"{split}: ELBO", torch.cat(lower), "lower bound"),
        (f"{split}: log p(x) ≥ L_{samples}", torch.cat(tight), "lower bound"),
    ]
    if exact is not None:
        found.append((f"{split}: log p(x)", exact, "exact"))
    return [
        Quantity.mean_of(name, values, kind=kind, split=split, samples=samples, unit=model.unit)
        for name, values, kind in found
    ]


def latents_of(model: LatentVariableModule, x: Tensor, seed: int) -> list[Quantity]:
    """Active units, the KL of each dimension, and its split into mutual information and the aggregate's KL."""
    with torch.inference_mode():
        q = model.proposal(x)
        if not isinstance(q, DiagonalGaussian):
            return []
        noise = torch.randn(1, *q.mean.shape, generator=generator_for(seed, "diagnosis", 0)).to(q.mean)
        z, log_q = (value.squeeze(0) for value in q.rsample(noise))
        information = mutual_information(z, log_q, q.mean, q.log_sigma)
        kl = log_q.double() - model.prior.log_prob(z).double()
        each = q.kl_per_dimension()
    n, nats = len(x), "nats per image"
    active = active_units(q.mean)
    found = [
        Quantity("active units", active, 0.0, f"of {q.mean.shape[-1]} latent dimensions", "exact", "test", 0, n),
        _estimate("KL(q(z|x) ‖ p(z))", kl),
        _estimate(f"I_q(x; z), at most log {n:,} = {torch.tensor(float(n)).log():.2f}", information),
        _estimate("KL(q(z) ‖ p(z)), of the aggregate posterior", kl - information),
    ]
    order = each.mean(0).argsort(descending=True).tolist()
    found += [
        Quantity.mean_of(f"KL of z_{k + 1}", each[:, k], kind="exact", split="test", samples=0, unit=nats)
        for k in order[: max(active, 1)]
    ]
    return found


def gradients_of(model: LatentVariableModule, x: Tensor, repeats: int, seed: int) -> list[Quantity]:
    """Signal-to-noise ratio of the training gradient of each top-level part, on one batch."""
    batch = Batch.whole(x)

    class Renoised:
        """Stands in for the module's step-seeded noise: every repeat has noise of its own."""

        repeat = 0

        def __call__(self, purpose: Purpose, step: int) -> torch.Generator:
            return generator_for(seed, "diagnosis", 1_000_000 + self.repeat)

    noise = Renoised()
    model.noise = noise  # type: ignore[method-assign]

    def loss(repeat: int) -> Tensor:
        noise.repeat = repeat
        output = model.training_step(batch, 0)
        assert isinstance(output, dict)
        return cast(Tensor, output["loss"])

    groups: dict[str, list[Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault(name.split(".")[0], []).append(parameter)
    try:
        ratios = signal_to_noise(loss, groups, repeats)
    finally:
        del model.noise
    label, unit = "signal-to-noise of the gradient", "|mean|/standard deviation"
    return [  # the spread of these ratios is not estimated
        Quantity(f"{label}: {name}", r, math.nan, unit, "stochastic estimate", "train", model.samples, len(x))
        for name, r in ratios.items()
    ]


def _estimate(name: str, values: Tensor) -> Quantity:
    return Quantity.mean_of(name, values, kind="stochastic estimate", split="test", samples=1)
