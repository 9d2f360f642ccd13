"""A study of one's own: how the bound falls when pixels are flipped."""

import torch

from lvm_lightning.evaluation import Quantity
from lvm_lightning.objectives import iw_elbo
from lvm_lightning.studies import Study, Subject
from lvm_lightning.support.randomness import generator_for


class Corruption(Study):
    """The importance-weighted bound of test images with a share of their pixels flipped.

    Args:
        share: share of the pixels that are flipped.
        images: test images to average over.
        samples: samples of the bound.
    """

    def __init__(self, share: float = 0.1, images: int = 20, samples: int = 8) -> None:
        self.share, self.images, self.samples = share, images, samples

    def run(self, subject: Subject) -> str:
        """Both bounds, as a table."""
        x, found = subject.rows("test", self.images), list[Quantity]()
        generator = generator_for(subject.seed, "diagnosis", 0)
        flip = (torch.rand(x.shape, generator=generator) < self.share).to(x)
        for name, images in [("as they are", x), ("corrupted", (x - flip).abs())]:
            bound = iw_elbo(subject.log_weights(images, self.samples, generator))
            found.append(subject.quantity(f"L_{self.samples}, {name}", bound, "lower bound", self.samples))
        return subject.write("corruption.json", found)
