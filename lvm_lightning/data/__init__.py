"""Data modules: images and observations in batches; nothing here knows a model."""

from lvm_lightning.data.observations import ExponentialObservations
from lvm_lightning.data.static_mnist import StaticMNIST
