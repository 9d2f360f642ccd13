"""The data modules: MNIST and its relatives, and a handful of real observations of one latent."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from torch import Tensor

from lvm_lightning.data import mnist
from lvm_lightning.data.loader import BatchLoader, ImageSet, Transform
from lvm_lightning.data.protocol import Description
from lvm_lightning.support import argtypes
from lvm_lightning.support.values import BINARY, REALS, UNIT, Support

Binarisation = Literal["static", "dynamic", "threshold", "none"]
Source = Literal["MNIST", "larochelle_murray"] | mnist.TorchvisionName
PixelRange = Literal["0..1", "-1..1"]

VALIDATION = 10_000
TRAIN_STREAM, TEST_STREAM, DYNAMIC_STREAM = 0, 1, 2
NOISE_STREAM, VAL_NOISE_STREAM, TEST_NOISE_STREAM = 3, 4, 5
_RANGES: dict[PixelRange, Support] = {"0..1": UNIT, "-1..1": Support(-1.0, 1.0)}


class StaticMNIST(pl.LightningDataModule):
    """Static MNIST, 50,000 / 10,000 / 10,000 images of 784 bits, and its variants.

    Pixel j of an image with intensity v ∈ {0..255} is drawn once as Bernoulli(v/255) and then frozen. The
    first 50,000 training images train, the other 10,000 validate, the test set tests.

    Args:
        source: ``MNIST`` ships with the package; ``larochelle_murray`` reads the literature's ``.amat`` files
            from ``folder``; any other name is the torchvision data set of that name, downloaded by torchvision
            to ``folder`` where it is not there yet.
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
        folder: folder of the ``.amat`` files, or of torchvision's download.

    Raises:
        ValueError: if ``larochelle_murray`` is asked for without ``folder``, or binarised otherwise than
            ``static``: those files are bits already; if ``dequantise`` or ``pixel_range`` are set for binary images.

    Reference:
        Larochelle & Murray, The Neural Autoregressive Distribution Estimator, 2011 (their static copy);
        Burda et al., Importance Weighted Autoencoders, 2016 (dynamic binarisation);
        Theis et al., A note on the evaluation of generative models, 2016, eq. 3–6 (uniform dequantisation).
    """

    image_shape = (28, 28)

    def __init__(
        self,
        source: Source = "MNIST",
        binarisation: Binarisation = "static",
        seed: argtypes.NonNegativeInt = 0,
        threshold: argtypes.ClosedUnitInterval = 0.5,
        dequantise: bool = False,
        pixel_range: PixelRange = "0..1",
        batch_size: argtypes.PositiveInt = 256,
        eval_batch_size: argtypes.PositiveInt = 1000,
        folder: str | None = None,
    ) -> None:
        super().__init__()
        if source == "larochelle_murray" and folder is None:
            raise ValueError(
                "data.folder: must name the folder with binarized_mnist_{train,valid,test}.amat (plain or .gz) "
                "when data.source is larochelle_murray, got none; give --data.folder"
            )
        if source == "larochelle_murray" and binarisation != "static":
            raise ValueError(
                f"data.binarisation: must be static when data.source is larochelle_murray, got {binarisation}; "
                "those files hold bits, not intensities"
            )
        if binarisation != "none" and (dequantise or pixel_range != "0..1"):
            name, value = ("dequantise", dequantise) if dequantise else ("pixel_range", pixel_range)
            raise ValueError(
                f"data.{name}: serves grey values, got {value} for {binarisation} images; set data.binarisation to none"
            )
        self.source, self.binarisation, self.seed, self.threshold = source, binarisation, seed, threshold
        self.dequantise, self.pixel_range, self.grey = dequantise, _RANGES[pixel_range], binarisation == "none"
        self.batch_size, self.eval_batch_size, self.folder = batch_size, eval_batch_size, Path(folder or "data")
        self.splits: dict[str, ImageSet] = {}
        self._digest: str | None = None

    def describe(self) -> Description:
        """The images' shape and values; once they are read, also the settings that choose them, and their digest."""
        support, about = self.pixel_range if self.grey else BINARY, self._about() if self.splits else {}
        width = (self.pixel_range.high - self.pixel_range.low) / 256 if self.dequantise else None
        return Description(self.image_shape, support, about, width, labelled=self.source != "larochelle_murray")

    def _about(self) -> dict[str, Any]:
        self._digest = self._digest or self.digest()  # describe() is called often
        names = ("source", "binarisation", "seed", "threshold", "dequantise", "pixel_range", "eval_batch_size")
        changed = {"pixel_range": str(self.pixel_range), "digest": self._digest}
        return {name: getattr(self, name) for name in names} | changed

    def prepare_data(self) -> None:
        """Download a torchvision set that is not there, once, however many processes ask for it."""
        if self.source not in ("MNIST", "larochelle_murray"):
            mnist.download(self.source, self.folder)

    def setup(self, stage: str | None = None) -> None:
        """Read and binarise all splits, once."""
        if self.splits:
            return
        if self.source == "larochelle_murray":
            names = {"train": "train", "val": "valid", "test": "test"}
            self.splits = {s: ImageSet.unlabelled(mnist.load_amat(self.folder, name)) for s, name in names.items()}
            return
        packed = self.source == "MNIST"
        grey, grey_test = mnist.load_mnist() if packed else mnist.load_torchvision(self.source, self.folder)
        kept, test = self._binarise(grey, TRAIN_STREAM), self._binarise(grey_test, TEST_STREAM)
        train = grey if self.binarisation == "dynamic" else kept
        self.splits = {"train": train.rows(None, -VALIDATION), "val": kept.rows(-VALIDATION, None), "test": test}
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


class ExponentialObservations(pl.LightningDataModule):
    """n observations x_i ~ N(z, σ²) of one z ~ Exp(λ), or observations that are given.

    The data set is one example of n numbers. It trains, validates and tests: there is one posterior to fit.

    Args:
        values: the observations; none draws them.
        n: number of observations to draw.
        z: the latent to draw them around; none draws it from Exp(λ).
        rate: λ.
        sigma: σ.
        seed: seed of the draw. It does not change with the seed of a run.
        steps_per_epoch: how often an epoch shows the data set.

    Raises:
        ValueError: if ``values`` is empty or holds a number that is not finite.
    """

    def __init__(
        self,
        values: Sequence[float] | None = None,
        n: argtypes.PositiveInt = 5,
        z: argtypes.NonNegativeFloat | None = None,
        rate: argtypes.PositiveFloat = 1.0,
        sigma: argtypes.PositiveFloat = 1.0,
        seed: argtypes.NonNegativeInt = 0,
        steps_per_epoch: argtypes.PositiveInt = 1000,
    ) -> None:
        super().__init__()
        if values is None:
            generator = torch.Generator().manual_seed(seed)
            e = -torch.rand(1, dtype=torch.float64, generator=generator).log()
            centre = e / rate if z is None else torch.tensor([z], dtype=torch.float64)
            x = centre + sigma * torch.randn(n, dtype=torch.float64, generator=generator)
        else:
            x = torch.tensor(list(values), dtype=torch.float64)
        if not len(x) or not bool(x.isfinite().all()):
            raise ValueError(
                f"data.values: must be one or more finite numbers, got {x.tolist()}; give a list, or null to draw them"
            )
        self.x, self.steps_per_epoch = x, steps_per_epoch

    def describe(self) -> Description:
        """Real numbers: how many, their mean, and their digest."""
        digest, mean = hashlib.sha256(self.x.numpy().tobytes()).hexdigest(), float(self.x.mean())
        return Description(None, REALS, {"source": "observations", "n": len(self.x), "mean": mean, "digest": digest})

    def train_dataloader(self) -> BatchLoader:
        """The data set, ``steps_per_epoch`` times."""
        return self._loader(self.steps_per_epoch)

    def val_dataloader(self) -> BatchLoader:
        """The data set, once."""
        return self._loader(1)

    test_dataloader = predict_dataloader = val_dataloader

    def _loader(self, times: int) -> BatchLoader:
        return BatchLoader(ImageSet.unlabelled(self.x.expand(times, -1)), batch_size=1)
