"""What is done with a trained model on request: one subcommand, one class."""

from lvm_lightning.studies.base import FreeStudy, Study, Subject
from lvm_lightning.studies.drawings import Sample, Tightness
from lvm_lightning.studies.free import Compare, LogSpace
from lvm_lightning.studies.measurements import Anneal, Diagnose

STUDIES: dict[str, type[Study]] = {"sample": Sample, "tightness": Tightness, "anneal": Anneal, "diagnose": Diagnose}
"""Subcommand → study of a trained model."""
FREE_STUDIES: dict[str, type[FreeStudy]] = {"compare": Compare, "log_space": LogSpace}
"""Subcommand → study that needs no model."""
