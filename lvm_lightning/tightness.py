"""The importance-weighted bound of a trained model over its number of samples, as files."""

import dataclasses
import json
from pathlib import Path

import lightning.pytorch as pl
import torch

from lvm_lightning.data.loader import Batch
from lvm_lightning.evaluation.quantity import Quantity
from lvm_lightning.evaluation.tightness import Tightness, evenly_spaced, tightness
from lvm_lightning.figures import render, save_png, tightness_curve
from lvm_lightning.modules.base import LatentVariableModule
from lvm_lightning.randomness import generator_for

BATCH = 50
"""Images whose weights are drawn together."""


def write_tightness(
    model: LatentVariableModule, data: pl.LightningDataModule, largest: int, images: int, seed: int, folder: Path
) -> tuple[str, tuple[Path, Path]]:
    """L_N for N = 1, 2, 4, … ≤ ``largest`` on evenly spaced test images, exact log p(x) where possible, the prediction.

    Writes ``tightness.png`` and ``tightness.json``.

    Returns:
        A table, and the two paths.
    """
    x = rows_of(data, "test", images)
    generator = generator_for(seed, "tightness", 0)
    labels = torch.zeros(BATCH, dtype=torch.uint8)
    with torch.inference_mode():
        parts = x.to(model.device).split(BATCH)
        log_w = torch.cat(
            [model.draw_log_weights(Batch(p, labels[: len(p)], 0, len(p)), largest, generator).cpu() for p in parts], -1
        )
        exact = model.log_marginal(x.to(model.device))
    log_p = None if exact is None else exact.cpu()
    rows = tightness(log_w, log_p)
    truth = None if log_p is None else _log_p(log_p)
    figure = tightness_curve(
        [row.samples for row in rows],
        [row.bound for row in rows],
        [row.stderr for row in rows],
        [row.predicted_gap for row in rows],
        truth.value if truth else None,
        f"Importance-weighted bound, {len(x):,} examples",
        None if log_p is None else [row.gap or 0.0 for row in rows],
        None if log_p is None else [row.gap_stderr or 0.0 for row in rows],
    )
    folder.mkdir(parents=True, exist_ok=True)
    picture, numbers = folder / "tightness.png", folder / "tightness.json"
    save_png(render(figure), picture)
    content = {
        "unit": model.unit,
        "examples": len(x),
        "seed": seed,
        "log_p": dataclasses.asdict(truth) if truth else None,
        "rows": [dataclasses.asdict(row) for row in rows],
    }
    part = numbers.with_name(numbers.name + ".part")
    part.write_text(json.dumps(content, indent=2) + "\n")
    part.replace(numbers)
    return table(rows, truth, model.unit), (picture, numbers)


def rows_of(data: pl.LightningDataModule, split: str, count: int) -> torch.Tensor:
    """``count`` evenly spaced examples of a split, ``(count, D)``; a data set of one example is repeated."""
    x = torch.cat([batch.x for batch in getattr(data, f"{split}_dataloader")()])
    return x.expand(count, -1) if len(x) == 1 else x[evenly_spaced(len(x), count)]


def table(rows: list[Tightness], truth: Quantity | None, unit: str) -> str:
    """A line for each N."""
    lines = [f"{'N':>9}  {'L_N ± standard error':>24}  {'log p(x) − L_N':>22}  {'Var[w]/(2 N p²)':>16}   {unit}"]
    for r in rows:
        gap = "" if r.gap is None or r.gap_stderr is None else f"{r.gap:.4f} ± {r.gap_stderr:.4f}"
        lines.append(f"{r.samples:>9,}  {r.bound:>13.3f} ± {r.stderr:<8.3f}  {gap:>22}  {r.predicted_gap:>16.4g}")
    if truth:
        lines.append(f"{'log p(x)':>9}  {truth.value:>13.3f} ± {truth.stderr:<8.3f}  exact")
    return "\n".join(lines)


def _log_p(log_p: torch.Tensor) -> Quantity:
    return Quantity.mean_of("log p(x)", log_p, kind="exact", split="test", samples=0)
