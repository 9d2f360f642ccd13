"""A handful of real observations of one latent: the data of the exponential-posterior model."""

import hashlib
from collections.abc import Sequence

import lightning.pytorch as pl
import torch

from lvm_lightning.data.loader import BatchLoader, ImageSet
from lvm_lightning.data.protocol import Description
from lvm_lightning.support.argtypes import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from lvm_lightning.support.values import REALS


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
        n: PositiveInt = 5,
        z: NonNegativeFloat | None = None,
        rate: PositiveFloat = 1.0,
        sigma: PositiveFloat = 1.0,
        seed: NonNegativeInt = 0,
        steps_per_epoch: PositiveInt = 1000,
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
