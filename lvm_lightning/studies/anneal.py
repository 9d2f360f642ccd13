"""log p(x) of a trained model by every means at once: quadrature, importance sampling, annealing, and the sandwich."""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import lightning.pytorch as pl
import torch
from torch import Tensor
from tqdm import tqdm

from lvm_lightning.data.loader import Batch
from lvm_lightning.data.selection import rows_of
from lvm_lightning.evaluation import annealing
from lvm_lightning.evaluation.quantity import Kind, Quantity, table
from lvm_lightning.evaluation.report import Provenance, write_report
from lvm_lightning.evaluation.rise import powers
from lvm_lightning.modules.base import LatentVariableModule
from lvm_lightning.objectives.bounds import nested_iw_elbo
from lvm_lightning.support.randomness import generator_for

Start = Literal["prior", "encoder"]

TOGETHER = 250
"""Examples that are annealed together."""
PILOT_CHAINS = 4
"""Chains of the run that finds the step sizes."""


def annealing_path(model: LatentVariableModule, x: Tensor, start: Start, steps: int, leapfrog: int) -> annealing.Path:
    """From the prior, or from the encoder's q(z|x), to the posterior.

    Raises:
        ValueError: if the model has no encoder to start from.
    """
    q = model.proposal(x)
    if start == "encoder" and q is None:
        raise ValueError(f"start: {type(model).__name__} has no encoder to anneal from, got {start}; use --start prior")

    def log_base(z: Tensor) -> Tensor:
        return model.prior.log_prob(z) if start == "prior" or q is None else q.stopped_log_prob(z)

    def log_ratio(z: Tensor) -> Tensor:
        log_lik, log_prior = model.log_joint(x, z)
        return log_lik if start == "prior" or q is None else log_lik + (log_prior - q.stopped_log_prob(z))

    return annealing.Path(log_base, log_ratio, annealing.sigmoid_schedule(steps), leapfrog)


def starting_points(model: LatentVariableModule, x: Tensor, start: Start, chains: int, g: torch.Generator) -> Tensor:
    """z ~ p₀, ``(C, B, K)``."""
    noise = torch.randn(chains, len(x), model.prior.dim, generator=g, dtype=model.latent_dtype).to(x.device)
    q = model.proposal(x)
    return model.prior.transform(noise) if start == "prior" or q is None else q.rsample(noise)[0].detach()


def sandwich(
    model: LatentVariableModule,
    x: Tensor,
    start: Start,
    steps: int,
    chains: int,
    leapfrog: int,
    generator: torch.Generator,
    posterior_sample: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Annealed lower bounds on log p(x) ``(B,)``, and upper ones from an exact posterior sample ``(B, K)``."""
    path = annealing_path(model, x, start, steps, leapfrog)
    pilot = starting_points(model, x, start, min(chains, PILOT_CHAINS), generator)
    tuned = annealing.tune(path, pilot, generator)
    z = starting_points(model, x, start, chains, generator)
    lower = annealing.lower_bound(annealing.forward(path, z, tuned, generator))
    if posterior_sample is None:
        return lower, None
    exact = posterior_sample.expand(chains, *posterior_sample.shape)
    return lower, annealing.upper_bound(annealing.backward(path, exact, tuned, generator))


def write_annealing(
    model: LatentVariableModule,
    data: pl.LightningDataModule,
    provenance: Provenance,
    folder: Path,
    *,
    images: int,
    simulated: int,
    start: Start,
    steps: int,
    chains: int,
    leapfrog: int,
    importance_samples: int,
    seed: int,
) -> tuple[str, Path]:
    """log p(x) of evenly spaced test images: exact for K ≤ 2, L_S for S = 1, 10, … and annealed; and BDMC's sandwich.

    Writes ``annealing.json``.

    Returns:
        A table, and the path.
    """
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    x = rows_of(data, "test", images).to(model.device)
    quantities: list[Quantity] = []
    with torch.inference_mode():
        exact = model.log_marginal(x)
    if exact is not None:
        quantities.append(_quantity(model, "log p(x), exact", exact, "exact", 0))
    quantities += importance_weighted(model, x, importance_samples, seed)
    lower: list[Tensor] = []
    below: list[Tensor] = []
    above: list[Tensor] = []
    for part in _parts(x, "annealing"):
        generator = generator_for(seed, "annealing", len(lower))
        lower.append(sandwich(model, part, start, steps, chains, leapfrog, generator)[0])
    bound = torch.cat(lower)
    name = f"annealed from the {start}: {steps:,} temperatures, {chains} chains"
    quantities.append(_quantity(model, name, bound, "lower bound", chains))
    if exact is not None:
        quantities.append(_quantity(model, "log p(x) − annealed", exact - bound, "stochastic estimate", chains))
    for part in _parts(x[:simulated], "sandwich on simulated data"):
        generator = generator_for(seed, "simulation", len(below))
        made, z = model.simulate(part, generator)
        bounds = sandwich(model, made, start, steps, chains, leapfrog, generator, z)
        assert bounds[1] is not None
        below.append(bounds[0])
        above.append(bounds[1])
    low, high = torch.cat(below), torch.cat(above)
    quantities += [
        _quantity(model, "simulated data: annealed forwards", low, "lower bound", chains, "simulated"),
        _quantity(model, "simulated data: annealed backwards", high, "upper bound", chains, "simulated"),
        _quantity(model, "width of the sandwich", high - low, "stochastic estimate", chains, "simulated"),
    ]
    path = folder / "annealing.json"
    write_report(path, quantities, provenance)
    return table(quantities), path


def importance_weighted(model: LatentVariableModule, x: Tensor, largest: int, seed: int) -> list[Quantity]:
    """L_S for S = 1, 10, 100, … ≤ ``largest``, from groups of the same draws."""
    sizes = powers(10, largest)
    columns: list[list[Tensor]] = [[] for _ in sizes]
    rows = max(1, min(50, 10_000_000 // largest))
    for number, part in enumerate(_parts(x, "importance sampling", rows)):
        with torch.inference_mode():
            log_w = model.draw_log_weights(
                Batch.whole(part), sizes[-1], generator_for(seed, "tightness", number)
            ).double()
        for column, size in zip(columns, sizes, strict=True):
            column.append(nested_iw_elbo(log_w.view(-1, size, len(part))))
    return [
        _quantity(model, f"importance-weighted bound L_{size}", torch.cat(column), "lower bound", size)
        for size, column in zip(sizes, columns, strict=True)
    ]


def _parts(x: Tensor, what: str, size: int = TOGETHER) -> Iterable[Tensor]:
    parts: Iterable[Tensor] = tqdm(x.split(size), desc=what, leave=False)
    return parts


def _quantity(
    model: LatentVariableModule, name: str, values: Tensor, kind: Kind, samples: int, split: str = "test"
) -> Quantity:
    return Quantity.mean_of(name, values, kind=kind, split=split, samples=samples, unit=model.unit)
