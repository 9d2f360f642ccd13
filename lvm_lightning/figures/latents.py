"""What the encoder's proposals look like in latent space: where they lie, and which units carry anything."""

import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from torch import Tensor

from lvm_lightning.figures.curves import new_figure


def latent_scatter(location: Tensor, label: Tensor, what: str) -> Figure:
    """One dot an image where its proposal lies, coloured by digit.

    Args:
        location: ``(n, K)``; for K > 2 the two axes that separate the digits best are drawn, and of unlabelled images
            the first two principal axes.
        label: ``(n,)``; if all are the same the images are unlabelled, and one colour is enough.
        what: what the locations are, for the title.
    """
    location, label = location.double().cpu(), label.cpu()
    names, digits = ["z₁", "z₂"], label.unique().tolist()
    if location.shape[-1] > 2 and len(digits) > 2:
        location = separating_axes(location, label)
        names = [f"discriminant axis {i + 1}, spread within a digit = 1" for i in range(2)]
    elif location.shape[-1] > 2:
        location, share = principal_axes(location)
        names = [f"principal axis {i + 1} ({share[i]:.0%} of the variance)" for i in range(2)]
    elif location.shape[-1] == 1:
        location, names = torch.cat([location, torch.zeros_like(location)], -1), ["z₁", ""]
    figure, (axes,) = new_figure(6, 5.4)
    for digit in digits:
        x, y = location[label == digit].T.numpy()
        axes.scatter(
            x, y, s=2, alpha=0.6, linewidths=0, color=colormaps["tab10"](digit % 10), label=str(digit), rasterized=True
        )
        if len(digits) > 1:
            centre = (float(x.mean()), float(y.mean()))
            axes.annotate(
                str(digit), centre, fontsize=13, weight="bold", path_effects=[withStroke(linewidth=3, foreground="w")]
            )
    if len(digits) > 1:
        axes.legend(markerscale=5, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), title="digit")
    axes.set(xlabel=names[0], ylabel=names[1], title=f"{what}\n{len(location):,} images", aspect="equal")
    axes.grid(alpha=0.3)
    return figure


def separating_axes(points: Tensor, label: Tensor) -> Tensor:
    """Coordinates on the two axes that separate classes best, ``(n, K) → (n, 2)``; the spread within a class is 1.

    Fisher's discriminants, each pair of classes weighted by how much an axis can still do for it (Loog et al. 2001,
    https://doi.org/10.1109/34.935849): unweighted, one class that lies far away takes an axis for itself.
    """
    classes = [points[label == each] for each in label.unique()]
    centred = torch.cat([each - each.mean(0) for each in classes])
    within = centred.T @ centred / len(points)
    within += 1e-6 * within.trace() / len(within) * torch.eye(len(within), dtype=points.dtype)
    whiten = torch.linalg.inv(torch.linalg.cholesky(within))
    means = torch.stack([each.mean(0) for each in classes]) @ whiten.T
    first, second = torch.triu_indices(len(means), len(means), 1)
    between = means[first] - means[second]
    apart = between.norm(dim=-1, keepdim=True).clamp_min(1e-6)
    weight = torch.erf(apart / 8**0.5) / (2 * apart.square())
    _, directions = torch.linalg.eigh((weight * between).T @ between)
    found: Tensor = (points - points.mean(0)) @ whiten.T @ directions[:, [-1, -2]]
    return found


def principal_axes(points: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates on the first two principal axes, ``(n, K) → (n, 2)``, and each axis's share of the variance."""
    centred = points - points.mean(0)
    _, singular, axes = torch.linalg.svd(centred, full_matrices=False)
    return centred @ axes[:2].T, singular.square() / singular.square().sum()


def unit_activity(kl: Tensor, activity: Tensor, threshold: float, title: str = "") -> Figure:
    """KL of each latent dimension in falling order, and the histogram of their activities.

    Args:
        kl: mean over images of KL(q(z_k|x) ‖ N(0, 1)), ``(K,)``, nats.
        activity: variance over images of E_q[z_k], ``(K,)``.
        threshold: activity above which a dimension counts as active.
        title: of the figure.
    """
    kl, activity = kl.cpu(), activity.cpu()
    order = kl.argsort(descending=True)
    active = activity > threshold
    figure, (left, right) = new_figure(8, 3.8, columns=2)
    figure.suptitle(title, fontsize=10)
    ranks = torch.arange(len(kl))
    for on, colour, name in [(True, "C0", "active"), (False, "0.7", "inactive")]:
        here = active[order] == on
        left.bar(ranks[here].numpy(), kl[order][here].numpy(), color=colour, width=1.0, label=name)
    left.set(xlabel="latent dimension, by rank", ylabel="KL(q(z_k|x) ‖ N(0, 1)) (nats)")
    left.set_title(f"KL, {kl.sum():.2f} nats in all")
    left.legend(loc="upper right", fontsize=8)
    logs = activity.clamp_min(1e-8).log10()
    colours = {"inactive": "0.7", "active": "C0"}
    counted = [logs[active == on].numpy() for on in (False, True)]
    right.hist(counted, bins=40, stacked=True, color=list(colours.values()), label=list(colours))
    right.axvline(torch.tensor(threshold).log10().item(), color="C3", linewidth=1, label=f"threshold {threshold:g}")
    right.set(xlabel="log₁₀ Var E_q[z_k] over images", ylabel="latent dimensions")
    right.set_title(f"{int(active.sum())} of {len(kl)} units active")
    right.margins(y=0.35)  # room for the legend
    right.legend(loc="upper right", fontsize=8)
    return figure
