"""One LightningModule a system family."""

from lvm_lightning.modules.prior_iwae import PriorIWAE

__all__ = ["PriorIWAE"]
