"""Data modules: images and observations in batches; nothing here knows a model."""

from lvm_lightning.data.arrays import ArrayImages
from lvm_lightning.data.datamodules import ExponentialObservations, StaticMNIST
from lvm_lightning.data.omniglot import Omniglot
