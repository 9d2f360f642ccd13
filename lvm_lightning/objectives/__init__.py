"""Bounds on log p(x) as pure functions of log importance weights, and how their gradients reach θ and φ."""

from lvm_lightning.objectives.bounds import (
    Bound,
    BoundArgument,
    BoundFamily,
    Kind,
    elbo,
    estimate,
    iw_elbo,
    log_sum_exp,
    lower_bound,
    upper_bound,
)
from lvm_lightning.objectives.estimators import DecoderBound, Draw, Estimator, Objective, nested
from lvm_lightning.objectives.families import CUBO, Jackknife, Renyi
