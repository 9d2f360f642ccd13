"""What is done with a trained model on request: one subcommand, one class."""

from lvm_lightning.studies.anneal import Anneal
from lvm_lightning.studies.base import FreeStudy, Study, Subject
from lvm_lightning.studies.compare import Compare
from lvm_lightning.studies.configs import Configs
from lvm_lightning.studies.diagnose import Diagnose
from lvm_lightning.studies.log_space import LogSpace
from lvm_lightning.studies.report import Report
from lvm_lightning.studies.sample import Sample
from lvm_lightning.studies.tightness import Tightness

STUDIES: dict[str, type[Study]] = {"sample": Sample, "tightness": Tightness, "anneal": Anneal, "diagnose": Diagnose}
"""Subcommand → study of a trained model."""
FREE_STUDIES: dict[str, type[FreeStudy]] = {
    "compare": Compare,
    "configs": Configs,
    "log_space": LogSpace,
    "report": Report,
}
"""Subcommand → study that needs no model."""
