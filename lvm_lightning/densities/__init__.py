"""Likelihoods p(x|z), priors p(z), proposals q(z|x), and the points z that stand for them."""

from lvm_lightning.densities.likelihoods import Bernoulli, Gaussian, Likelihood, PixelwiseGaussian
from lvm_lightning.densities.priors import ExponentialPrior, FlowPrior, Prior, StandardNormal
from lvm_lightning.densities.proposals import (
    DiagonalGaussian,
    Exponential,
    GaussianPosterior,
    InverseAutoregressiveFlow,
    Posterior,
    Proposal,
)

__all__ = [
    "Bernoulli",
    "DiagonalGaussian",
    "Exponential",
    "ExponentialPrior",
    "FlowPrior",
    "Gaussian",
    "GaussianPosterior",
    "InverseAutoregressiveFlow",
    "Likelihood",
    "PixelwiseGaussian",
    "Posterior",
    "Prior",
    "Proposal",
    "StandardNormal",
]
