"""What the proposals of many images look like in latent space."""

import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from torch import Tensor

from lvm_lightning.figures.rendering import new_figure


def latent_scatter(location: Tensor, label: Tensor, what: str) -> Figure:
    """One dot an image where its proposal lies, coloured by digit.

    Args:
        location: ``(n, K)``; for K > 2 its first two principal axes are drawn.
        label: ``(n,)``; if all are the same the images are unlabelled, and one colour is enough.
        what: what the locations are, for the title.
    """
    location, label = location.double().cpu(), label.cpu()
    names = ["z₁", "z₂"]
    if location.shape[-1] > 2:
        location, share = principal_axes(location)
        names = [f"principal axis {i + 1} ({share[i]:.0%} of the variance)" for i in range(2)]
    elif location.shape[-1] == 1:
        location, names = torch.cat([location, torch.zeros_like(location)], -1), ["z₁", ""]
    figure, (axes,) = new_figure(6, 5.4)
    digits = label.unique().tolist()
    for digit in digits:
        x, y = location[label == digit].T.numpy()
        axes.scatter(x, y, s=2, alpha=0.6, linewidths=0, color=colormaps["tab10"](digit % 10), label=str(digit))
    if len(digits) > 1:
        axes.legend(markerscale=5, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), title="digit")
    axes.set(xlabel=names[0], ylabel=names[1], title=f"{what} of {len(location):,} images", aspect="equal")
    axes.grid(alpha=0.3)
    return figure


def principal_axes(points: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates on the first two principal axes, ``(n, K) → (n, 2)``, and each axis's share of the variance."""
    centred = points - points.mean(0)
    _, singular, axes = torch.linalg.svd(centred, full_matrices=False)
    return centred @ axes[:2].T, singular.square() / singular.square().sum()


def unit_activity(kl: Tensor, activity: Tensor, threshold: float) -> Figure:
    """KL of each latent dimension in falling order, and the histogram of their activities.

    Args:
        kl: mean over images of KL(q(z_k|x) ‖ N(0, 1)), ``(K,)``, nats.
        activity: variance over images of E_q[z_k], ``(K,)``.
        threshold: activity above which a dimension counts as active.
    """
    kl, activity = kl.cpu(), activity.cpu()
    order = kl.argsort(descending=True)
    active = activity > threshold
    figure, (left, right) = new_figure(8, 3.6, columns=2)
    ranks = torch.arange(len(kl))
    for on, colour, name in [(True, "C0", "active"), (False, "0.7", "inactive")]:
        here = active[order] == on
        left.bar(ranks[here].numpy(), kl[order][here].numpy(), color=colour, width=1.0, label=name)
    left.set(xlabel="latent dimension, by rank", ylabel="KL(q(z_k|x) ‖ N(0, 1)) (nats)")
    left.set_title(f"KL, {kl.sum():.2f} nats in all")
    left.legend()
    right.hist(activity.clamp_min(1e-8).log10().numpy(), bins=40, color="C0")
    right.axvline(torch.tensor(threshold).log10().item(), color="C3", linewidth=1, label=f"threshold {threshold:g}")
    right.set(xlabel="log₁₀ Var E_q[z_k] over images", ylabel="latent dimensions")
    right.set_title(f"{int(active.sum())} of {len(kl)} units active")
    right.legend()
    return figure
