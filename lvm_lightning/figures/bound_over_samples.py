"""Bounds over the number of samples."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from lvm_lightning.figures.rendering import new_figure

Curve = Sequence[float]


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
    n, values, error = np.asarray(samples), np.asarray(bound), np.asarray(stderr)
    figure = new_figure(10, 4)
    left, right = figure.subplots(1, 2)
    left.errorbar(n, values, yerr=error, marker="o", markersize=3, capsize=2, label="L_N ± standard error")
    top = log_p if log_p is not None else values[-1]
    name = "log p(x)" if log_p is not None else f"L_{samples[-1]:,}, for want of log p(x)"
    left.axhline(top, color="0.3", linewidth=1, label=name)
    if log_p is not None:
        predicted = top - np.asarray(predicted_gap)
        spread = max(top - values.min(), 1e-9)
        shown = predicted > values.min() - 0.3 * spread
        left.plot(n[shown], predicted[shown], "--", color="C3", label="log p(x) − Var[w]/(2 N p(x)²)")
    left.set(xscale="log", xlabel="samples N", ylabel="nats", title=title)
    left.legend(fontsize=8, loc="lower right")
    if gap is not None and gap_stderr is not None:
        g, e = np.asarray(gap), np.asarray(gap_stderr)
        above = g > 0
        right.errorbar(
            n[above], g[above], yerr=np.minimum(e[above], 0.9 * g[above]), marker="o", markersize=3, capsize=2,
            label="log p(x) − L_N",
        )  # fmt: skip
        right.plot(n, predicted_gap, "--", color="C3", label="second order: Var[w]/(2 N p(x)²)")
        right.set(ylabel="gap (nats)", title="Gap and its prediction")
    else:
        right.plot(n[:-1], np.diff(values), "o-", markersize=3, label="L_2N − L_N")
        right.set(ylabel="nats", title="What twice as many samples add")
    right.set(xscale="log", yscale="log", xlabel="samples N")
    right.legend(fontsize=8)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    return figure
