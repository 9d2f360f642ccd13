"""OMNIGLOT's characters as the literature of importance-weighted bounds has them."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from lvm_lightning.data import mnist
from lvm_lightning.data.arrays import SPLIT_STREAM
from lvm_lightning.data.images import GreyImages, Splits
from lvm_lightning.data.loader import ImageSet

FILE = "chardata.mat"
VALIDATION = 1_345
SIDE = 28


class Omniglot(GreyImages):
    """OMNIGLOT, 28 × 28: 23,000 training, 1,345 validation and 8,070 test images of handwritten characters.

    They are the grey images of ``chardata.mat``, which came with the code of Burda et al.; the 24,345 that are not for
    the test are shuffled and cut. Labels are alphabets.

    Args:
        folder: folder of ``chardata.mat``.
        **options: those of :class:`.GreyImages`; the seed is the shuffle's too. The literature draws afresh at each
            step (``binarisation: dynamic``), or once.

    Raises:
        DataFileError: if the file is not there, cannot be read, or holds something else.

    Reference:
        Lake et al., Human-level concept learning through probabilistic program induction, 2015; Burda et al.,
        Importance Weighted Autoencoders, 2016, section 5; Tomczak & Welling, VAE with a VampPrior, 2018 (the cut).
    """

    image_shape = (SIDE, SIDE)

    def __init__(self, folder: str = "data", **options: Any) -> None:
        super().__init__("omniglot", **options)
        self.path = Path(folder).expanduser() / FILE

    def read(self) -> Splits:
        """The file's training images, shuffled and cut, and its test images."""
        arrays = self._arrays()
        whole, test = _images(arrays, "data", "target"), _images(arrays, "testdata", "testtarget")
        order = torch.from_numpy(
            np.random.Generator(mnist.philox(self.seed, SPLIT_STREAM)).permutation(len(whole.images))
        )
        rest, val = order[:-VALIDATION], order[-VALIDATION:]
        return {"train": ImageSet(*(t[rest] for t in whole)), "val": ImageSet(*(t[val] for t in whole)), "test": test}

    def _arrays(self) -> dict[str, Any]:
        """What the file holds, by name.

        Raises:
            DataFileError: if that is not OMNIGLOT.
        """
        from scipy.io import loadmat  # only this source needs it
        from scipy.io.matlab import MatReadError

        try:
            with self.path.open("rb") as file:
                found: dict[str, Any] = loadmat(file)
        except FileNotFoundError:
            raise mnist.DataFileError(
                f"{self.path}: found no such file; put {FILE} into a folder and name it as data.folder"
            ) from None
        except (OSError, ValueError, TypeError, NotImplementedError, MatReadError) as error:
            raise mnist.DataFileError(f"{self.path}: not a readable file ({error}); get it again") from error
        for images, labels in (("data", "target"), ("testdata", "testtarget")):
            pixels, given = (np.shape(found.get(name, 0.0)) for name in (images, labels))
            if pixels[:1] != (SIDE**2,) or given[1:] != pixels[1:] or pixels[1] <= VALIDATION:
                raise mnist.DataFileError(
                    f"{self.path}: must hold {images} ({SIDE**2}, n) and {labels} (alphabets, n), got {pixels} and "
                    f"{given}; get {FILE} again"
                )
        return found


def _images(arrays: dict[str, Any], images: str, labels: str) -> ImageSet:
    """Columns of values in [0, 1], each an image column by column, as rows of grey levels."""
    columns = np.asarray(arrays[images], dtype=np.float64)
    upright = columns.T.reshape(-1, SIDE, SIDE).swapaxes(1, 2).reshape(-1, SIDE**2)
    alphabet = np.argmax(arrays[labels], axis=0)
    grey = np.rint(255 * upright.clip(0, 1)).astype(np.uint8)
    return ImageSet(torch.from_numpy(grey), torch.from_numpy(alphabet.astype(np.uint8)))
