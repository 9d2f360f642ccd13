"""New images from a trained model."""

import torch

from lvm_lightning.figures.pictures import Vector, darkness, image_grid, save_figure
from lvm_lightning.model import Sample as Drawn
from lvm_lightning.modules.provenance import name_of
from lvm_lightning.studies.base import Study, Subject
from lvm_lightning.support import PositiveInt, UserError, generator_for, write_arrays

TOGETHER = 1000
"""Images that are drawn together."""
SHOWN = 1024
"""Images that a picture has room for."""


class Sample(Study):
    """Draw new images from a trained model: a PNG grid and an array.

    Ancestral sampling: z ~ p(z), x ~ p(x|z). Writes ``samples.png``, a grid that shows the data's pixel range from
    white to black (of many images the first 1,024), and ``samples.npz`` with ``x`` ``(count, H, W)``, uint8 for binary
    images and float32 otherwise, ``mean`` = E[x|z] float32 in the same shape, and ``z`` ``(count, K)``.

    Args:
        count: number of images.
        vector: whether the grid also lies there as an SVG or a PDF.
    """

    def __init__(self, count: PositiveInt = 64, vector: Vector | None = None) -> None:
        self.count, self.vector = count, vector

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
            parts = [subject.model.sample(n, generator) for n in subject.bar("sample", self._parts())]
        drawn = Drawn(*(torch.cat(each).cpu() for each in zip(*parts, strict=True)))
        x, mean = (images.view(-1, *data.shape) for images in (drawn.x, drawn.mean))
        picture, array = subject.folder / "samples.png", subject.folder / "samples.npz"
        shown = f", the first {SHOWN:,}" * (self.count > SHOWN)
        title = f"{self.count:,} samples x ~ p(x){shown}\n{name_of(subject.module)}"
        save_figure(image_grid(darkness(x[:SHOWN], data.scale), title), picture, self.vector)
        images = x if subject.model.likelihood.density else x.to(torch.uint8)
        write_arrays(array, {"x": images.numpy(), "mean": mean.numpy(), "z": drawn.z.numpy()})
        return "\n".join(f"{self.count} samples written to {path}" for path in (picture, array))

    def _parts(self) -> list[int]:
        """How many images are drawn together, one part after the other."""
        whole, rest = divmod(self.count, TOGETHER)
        return [TOGETHER] * whole + [rest] * (rest > 0)
