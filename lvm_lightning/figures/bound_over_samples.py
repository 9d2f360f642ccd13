"""Bounds over the number of samples."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lvm_lightning.figures.rendering import new_figure, with_legend

Curve = Sequence[float] | npt.NDArray[np.float64]
POINTS: dict[str, Any] = {"marker": "o", "markersize": 3, "capsize": 2}


def tightness_curve(
    samples: Sequence[int],
    bound: Curve,
    stderr: Curve,
    predicted_gap: Curve,
    log_p: float | None,
    title: str,
    gap: Curve | None = None,
    gap_stderr: Curve | None = None,
) -> Figure:
    """L_N over N against log p(x), and the gap on logarithmic axes beside its second-order prediction.

    Where log p(x) is not known neither is the gap: there the second panel has what each doubling of N still adds.

    Args:
        samples: N.
        bound: L_N, nats.
        stderr: its standard error.
        predicted_gap: Var[w]/(2 N p²), nats.
        log_p: log p(x), where it is known.
        title: title of the left panel.
        gap: log p(x) − L_N, where it is known.
        gap_stderr: its standard error.
    """
    n, values = np.asarray(samples), np.asarray(bound)
    figure, (left, right) = new_figure(10, 4, columns=2)
    left.errorbar(n, values, yerr=stderr, label="L_N ± standard error", **POINTS)
    top, name = (values[-1], f"L_{samples[-1]:,}, for want of log p(x)") if log_p is None else (log_p, "log p(x)")
    left.axhline(top, color="0.3", linewidth=1, label=name)
    if log_p is not None:
        predicted = log_p - np.asarray(predicted_gap)
        shown = predicted > values.min() - 0.3 * max(log_p - values.min(), 1e-9)
        left.plot(n[shown], predicted[shown], "--", color="C3", label="log p(x) − Var[w]/(2 N p(x)²)")
    left.set(xscale="log", xlabel="samples N", ylabel="nats", title=title)
    with_legend(left, fontsize=8, loc="lower right")
    if gap is not None and gap_stderr is not None:
        draw_gap(right, samples, gap, gap_stderr, predicted_gap)
        right.set(ylabel="gap (nats)", title="Gap and its prediction")
    else:
        right.plot(n[:-1], np.diff(values), "o-", markersize=3, label="L_2N − L_N")
        right.set(ylabel="nats", title="What twice as many samples add")
        right.set(xscale="log", yscale="log", xlabel="samples N")
    with_legend(right, fontsize=8)
    return figure


def draw_gap(axes: Axes, samples: Sequence[int], gap: Curve, stderr: Curve, predicted: Curve) -> None:
    """log p(x) − L_N and its prediction Var[w]/(2 N p²) over N, on logarithmic axes, where it is positive."""
    n, g = np.asarray(samples), np.asarray(gap)
    above = g > 0
    errors = np.minimum(stderr, 0.9 * g)[above]
    axes.errorbar(n[above], g[above], yerr=errors, label="log p(x) − L_N", **POINTS)
    axes.plot(n, predicted, "--", color="C3", label="second order: Var[w]/(2 N p(x)²)")
    axes.set(xscale="log", yscale="log", xlabel="samples N")
