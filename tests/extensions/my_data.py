"""A data set of one's own: 8 × 8 images of bars."""

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lvm_lightning.data.protocol import Description
from lvm_lightning.support.values import BINARY


class Bars(pl.LightningDataModule):
    """Each row of an image is on with probability ⅛."""

    def setup(self, stage: str | None = None) -> None:
        rows = torch.randint(8, (600, 8, 1), generator=torch.Generator().manual_seed(0)) == 0
        self.images = rows.expand(-1, -1, 8).float()

    def describe(self) -> Description:
        return Description((8, 8), BINARY, {"source": "bars", "digest": "600 images of seed 0"})

    def train_dataloader(self) -> DataLoader[Tensor]:
        return DataLoader(self.images, batch_size=50, shuffle=True)  # type: ignore[arg-type]

    def val_dataloader(self) -> DataLoader[Tensor]:
        return DataLoader(self.images[:100], batch_size=50)  # type: ignore[arg-type]

    test_dataloader = predict_dataloader = val_dataloader
