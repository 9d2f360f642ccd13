"""Proposals q(z|x): an encoder's output becomes a distribution."""

from lvm_lightning.densities.proposals.base import NoiseProposal, Posterior, Proposal
from lvm_lightning.densities.proposals.flow import InverseAutoregressiveFlow
from lvm_lightning.densities.proposals.gaussian import DiagonalGaussian, GaussianPosterior
