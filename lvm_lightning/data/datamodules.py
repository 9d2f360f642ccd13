"""MNIST and its relatives, and a handful of real observations of one latent."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch

from lvm_lightning.data import mnist
from lvm_lightning.data.images import GreyImages, Splits
from lvm_lightning.data.loader import BatchLoader, ImageSet
from lvm_lightning.data.protocol import Description
from lvm_lightning.support import argtypes
from lvm_lightning.support.values import REALS

Source = Literal["MNIST", "larochelle_murray"] | mnist.TorchvisionName

VALIDATION = 10_000


class StaticMNIST(GreyImages):
    """Static MNIST, 50,000 / 10,000 / 10,000 images of 784 bits, and its variants.

    Pixel j of an image with intensity v ∈ {0..255} is drawn once as Bernoulli(v/255) and then frozen. The
    first 50,000 training images train, the other 10,000 validate, the test set tests.

    Args:
        source: ``MNIST`` ships with the package; ``larochelle_murray`` reads the literature's ``.amat`` files
            from ``folder``; any other name is the torchvision data set of that name, downloaded by torchvision
            to ``folder`` where it is not there yet.
        folder: folder of the ``.amat`` files, or of torchvision's download.
        **options: those of :class:`.GreyImages`.

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
        *,
        folder: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(source, **options)
        if source == "larochelle_murray" and folder is None:
            raise ValueError(
                "data.folder: must name the folder with binarized_mnist_{train,valid,test}.amat (plain or .gz) "
                "when data.source is larochelle_murray, got none; give --data.folder"
            )
        if source == "larochelle_murray" and self.binarisation != "static":
            raise ValueError(
                f"data.binarisation: must be static when data.source is larochelle_murray, got {self.binarisation}; "
                "those files hold bits, not intensities"
            )
        self.folder, self.bits = Path(folder or "data"), source == "larochelle_murray"
        self.labelled = not self.bits

    def prepare_data(self) -> None:
        """Download a torchvision set that is not there, once, however many processes ask for it."""
        if self.source not in ("MNIST", "larochelle_murray"):
            mnist.download(self.source, self.folder)

    def read(self) -> Splits:
        """50,000 and 10,000 of the training images, and the test images."""
        if self.source == "larochelle_murray":
            names = {"train": "train", "val": "valid", "test": "test"}
            return {s: ImageSet.unlabelled(mnist.load_amat(self.folder, name)) for s, name in names.items()}
        packed = self.source == "MNIST"
        grey, test = mnist.load_mnist() if packed else mnist.load_torchvision(self.source, self.folder)
        return {"train": grey.rows(None, -VALIDATION), "val": grey.rows(-VALIDATION, None), "test": test}


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
