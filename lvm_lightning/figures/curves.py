"""Figures without a display and without global state: curves over training, over samples and over latent values."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogFormatter, NullFormatter, ScalarFormatter

from lvm_lightning.evaluation.rise import Tightness

Array = npt.NDArray[np.float64]
DPI = 120
POINTS: dict[str, Any] = {"marker": "o", "markersize": 3, "capsize": 2}


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    """A figure of the given size in inches, and its empty axes, row by row; the options are those of ``subplots``."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options).flatten()


def plain(value: float, _: object = None) -> str:
    """A number as one writes it: thousands apart, no powers of ten."""
    return f"{value:,.10g}".replace("-", "−")


def plain_ticks(figure: Figure) -> None:
    """Write a figure's ticks as plain numbers: without an offset, and on logarithmic axes from 0.001 to 1,000,000."""
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        formatter, (low, high) = axis.get_major_formatter(), sorted(axis.get_view_interval())
        if isinstance(formatter, LogFormatter) and 1e-3 <= low <= high <= 2e6:
            axis.set_major_formatter(FuncFormatter(plain))
            between = FuncFormatter(lambda value, _: plain(value) if f"{value:e}"[0] in "25" else "")
            axis.set_minor_formatter(between if high < 30 * low else NullFormatter())
        elif isinstance(formatter, ScalarFormatter):
            axis.set_major_formatter(FuncFormatter(plain))


def with_legend(axes: Axes, **options: Any) -> None:
    """Finish a plot: a faint grid, and the legend."""
    axes.grid(alpha=0.3)
    # Named, although it is matplotlib's default: of the default it warns on a slow machine.
    axes.legend(**{"loc": "best"} | options)


def training_curve(
    bounds: Sequence[float],
    title: str,
    window: int = 50,
    validation: Mapping[int, float] | None = None,
    unit: str = "nats per image",
) -> Figure:
    """The training bound at each step and its mean over the last steps, and the validation bound, on one axis.

    Args:
        bounds: the training bound of each step.
        title: of the figure.
        window: steps that the mean is taken over.
        validation: steps → validation bound after them.
        unit: of both bounds.
    """
    values = np.asarray(bounds)
    steps = np.arange(1, len(values) + 1)
    figure, (axes,) = new_figure(6.5, 4)
    axes.plot(steps, values, color="0.75", linewidth=0.6, label="training, one step's batch")
    if len(values) >= window:
        mean = np.convolve(values, np.ones(window) / window, mode="valid")
        axes.plot(
            steps[window - 1 :], mean, color="C0", linewidth=1.6, label=f"training, mean of the last {window} steps"
        )
    after, held_out = list(validation or {}), list((validation or {}).values())
    if validation:
        axes.plot(after, held_out, "o-", color="C1", markersize=4, linewidth=1.2, label="validation")
    # The first steps lie far below: the axis starts where all but the lowest twentieth of the values are.
    low, high = min([np.quantile(values, 0.05), *held_out]), max([values.max(), *held_out])
    axes.set_ylim(low - 0.15 * (high - low) - 1e-3, high + 0.05 * (high - low) + 1e-3)
    axes.set(xlabel="training step", ylabel=f"bound ({unit})", title=title)
    with_legend(axes, loc="lower right")
    return figure


def tightness_curve(rows: Sequence[Tightness], log_p: float | None, title: str) -> Figure:
    """L_N over N against log p(x), and the gap on logarithmic axes beside its second-order prediction.

    Where log p(x) is not known neither is the gap: there the second panel has what each doubling of N still adds.

    Args:
        rows: for each N, the bound, its gap where log p(x) is known, and the prediction Var[w]/(2 N p²).
        log_p: log p(x), where it is known.
        title: title of the left panel.
    """
    n, bound, stderr, _, _, predicted_gap = _columns(rows)
    figure, (left, right) = new_figure(10, 4, columns=2)
    left.errorbar(n, bound, yerr=stderr, label="L_N ± standard error", **POINTS)
    top, name = (bound[-1], f"L_{n[-1]:,}, for want of log p(x)") if log_p is None else (log_p, "log p(x)")
    left.axhline(top, color="0.3", linewidth=1, label=name)
    if log_p is None:
        right.plot(n[:-1], np.diff(bound), "o-", markersize=3, label="L_2N − L_N")
        right.set(xscale="log", yscale="log", xlabel="samples N", ylabel="nats", title="What twice as many samples add")
    else:
        predicted = log_p - predicted_gap
        shown = predicted > bound.min() - 0.3 * max(log_p - bound.min(), 1e-9)
        left.plot(n[shown], predicted[shown], "--", color="C3", label="log p(x) − Var[w]/(2 N p(x)²)")
        draw_gap(right, rows)
        right.set(ylabel="gap (nats)", title="Gap and its prediction")
    left.set(xscale="log", xlabel="samples N", ylabel="nats", title=title)
    with_legend(left, fontsize=8, loc="lower right")
    with_legend(right, fontsize=8)
    return figure


def draw_gap(axes: Axes, rows: Sequence[Tightness]) -> None:
    """log p(x) − L_N and its prediction Var[w]/(2 N p²) over N, on logarithmic axes, where it is positive."""
    n, _, _, gap, stderr, predicted = _columns(rows)
    above = gap > 0
    axes.errorbar(n[above], gap[above], yerr=np.minimum(stderr, 0.9 * gap)[above], label="log p(x) − L_N", **POINTS)
    axes.plot(n, predicted, "--", color="C3", label="second order: Var[w]/(2 N p(x)²)")
    axes.set(xscale="log", yscale="log", xlabel="samples N")


def _columns(rows: Sequence[Tightness]) -> list[npt.NDArray[Any]]:
    """The fields of all rows, an array each."""
    return [np.array(column) for column in zip(*map(dataclasses.astuple, rows), strict=True)]


def posterior_curves(z: Array, joint: Array, exact: Array, numerical: Array, surrogates: Mapping[str, Array]) -> Figure:
    """The joint p(x, z) over z, and beside it the posterior, exact and by quadrature, with its surrogates.

    Args:
        z: latent values, ``(M,)``.
        joint: p(x, z).
        exact: p(z|x) in closed form.
        numerical: p(x, z) over its numerical integral.
        surrogates: name → density q(z).
    """
    figure, (left, right) = new_figure(10, 3.8, columns=2)
    left.plot(z, joint)
    left.set(xlabel="z", ylabel="p(x, z)", title="Joint density of the observations and z")
    right.plot(z, exact, linewidth=2.5, alpha=0.5, label="p(z|x), exact")
    right.plot(z, numerical, "k:", linewidth=1.2, label="p(z|x), numerical")
    for i, (name, density) in enumerate(surrogates.items()):
        right.plot(z, density, "--", color=f"C{i + 1}", label=name)
    right.set(xlabel="z", ylabel="density", title="Posterior and surrogate", ylim=(0, 1.3 * float(exact.max())))
    right.legend(fontsize=8, loc="best")
    return figure


def kl_curve(theta: Array, exact: Array, truncated: Array, best: float, limit: float) -> Figure:
    """KL(q_θ ‖ p(z|x)) over θ, exact and on a truncated grid, each with its minimum.

    Args:
        theta: rates, ``(M,)``.
        exact: log p(x) − ELBO(θ), nats.
        truncated: the sum over a grid on [0, limit].
        best: θ*, where the exact curve has its minimum.
        limit: end of the grid.
    """
    figure, (axes,) = new_figure(6.5, 4)
    axes.plot(theta, exact, label="exact: log p(x) − ELBO(θ)")
    axes.plot(theta, truncated, "--", color="C1", label=f"numerical, z cut off at {limit:g}")
    axes.axvline(best, color="C0", linewidth=1, alpha=0.7, label=f"θ* = {best:.4g}")
    lowest = float(theta[truncated.argmin()])
    axes.axvline(lowest, color="C1", linewidth=1, linestyle="--", label=f"the cut curve's minimum, {lowest:.2g}")
    low, high = float(truncated.min()), max(float(truncated.max()), float(exact[-1]))
    if low > 0:
        axes.set(yscale="log", ylim=(0.5 * low, 10 * high))
    else:
        axes.set_yscale("symlog", linthresh=0.1 * float(exact.min()))
        axes.set_ylim(1.5 * low, 10 * high)
    title = f"What q has beyond z = {limit:g} costs most, and is left out"
    axes.set(xscale="log", xlabel="θ", ylabel="KL(q_θ ‖ p(z|x)) (nats)", title=title)
    with_legend(axes, fontsize=8)
    return figure


def rate_path(path: Sequence[float], best: float) -> Figure:
    """θ after each training step, and θ*."""
    figure, (axes,) = new_figure(6.5, 4)
    axes.plot(np.arange(1, len(path) + 1), path, label="θ")
    axes.axhline(best, color="C3", linewidth=1, linestyle="--", label=f"θ* = {best:.4g}")
    axes.set(xlabel="training step", ylabel="θ", title="The surrogate's rate during training")
    with_legend(axes)
    return figure


def weighted_gaps(gaps: Mapping[str, Sequence[Tightness]]) -> Figure:
    """Gap of L_N over N for several surrogates by name, a panel each."""
    figure, panels = new_figure(5 * len(gaps), 3.8, columns=len(gaps), sharey=True)
    for axes, (name, rows) in zip(panels, gaps.items(), strict=True):
        draw_gap(axes, rows)
        n, _, _, gap, _, predicted = _columns(rows)
        agrees = n[np.abs(gap / predicted - 1) < 0.1]
        if len(agrees):
            axes.axvline(agrees[0], color="0.6", linewidth=1, label=f"within 10 % from N = {agrees[0]:,}")
        axes.set_title(name)
        with_legend(axes, fontsize=8)
    panels[0].set_ylabel("gap (nats)")
    return figure


def sweep_curves(
    curves: Mapping[tuple[str, str], Sequence[tuple[float, float, float]]], name: str, unit: str
) -> Figure:
    """Quantities of several runs over one of their settings, with standard errors.

    Args:
        curves: (quantity, what else was chosen) → points (setting, value, standard error).
        name: of the setting.
        unit: of the values.
    """
    figure, (axes,) = new_figure(6, 4)
    colours = {quantity: f"C{i}" for i, quantity in enumerate(dict.fromkeys(quantity for quantity, _ in curves))}
    for (quantity, others), points in curves.items():
        x, value, stderr = zip(*sorted(points), strict=True)
        label = f"{quantity}, {others}" if others else quantity
        axes.errorbar(x, value, stderr, label=label, color=colours[quantity], **POINTS)
    settings = [x for points in curves.values() for x, _, _ in points]
    if min(settings) > 0 and max(settings) > 10 * min(settings):
        axes.set_xscale("log")
    axes.set(xlabel=name.replace("_", " "), ylabel=unit, title=f"Runs over {name.replace('_', ' ')}")
    with_legend(axes)
    plain_ticks(figure)
    return figure
