"""Images of 256 grey levels in three splits, binarised or as real numbers: what the data modules of images share."""

import hashlib
from abc import ABC, abstractmethod
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from torch import Tensor

from lvm_lightning.data import mnist
from lvm_lightning.data.loader import BatchLoader, ImageSet, Transform
from lvm_lightning.data.protocol import Description
from lvm_lightning.support import argtypes
from lvm_lightning.support.values import BINARY, UNIT, Support

Binarisation = Literal["static", "dynamic", "threshold", "none"]
PixelRange = Literal["0..1", "-1..1"]
Splits = dict[str, ImageSet]

TRAIN_STREAM, TEST_STREAM, DYNAMIC_STREAM = 0, 1, 2
NOISE_STREAM, VAL_NOISE_STREAM, TEST_NOISE_STREAM = 3, 4, 5
_RANGES: dict[PixelRange, Support] = {"0..1": UNIT, "-1..1": Support(-1.0, 1.0)}


class GreyImages(pl.LightningDataModule, ABC):
    """Abstract data module of images whose pixels are intensities v ∈ {0..255}.

    Pixel j of an image is drawn once as Bernoulli(v/255) and then frozen, or it stays grey.

    Args:
        source: what the images are, in a word.
        binarisation: ``static`` draws each pixel once; ``dynamic`` draws the training images afresh at each
            step, a function of (seed, epoch, batch), and keeps validation and test as ``static`` has them;
            ``threshold`` sets a pixel where v/255 > ``threshold``; ``none`` gives the grey values v/255.
        seed: seed of the binarisation. It does not change with the seed of a run.
        threshold: the threshold of ``binarisation: threshold``.
        dequantise: whether grey level v becomes (v + u)/256, u ~ U(0, 1), instead of v/255: a density of these real
            numbers bounds a probability of the grey levels. Training draws u afresh at each
            step, a function of (seed, epoch, batch); validation and test keep theirs.
        pixel_range: the interval that grey values are brought to: ``0..1`` or ``-1..1``.
        batch_size: images a training step, all processes together.
        eval_batch_size: images a batch in validation, test and predict, all processes together.

    Attributes:
        image_shape: height and width.
        bits: whether what is read are bits already.
        labelled: whether the labels say something.

    Raises:
        ValueError: if ``dequantise`` or ``pixel_range`` are set for binary images.

    Reference:
        Burda et al., Importance Weighted Autoencoders, 2016 (dynamic binarisation);
        Theis et al., A note on the evaluation of generative models, 2016, eq. 3–6 (uniform dequantisation).
    """

    image_shape: tuple[int, int]
    bits, labelled = False, True

    def __init__(
        self,
        source: str,
        binarisation: Binarisation = "static",
        seed: argtypes.NonNegativeInt = 0,
        threshold: argtypes.ClosedUnitInterval = 0.5,
        dequantise: bool = False,
        pixel_range: PixelRange = "0..1",
        batch_size: argtypes.PositiveInt = 256,
        eval_batch_size: argtypes.PositiveInt = 1000,
    ) -> None:
        super().__init__()
        if binarisation != "none" and (dequantise or pixel_range != "0..1"):
            name, value = ("dequantise", dequantise) if dequantise else ("pixel_range", pixel_range)
            raise ValueError(
                f"data.{name}: serves grey values, got {value} for {binarisation} images; set data.binarisation to none"
            )
        self.source, self.binarisation, self.seed, self.threshold = source, binarisation, seed, threshold
        self.dequantise, self.pixel_range, self.grey = dequantise, _RANGES[pixel_range], binarisation == "none"
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.splits: Splits = {}
        self._digest: str | None = None

    @abstractmethod
    def read(self) -> Splits:
        """The intensities of ``train``, ``val`` and ``test``, or their bits where :attr:`bits` says so."""

    def describe(self) -> Description:
        """The images' shape and values; once they are read, also the settings that choose them, and their digest."""
        support, about = self.pixel_range if self.grey else BINARY, self._about() if self.splits else {}
        width = (self.pixel_range.high - self.pixel_range.low) / 256 if self.dequantise else None
        return Description(self.image_shape, support, about, width, labelled=self.labelled)

    def _about(self) -> dict[str, Any]:
        self._digest = self._digest or self.digest()  # describe() is called often
        names = ("source", "binarisation", "seed", "threshold", "dequantise", "pixel_range", "eval_batch_size")
        changed = {"pixel_range": str(self.pixel_range), "digest": self._digest}
        return {name: getattr(self, name) for name in names} | changed

    def setup(self, stage: str | None = None) -> None:
        """Read and binarise all splits, once."""
        if self.splits:
            return
        read = self.read()
        if self.bits:
            self.splits = read
            return
        first = len(read["train"].images)
        grey = ImageSet(*map(torch.cat, zip(read["train"], read["val"], strict=True)))
        kept, test = self._binarise(grey, TRAIN_STREAM), self._binarise(read["test"], TEST_STREAM)
        train = grey if self.binarisation == "dynamic" else kept
        self.splits = {"train": train.rows(None, first), "val": kept.rows(first, None), "test": test}
        if self.dequantise:
            for split, stream in [("val", VAL_NOISE_STREAM), ("test", TEST_NOISE_STREAM)]:
                noisy = mnist.dequantised(self.splits[split].images, mnist.philox(self.seed, stream))
                self.splits[split] = self.splits[split]._replace(images=noisy)

    def pixel_mean(self) -> Tensor:
        """Mean of each pixel over the training images, ``(D,)``, on the scale of x."""
        images = self.splits["train"].images
        mean = images.sum(0, dtype=torch.float64) / len(images)
        if self.binarisation == "dynamic":
            return (mean / 255).float()
        scale, shift = self._affine()
        return ((mean + 0.5) / 256 if self.dequantise else mean).div(scale).add(shift).float()

    def digest(self) -> str:
        """SHA-256 of the three splits' images, in the order train, val, test: which data a number is about."""
        images = (self.splits[split].images.contiguous().numpy().tobytes() for split in ("train", "val", "test"))
        return hashlib.sha256(b"".join(images)).hexdigest()

    def train_dataloader(self) -> BatchLoader:
        """Shuffled batches of the training images."""
        return self._loader("train", self.batch_size, torch.initial_seed())

    def val_dataloader(self) -> BatchLoader:
        """The validation images in order."""
        return self._loader("val", self.eval_batch_size)

    def test_dataloader(self) -> BatchLoader:
        """The test images in order."""
        return self._loader("test", self.eval_batch_size)

    predict_dataloader = test_dataloader

    def _loader(self, split: str, batch_size: int, shuffle_seed: int | None = None) -> BatchLoader:
        t, fresh = self.trainer, self._fresh_noise() if split == "train" else None
        place = (t.global_rank, t.world_size, t.strategy.root_device) if t else (0, 1, torch.device("cpu"))
        return BatchLoader(self.splits[split], batch_size, shuffle_seed, *place, fresh, self._affine())

    def _affine(self) -> tuple[float, float]:
        """What a batch's values are divided by to be x, and what is added then."""
        low, high = self.pixel_range.low, self.pixel_range.high
        return (255.0 if self.grey and not self.dequantise else 1.0) / (high - low), low

    def _fresh_noise(self) -> Transform | None:
        """What draws the training images afresh at each step."""
        if not self.dequantise and self.binarisation != "dynamic":
            return None
        draw = mnist.dequantised if self.dequantise else mnist.bernoulli_pixels
        stream = NOISE_STREAM if self.dequantise else DYNAMIC_STREAM
        return lambda grey, epoch, number: draw(grey, mnist.philox(self.seed, stream, counter=(0, number, epoch, 0)))

    def _binarise(self, grey: ImageSet, stream: int) -> ImageSet:
        if self.grey:
            return grey
        if self.binarisation == "threshold":
            return grey._replace(images=(grey.images > 255 * self.threshold).to(torch.uint8))
        return grey._replace(images=mnist.bernoulli_pixels(grey.images, mnist.philox(self.seed, stream)))
