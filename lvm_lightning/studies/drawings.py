"""A trained model drawn: new images from it, and its importance-weighted bound over the number of samples."""

import dataclasses

import torch
from torch import Tensor

from lvm_lightning.evaluation import LOG_P, Quantity
from lvm_lightning.evaluation.report import write_json
from lvm_lightning.evaluation.rise import Tightness as Row
from lvm_lightning.evaluation.rise import measure, rise
from lvm_lightning.figures.curves import tightness_curve
from lvm_lightning.figures.pictures import darkness, image_grid, render, save_png
from lvm_lightning.studies.base import Study, Subject
from lvm_lightning.support import PositiveInt, UserError, generator_for, write_arrays


class Sample(Study):
    """Draw new images from a trained model: a PNG grid and an array.

    Ancestral sampling: z ~ p(z), x ~ p(x|z). Writes ``samples.png``, a grid that shows the data's pixel range from
    white to black, and ``samples.npz`` with ``x`` ``(count, H, W)``, uint8 for binary images and float32 otherwise,
    ``mean`` = E[x|z] float32 in the same shape, and ``z`` ``(count, K)``.

    Args:
        count: number of images.
    """

    def __init__(self, count: PositiveInt = 64) -> None:
        self.count = count

    def run(self, subject: Subject) -> str:
        """Draw them.

        Raises:
            UserError: if the data are no images.
        """
        data, generator = subject.module.data, generator_for(subject.seed, "sample", 0)
        if data.shape is None:
            name = type(subject.module).__name__
            raise UserError(f"model: sample draws images, got {name}, which has none; use test")
        with torch.inference_mode():
            drawn = subject.model.sample(self.count, generator)
        x, mean = (images.cpu().view(-1, *data.shape) for images in (drawn.x, drawn.mean))
        picture, array = subject.folder / "samples.png", subject.folder / "samples.npz"
        save_png(render(image_grid(darkness(x, data.scale), f"{self.count} samples x ~ p(x)")), picture)
        images = x if subject.model.likelihood.density else x.to(torch.uint8)
        write_arrays(array, {"x": images.numpy(), "mean": mean.numpy(), "z": drawn.z.cpu().numpy()})
        return "\n".join(f"{self.count} samples written to {path}" for path in (picture, array))


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
