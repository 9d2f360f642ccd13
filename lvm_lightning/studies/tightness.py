"""The importance-weighted bound over its number of samples."""

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor

from lvm_lightning.evaluation import LOG_P, NATS, Quantity
from lvm_lightning.evaluation.layout import LOG, Screen, aligned
from lvm_lightning.evaluation.plain import with_error, write_json
from lvm_lightning.evaluation.rise import Tightness as Row
from lvm_lightning.evaluation.rise import measure, rise
from lvm_lightning.figures.curves import tightness_curve
from lvm_lightning.figures.pictures import Vector, save_figure
from lvm_lightning.modules.provenance import name_of
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
        vector: whether the figure also lies there as an SVG or a PDF.
    """

    def __init__(self, largest: PositiveInt = 4096, images: PositiveInt = 500, vector: Vector | None = None) -> None:
        self.largest, self.images, self.vector = largest, images, vector

    def run(self, subject: Subject) -> str:
        """Measure and draw it."""
        x = subject.rows("test", self.images)
        log_p, error = (found if found is None else found.cpu() for found in subject.log_marginal(x))
        rows = self._rows(subject, x, log_p)
        exact = subject.exact("log p(x)", log_p, error)
        truth = exact[0] if exact else None
        title = f"Importance-weighted bound, {len(x):,} examples\n{name_of(subject.module)}"
        figure = tightness_curve(rows, truth.value if truth else None, title)
        picture, numbers = subject.folder / "tightness.png", subject.folder / "tightness.json"
        save_figure(figure, picture, self.vector)
        units, listed = subject.module.units, [dataclasses.asdict(row) for row in rows]
        content = {"unit": units[LOG_P], "gap_unit": units[NATS], "examples": len(x)}
        content |= {"log_p": dataclasses.asdict(truth) if truth else None, "rows": listed}
        content |= {"log_p_error": dataclasses.asdict(exact[1]) if exact[1:] else None}
        write_json(numbers, content | {"provenance": dataclasses.asdict(subject.provenance)})
        return f"{table(rows, exact, units, Screen.here())}\n\nwritten to {picture} and {numbers}"

    def _rows(self, subject: Subject, x: Tensor, log_p: Tensor | None) -> list[Row]:
        generator, parts = generator_for(subject.seed, "tightness", 0), []
        together = min(WEIGHTS // self.largest, max(BATCH, len(x) // BATCHES))
        for numbers in subject.bar("tightness", torch.arange(len(x)).split(max(1, together))):
            log_w = subject.log_weights(x[numbers], self.largest, generator).cpu()
            parts.append(measure(log_w, None if log_p is None else log_p[numbers]))
        return rise(parts, log_p)


def table(rows: list[Row], exact: list[Quantity], units: Mapping[str, str], screen: Screen = LOG) -> str:
    """A line for each N, and what is exact; the gap's columns are differences, in nats whatever the bound's unit is."""
    names = ("log p(x) − L_N", "Var[w]/(2 N p²)")
    lines = [("N", f"L_N ± standard error ({units[LOG_P]})", *(f"{name} ({units[NATS]})" for name in names))]
    for r in rows:
        known = "—" if r.gap is None or r.gap_stderr is None else with_error(r.gap, r.gap_stderr)
        lines.append((f"{r.samples:,}", with_error(r.bound, r.stderr), known, f"{r.predicted_gap:.4g}"))
    lines += [(quantity.name, with_error(quantity.value, quantity.stderr), quantity.kind, "") for quantity in exact]
    return aligned(lines, screen)
