"""The importance-weighted bound of a trained model over its number of samples, as files."""

import dataclasses
from pathlib import Path

import lightning.pytorch as pl
import torch

from lvm_lightning.data.loader import Batch
from lvm_lightning.data.selection import rows_of
from lvm_lightning.evaluation.quantity import Quantity
from lvm_lightning.evaluation.report import Provenance, write_json
from lvm_lightning.evaluation.rise import Tightness, measure, rise
from lvm_lightning.figures import render, save_png, tightness_curve
from lvm_lightning.modules.base import LatentVariableModule
from lvm_lightning.support.randomness import generator_for

WEIGHTS, BATCH, BATCHES = 2**26, 50, 20
"""Weights that are held at a time; images whose weights are drawn together, or more where there are 20 such batches."""


def write_tightness(
    model: LatentVariableModule,
    data: pl.LightningDataModule,
    provenance: Provenance,
    folder: Path,
    *,
    largest: int,
    images: int,
    seed: int,
) -> tuple[str, tuple[Path, Path]]:
    """L_N for N = 1, 2, 4, … ≤ ``largest`` on evenly spaced test images, exact log p(x) where possible, the prediction.

    Writes ``tightness.png`` and ``tightness.json``.

    Returns:
        A table, and the two paths.
    """
    x = rows_of(data, "test", images).to(model.device)
    generator = generator_for(seed, "tightness", 0)
    with torch.inference_mode():
        exact = model.log_marginal(x)
        log_p = None if exact is None else exact.cpu()
        parts = []
        together = min(WEIGHTS // largest, max(BATCH, len(x) // BATCHES))
        for rows_together in torch.arange(len(x)).split(max(1, together)):
            log_w = model.draw_log_weights(Batch.whole(x[rows_together]), largest, generator).cpu()
            parts.append(measure(log_w, None if log_p is None else log_p[rows_together]))
    rows = rise(parts, log_p)
    truth = None if log_p is None else Quantity.mean_of("log p(x)", log_p, kind="exact", split="test", samples=0)
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
    picture, numbers = folder / "tightness.png", folder / "tightness.json"
    save_png(render(figure), picture)
    content = {
        "unit": model.unit,
        "examples": len(x),
        "log_p": dataclasses.asdict(truth) if truth else None,
        "rows": [dataclasses.asdict(row) for row in rows],
        "provenance": dataclasses.asdict(provenance),
    }
    write_json(numbers, content)
    return table(rows, truth, model.unit), (picture, numbers)


def table(rows: list[Tightness], truth: Quantity | None, unit: str) -> str:
    """A line for each N."""
    lines = [f"{'N':>9}  {'L_N ± standard error':>24}  {'log p(x) − L_N':>22}  {'Var[w]/(2 N p²)':>16}   {unit}"]
    for r in rows:
        gap = "" if r.gap is None or r.gap_stderr is None else f"{r.gap:.4f} ± {r.gap_stderr:.4f}"
        lines.append(f"{r.samples:>9,}  {r.bound:>13.3f} ± {r.stderr:<8.3f}  {gap:>22}  {r.predicted_gap:>16.4g}")
    if truth:
        lines.append(f"{'log p(x)':>9}  {truth.value:>13.3f} ± {truth.stderr:<8.3f}  exact")
    return "\n".join(lines)
