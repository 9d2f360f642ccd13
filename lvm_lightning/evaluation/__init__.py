"""Labelled quantities in nats with their standard errors, and how they are computed."""

from lvm_lightning.evaluation.evaluators import Budget, EvaluationSettings, Evaluator, Given, measure
from lvm_lightning.evaluation.report import LOG_P, NATS, Gathered, Kind, Measured, Quantity, table
