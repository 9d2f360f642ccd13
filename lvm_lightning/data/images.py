"""The form that every image data set takes inside the package."""

import dataclasses

from torch import Tensor


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """Images of one split, held in their smallest type.

    Attributes:
        images: ``(n, D)``, uint8: 0/1 for binary images, 0..255 for grey ones; float32 in (0, 1) once dequantised.
        labels: ``(n,)``, uint8, for pictures; zeros where the source has none.
    """

    images: Tensor
    labels: Tensor

    def rows(self, start: int | None, stop: int | None) -> "ImageSet":
        """The images ``start … stop``, as a Python slice counts them."""
        return ImageSet(self.images[start:stop], self.labels[start:stop])
