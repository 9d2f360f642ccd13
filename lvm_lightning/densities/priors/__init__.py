"""Priors p(z)."""

from lvm_lightning.densities.priors.base import NoisePrior, Prior
from lvm_lightning.densities.priors.flow import FlowPrior
from lvm_lightning.densities.priors.standard_normal import StandardNormal, standard_normal_log_prob
from lvm_lightning.densities.priors.vamp import VampPrior
