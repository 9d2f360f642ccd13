"""Likelihoods p(x|z): a decoder's output becomes a distribution of x."""

from lvm_lightning.densities.likelihoods.base import Likelihood
from lvm_lightning.densities.likelihoods.bernoulli import Bernoulli
from lvm_lightning.densities.likelihoods.continuous_bernoulli import ContinuousBernoulli
from lvm_lightning.densities.likelihoods.gaussian import Gaussian, GaussianLikelihood, PixelwiseGaussian
