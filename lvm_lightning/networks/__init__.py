"""Networks, tensors in and tensors out; an optimiser and learning-rate schedules for them."""

from lvm_lightning.networks.networks import MLP, ConvDecoder, ConvEncoder, MuonWithAdam
from lvm_lightning.networks.residual import ResidualConvDecoder, ResidualConvEncoder, ResidualMLP
from lvm_lightning.networks.schedules import Cosine, MultiStep, OneCycle
