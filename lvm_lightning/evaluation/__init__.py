"""Labelled quantities in nats with their standard errors, and how they are computed."""

from lvm_lightning.evaluation.evaluators import EvaluationSettings, Evaluator, Given
from lvm_lightning.evaluation.measured import LOG_P, NATS, Measured
from lvm_lightning.evaluation.quantity import Kind, Quantity, table
