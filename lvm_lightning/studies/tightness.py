"""The importance-weighted bound over its number of samples."""

import dataclasses

import torch
from torch import Tensor

from lvm_lightning.evaluation import LOG_P, Quantity
from lvm_lightning.evaluation.report import write_json
from lvm_lightning.evaluation.rise import Tightness as Row
from lvm_lightning.evaluation.rise import measure, rise
from lvm_lightning.figures.curves import tightness_curve
from lvm_lightning.figures.pictures import render, save_png
from lvm_lightning.studies.base import Study, Subject
from lvm_lightning.support import PositiveInt, generator_for

WEIGHTS, BATCH, BATCHES = 2**26, 50, 20
"""Weights that are held at a time; images whose weights are drawn together, or more where there are 20 such batches."""


class Tightness(Study):
    """Draw the importance-weighted bound over its number of samples: a figure, a table and a JSON file.

    L_N for N = 1, 2, 4, … on evenly spaced test images, exact log p(x) where possible, and the prediction of the gap.
    Writes ``tightness.png`` and ``tightness.json``.

    Args:
        largest: largest number of samples N.
        images: test images to average over, evenly spaced; repeats of the estimate where there is one data set.
    """

    def __init__(self, largest: PositiveInt = 4096, images: PositiveInt = 500) -> None:
        self.largest, self.images = largest, images

    def run(self, subject: Subject) -> str:
        """Measure and draw it."""
        x = subject.rows("test", self.images)
        log_p = subject.log_marginal(x)
        log_p = None if log_p is None else log_p.cpu()
        rows = self._rows(subject, x, log_p)
        truth = None if log_p is None else subject.quantity("log p(x)", log_p, "exact", 0)
        title = f"Importance-weighted bound, {len(x):,} examples"
        figure = tightness_curve(rows, truth.value if truth else None, title)
        picture, numbers = subject.folder / "tightness.png", subject.folder / "tightness.json"
        save_png(render(figure), picture)
        unit, listed = subject.module.units[LOG_P], [dataclasses.asdict(row) for row in rows]
        content = {"unit": unit, "examples": len(x), "log_p": dataclasses.asdict(truth) if truth else None}
        write_json(numbers, content | {"rows": listed, "provenance": dataclasses.asdict(subject.provenance)})
        return f"{table(rows, truth, unit)}\n\nwritten to {picture} and {numbers}"

    def _rows(self, subject: Subject, x: Tensor, log_p: Tensor | None) -> list[Row]:
        generator, parts = generator_for(subject.seed, "tightness", 0), []
        together = min(WEIGHTS // self.largest, max(BATCH, len(x) // BATCHES))
        for numbers in torch.arange(len(x)).split(max(1, together)):
            log_w = subject.log_weights(x[numbers], self.largest, generator).cpu()
            parts.append(measure(log_w, None if log_p is None else log_p[numbers]))
        return rise(parts, log_p)


def table(rows: list[Row], truth: Quantity | None, unit: str) -> str:
    """A line for each N."""
    lines = [f"{'N':>9}  {'L_N ± standard error':>24}  {'log p(x) − L_N':>22}  {'Var[w]/(2 N p²)':>16}   {unit}"]
    for r in rows:
        gap = "" if r.gap is None or r.gap_stderr is None else f"{r.gap:.4f} ± {r.gap_stderr:.4f}"
        lines.append(f"{r.samples:>9,}  {r.bound:>13.3f} ± {r.stderr:<8.3f}  {gap:>22}  {r.predicted_gap:>16.4g}")
    if truth:
        lines.append(f"{'log p(x)':>9}  {truth.value:>13.3f} ± {truth.stderr:<8.3f}  exact")
    return "\n".join(lines)
