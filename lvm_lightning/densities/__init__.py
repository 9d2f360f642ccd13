"""Likelihoods p(x|z), priors p(z), proposals q(z|x), and the points z that stand for them."""

from lvm_lightning.densities.flows import FlowPrior, InverseAutoregressiveFlow
from lvm_lightning.densities.grey_levels import ContinuousBernoulli, Gaussian, GaussianLikelihood, PixelwiseGaussian
from lvm_lightning.densities.likelihoods import Bernoulli, Likelihood
from lvm_lightning.densities.points import Points, PriorProposal, normal_grid, prior_points
from lvm_lightning.densities.priors import (
    Exponential,
    ExponentialPrior,
    LatentPoints,
    NoisePrior,
    Prior,
    StandardNormal,
    VampPrior,
)
from lvm_lightning.densities.proposals import DiagonalGaussian, GaussianPosterior, NoiseProposal, Posterior, Proposal
