"""Networks, tensors in and tensors out, and an optimiser for them."""

from lvm_lightning.networks.networks import MLP, ConvDecoder, ConvEncoder, MuonWithAdam
from lvm_lightning.networks.residual import ResidualConvDecoder, ResidualConvEncoder, ResidualMLP
