"""Proposals q(z|x): an encoder's output becomes a distribution."""

from lvm_lightning.proposals.base import Posterior, Proposal
from lvm_lightning.proposals.exponential import Exponential
from lvm_lightning.proposals.flow import InverseAutoregressiveFlow
from lvm_lightning.proposals.gaussian import DiagonalGaussian, GaussianPosterior

__all__ = ["DiagonalGaussian", "Exponential", "GaussianPosterior", "InverseAutoregressiveFlow", "Posterior", "Proposal"]
