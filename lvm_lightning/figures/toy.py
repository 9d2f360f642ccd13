"""Curves of the exponential-posterior model."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from lvm_lightning.figures.bound_over_samples import draw_gap
from lvm_lightning.figures.rendering import new_figure, with_legend

Array = npt.NDArray[np.float64]


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
    right.legend(fontsize=8)
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


def weighted_gaps(samples: Sequence[int], gaps: Mapping[str, tuple[Array, Array, Array]]) -> Figure:
    """Gap of L_N over N for several surrogates, a panel each.

    Args:
        samples: N.
        gaps: name → (log p(x) − L_N, its standard error, its second-order prediction), nats.
    """
    figure, panels = new_figure(5 * len(gaps), 3.8, columns=len(gaps), sharey=True)
    for axes, (name, (gap, stderr, predicted)) in zip(panels, gaps.items(), strict=True):
        draw_gap(axes, samples, gap, stderr, predicted)
        agrees = np.flatnonzero(np.abs(gap / predicted - 1) < 0.1)
        if len(agrees):
            first = samples[agrees[0]]
            axes.axvline(first, color="0.6", linewidth=1, label=f"within 10 % from N = {first:,}")
        axes.set_title(name)
        with_legend(axes, fontsize=8)
    panels[0].set_ylabel("gap (nats)")
    return figure
