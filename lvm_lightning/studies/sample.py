"""New images from a trained model, as files."""

from pathlib import Path

import torch

from lvm_lightning.figures import darkness, image_grid, render, save_png
from lvm_lightning.modules.base import LatentVariableModule
from lvm_lightning.support.files import write_arrays
from lvm_lightning.support.randomness import generator_for


def write_samples(
    model: LatentVariableModule,
    image_shape: tuple[int, ...],
    count: int,
    seed: int,
    folder: Path,
    pixel_range: tuple[float, float] = (0.0, 1.0),
) -> tuple[Path, Path]:
    """Ancestral sampling: z ~ p(z), x ~ p(x|z).

    Writes ``samples.png``, a grid that shows ``pixel_range`` from white to black, and ``samples.npz`` with ``x``
    ``(count, H, W)``, uint8 for binary images and float32 otherwise, ``mean`` = E[x|z] float32 in the same shape,
    and ``z`` ``(count, K)``.

    Returns:
        The two paths.
    """
    generator = generator_for(seed, "sample", 0)
    with torch.inference_mode():
        z = model.sample_prior(count, generator)
        parameters = model.decode(z)
        mean = model.likelihood.mean(parameters).cpu().view(-1, *image_shape)
        x = model.likelihood.sample(parameters, generator).cpu().view(-1, *image_shape)
    picture, array = folder / "samples.png", folder / "samples.npz"
    save_png(render(image_grid(darkness(x, pixel_range), f"{count} samples x ~ p(x)")), picture)
    images = x if model.likelihood.density else x.to(torch.uint8)
    write_arrays(array, {"x": images.numpy(), "mean": mean.numpy(), "z": z.cpu().numpy()})
    return picture, array
