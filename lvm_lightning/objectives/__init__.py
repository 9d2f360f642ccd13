"""Bounds on log p(x) as pure functions of log importance weights, and how their gradients reach θ and φ."""

from lvm_lightning.objectives.bounds import elbo, iw_elbo, nested_iw_elbo, nested_renyi, renyi
from lvm_lightning.objectives.estimators import Objective

__all__ = ["Objective", "elbo", "iw_elbo", "nested_iw_elbo", "nested_renyi", "renyi"]
