"""New images from a trained model, as files."""

from pathlib import Path

import numpy as np
import torch

from lvm_lightning.figures import image_grid, render, save_png
from lvm_lightning.modules.base import LatentVariableModule
from lvm_lightning.randomness import generator_for


def write_samples(
    model: LatentVariableModule, image_shape: tuple[int, ...], count: int, seed: int, folder: Path
) -> tuple[Path, Path]:
    """Ancestral sampling: z ~ p(z), x ~ p(x|z).

    Writes ``samples.png``, a grid, and ``samples.npz`` with ``x`` ``(count, H, W)`` uint8, ``mean`` = E[x|z]
    float32 in the same shape, and ``z`` ``(count, K)``.

    Returns:
        The two paths.
    """
    generator = generator_for(seed, "sample", 0)
    with torch.inference_mode():
        z = model.sample_prior(count, generator)
        mean = model.likelihood.mean(model.decode(z)).cpu()
        x = torch.bernoulli(mean, generator=generator)
    folder.mkdir(parents=True, exist_ok=True)
    picture, array = folder / "samples.png", folder / "samples.npz"
    save_png(render(image_grid(x.view(-1, *image_shape), f"{count} samples x ~ p(x)")), picture)
    images = x.to(torch.uint8).view(-1, *image_shape).numpy()
    np.savez(array, x=images, mean=mean.view(-1, *image_shape).numpy(), z=z.cpu().numpy())
    return picture, array
