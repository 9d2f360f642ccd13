"""A number that says what it is."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

from torch import Tensor

Kind = Literal["exact", "lower bound", "upper bound", "stochastic estimate", "parameter"]


@dataclasses.dataclass(frozen=True)
class Quantity:
    """A labelled mean over images.

    Attributes:
        name: what it is, as it is printed.
        value: mean over the images.
        stderr: standard error of that mean over the images, s/√n with the n − 1 form of s; where there is one data set,
            over independent repeats of the estimate; 0 for what no sampling has gone into.
        unit: unit of value and stderr.
        kind: how the value stands to what it names: ``exact`` (up to quadrature error), a ``lower bound`` on
            log p(x) in expectation, an ``upper bound``, a ``stochastic estimate``, or a ``parameter`` of the model.
        split: the images it is about.
        samples: latent points an image.
        images: number n of images.
    """

    name: str
    value: float
    stderr: float
    unit: str
    kind: Kind
    split: str
    samples: int
    images: int

    @classmethod
    def mean_of(
        cls, name: str, values: Tensor, *, kind: Kind, split: str, samples: int, unit: str = "nats per image"
    ) -> "Quantity":
        """Mean of values ``(n,)``, one an image, summed in float64.

        Raises:
            ValueError: if there are no values, or one is not finite.
        """
        values = values.double()
        n = values.numel()
        if n == 0 or not bool(values.isfinite().all()):
            bad = int((~values.isfinite()).sum())
            raise ValueError(f"{name}: needs finite values of at least one image, got {n} of which {bad} not finite")
        stderr = float(values.std() / math.sqrt(n)) if n > 1 else math.nan
        return cls(name, float(values.mean()), stderr, unit, kind, split, samples, n)


def table(quantities: Sequence[Quantity]) -> str:
    """The quantities as aligned text, a line each under one heading."""
    heading = ("quantity", "value ± standard error", "unit", "kind", "split", "samples", "images")
    rows = [
        (q.name, with_error(q.value, q.stderr), q.unit, q.kind, q.split, f"{q.samples:,}", f"{q.images:,}")
        for q in quantities
    ]
    return aligned([heading, *rows])


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of as many cells each as text in columns; the first is the heading."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    lines.insert(1, "  ".join("─" * width for width in widths))
    return "\n".join(lines)


def with_error(value: float, stderr: float, sign: str = "") -> str:
    """``value ± standard error``; a sign of ``+`` shows that of a positive value too."""
    digits = decimals(stderr)
    return f"{value:{sign}.{digits}f} ± {stderr:.{digits}f}"


def decimals(stderr: float) -> int:
    """As many as show two digits of the standard error, from two to six; four for what has none."""
    return min(6, max(2, 1 - math.floor(math.log10(stderr)))) if stderr > 0 else 4
