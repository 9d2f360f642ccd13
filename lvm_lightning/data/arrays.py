"""Images of one's own: a NumPy file or a folder of pictures."""

import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from lvm_lightning.data import mnist
from lvm_lightning.data.images import GreyImages, Splits
from lvm_lightning.data.loader import ImageSet
from lvm_lightning.support import argtypes

SPLITS = ("train", "val", "test")
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm")
SPLIT_STREAM = 6
"""Stream of the shuffle that splits are cut from; those of the binarisation are below."""
Array = npt.NDArray[Any]


class ArrayImages(GreyImages):
    """Grey or binary images of any size from a file: ``.npy``, ``.npz``, or a folder of pictures.

    An ``.npy`` file holds images ``(n, H, W)``, or ``(n, D)``: then an image is a square where D is one, else a row. An
    ``.npz`` file holds such arrays by the names ``train``, ``val`` and ``test``, or one by the name ``images``; labels
    ``(n,)`` by the names ``train_labels``, … or ``labels``. A folder holds pictures, or folders of them by the names of
    the splits; colours become grey. Where there are no splits, images are shuffled and cut; a split that is missing is
    cut from ``train``.

    A value a is the intensity v = 255 a / ``highest``, rounded to a whole number: in [0, 1] it is off by 0.002 at most.

    Args:
        path: the file, or the folder.
        highest: the value that is white; by default 255 for whole numbers, or 1 where they are bits, and 1 for others.
        val_share: share of the images that validate, where no split says so.
        test_share: share of the images that test, where no split says so.
        **options: those of :class:`.GreyImages`; the seed is the shuffle's too. Values that are bits stay what they
            are.

    Raises:
        ValueError: if the file is not there, cannot be read, or holds no such images, or a split would be empty.
    """

    def __init__(
        self,
        path: str,
        highest: argtypes.PositiveFloat | None = None,
        val_share: argtypes.ClosedUnitInterval = 0.1,
        test_share: argtypes.ClosedUnitInterval = 0.1,
        **options: Any,
    ) -> None:
        self.path = Path(path).expanduser()
        super().__init__(self.path.name, **options)
        self.highest, self.val_share, self.test_share = highest, val_share, test_share
        self._arrays = self._read_arrays()
        first = self._arrays.get("train", next(iter(self._arrays.values())))
        self.image_shape, self.labelled = _shape(first), any(name.endswith("labels") for name in self._arrays)

    def read(self) -> Splits:
        """The three splits, as the file has them or cut from its images."""
        images = {name: self._image_set(name) for name in ("images", *SPLITS) if name in self._arrays}
        self._arrays = {}
        if "images" in images:
            return self._cut(images["images"], SPLITS, (self.val_share, self.test_share))
        if "val" not in images:
            images |= self._cut(images["train"], SPLITS[:2], (self.val_share,))
        if "test" not in images:
            images |= self._cut(images["train"], ("train", "test"), (self.test_share,))
        return images

    def _cut(self, given: ImageSet, names: tuple[str, ...], shares: tuple[float, ...]) -> Splits:
        """Splits of shuffled images; the first takes what the shares leave."""
        n = len(given.images)
        counts = [round(share * n) for share in shares]
        counts = [n - sum(counts), *counts]
        if min(counts) < 1:
            empty = names[counts.index(min(counts))]
            self._refuse(f"must leave images for each split, got {min(counts)} of {n:,} for {empty}; change the shares")
        order = np.random.Generator(mnist.philox(self.seed, SPLIT_STREAM)).permutation(n)
        parts = torch.from_numpy(order).split(counts)
        return {name: ImageSet(*(t[rows] for t in given)) for name, rows in zip(names, parts, strict=True)}

    def _image_set(self, name: str) -> ImageSet:
        """Images of that name in the file, with their labels."""
        images = self._intensities(self._arrays[name])
        label = self._arrays.get("labels" if name == "images" else f"{name}_labels")
        if label is None:
            return ImageSet.unlabelled(images)
        if label.shape != (len(images),):
            self._refuse(f"must have a label for each image, got {label.shape} for {len(images):,} of {name}")
        return ImageSet(images, torch.from_numpy(label.astype(np.uint8)))

    def _intensities(self, values: Array) -> Tensor:
        """``(n, …)`` → ``(n, D)``, uint8."""
        if _shape(values) != self.image_shape:
            self._refuse(f"must hold images of one size, got {_shape(values)} and {self.image_shape}")
        whole = np.issubdtype(values.dtype, np.integer)
        highest = self.highest or (255.0 if whole and values.max(initial=0) > 1 else 1.0)
        low, high = float(values.min(initial=0)), float(values.max(initial=0))
        if not (low >= 0 and high <= highest):  # what is no number fails too
            self._refuse(f"must hold values from 0 to {highest:g}, got {low:g} to {high:g}; set data.highest")
        flat = values.reshape(len(values), -1).astype(np.float64) * (255 / highest)
        return torch.from_numpy(np.rint(flat).astype(np.uint8))

    def _read_arrays(self) -> Mapping[str, Array]:
        """The arrays of the file, by name."""
        try:
            found = self._pictures() if self.path.is_dir() else self._numbers()
        except FileNotFoundError:
            self._refuse(f"must be a .npy or .npz file, or a folder of pictures, got {self.path}, which is not there")
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, UnidentifiedImageError) as error:
            if str(error).startswith("data.path"):
                raise
            self._refuse(f"cannot be read: {self.path} ({type(error).__name__}: {error})")
        if not ({"images", "train"} & found.keys()):
            self._refuse(f"must hold arrays by the name of images, or train, val and test, got {sorted(found)}")
        for name, array in found.items():
            ranks, numbers = (1,) if name.endswith("labels") else (2, 3), np.issubdtype(array.dtype, np.number)
            if array.ndim not in ranks or not (numbers or array.dtype == bool) or not array.size:
                what = "numbers (n,)" if name.endswith("labels") else "grey images (n, H, W), or (n, D)"
                self._refuse(f"{name} must be {what}, got {array.dtype} of shape {array.shape} in {self.path}")
        return found

    def _numbers(self) -> dict[str, Array]:
        loaded = np.load(self.path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"images": loaded}
        with loaded:
            names = (*SPLITS, "images", "labels", *(f"{split}_labels" for split in SPLITS))
            return {name: loaded[name] for name in loaded.files if name in names}

    def _pictures(self) -> dict[str, Array]:
        """The folder's pictures in the order of their names, or those of its folders by the names of the splits."""
        splits = [name for name in SPLITS if (self.path / name).is_dir()]
        folders = {name: self.path / name for name in splits} or {"images": self.path}
        return {name: self._grey(folder) for name, folder in folders.items()}

    def _grey(self, folder: Path) -> Array:
        files = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES)
        if not files:
            self._refuse(f"must hold pictures ({', '.join(PICTURES)}), got {folder}, which has none")
        pictures = []
        for path in files:
            with Image.open(path) as picture:
                pictures.append(np.asarray(picture.convert("L")))
            if pictures[-1].shape != pictures[0].shape:
                self._refuse(
                    f"must hold pictures of one size, got {path}: {pictures[-1].shape}, not {pictures[0].shape}"
                )
        return np.stack(pictures)

    def _refuse(self, rule: str) -> NoReturn:
        raise ValueError(f"data.path: {rule}")


def _shape(images: Array) -> tuple[int, int]:
    """Height and width of an image."""
    if images.ndim == 3:
        return images.shape[1], images.shape[2]
    side = math.isqrt(images.shape[-1])
    return (side, side) if side**2 == images.shape[-1] else (1, images.shape[-1])
