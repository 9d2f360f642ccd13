"""Data modules of a user's own: 8 × 8 images from plain loaders, with and without a word about themselves."""

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lvm_lightning.data.protocol import Description
from lvm_lightning.support.values import BINARY


class SilentDigits(pl.LightningDataModule):
    """Images ``(B, 8, 8)`` of zeros and ones with labels, and nothing more."""

    def setup(self, stage: str | None = None) -> None:
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(2, (96, 8, 8), generator=generator)
        self.set = TensorDataset(images, torch.arange(96) % 10)

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.set, batch_size=32, shuffle=True)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.set, batch_size=40)

    test_dataloader = predict_dataloader = val_dataloader


class Digits(SilentDigits):
    """The same, described."""

    def describe(self) -> Description:
        return Description((8, 8), BINARY, {"source": "digits", "digest": "0"}, labelled=True)

    def pixel_mean(self) -> Tensor:
        return self.set.tensors[0].float().mean(0).flatten()
