"""Labelled quantities in nats with their standard errors, and how they are computed."""

from typing import TYPE_CHECKING

from lvm_lightning.support.lazily import offers

if TYPE_CHECKING:
    from lvm_lightning.evaluation.evaluators import Budget, EvaluationSettings, Evaluator, Given, measure
    from lvm_lightning.evaluation.report import LOG_P, NATS, Gathered, Kind, Measured, Quantity, table

__getattr__ = offers(
    __name__,
    dict.fromkeys(("Budget", "EvaluationSettings", "Evaluator", "Given", "measure"), "evaluators")
    | dict.fromkeys(("LOG_P", "NATS", "Gathered", "Kind", "Measured", "Quantity", "table"), "report"),
)
