"""What is done with a trained model on request: one subcommand, one class, one file of the subcommand's name."""

from typing import TYPE_CHECKING, Any

from lvm_lightning.studies.free import FreeStudy
from lvm_lightning.support.lazily import offers

if TYPE_CHECKING:
    from lvm_lightning.studies.anneal import Anneal
    from lvm_lightning.studies.base import Study, Subject
    from lvm_lightning.studies.compare import Compare
    from lvm_lightning.studies.compress import Compress
    from lvm_lightning.studies.configs import Configs
    from lvm_lightning.studies.decompress import Decompress
    from lvm_lightning.studies.diagnose import Diagnose
    from lvm_lightning.studies.log_space import LogSpace
    from lvm_lightning.studies.report import Report
    from lvm_lightning.studies.sample import Sample
    from lvm_lightning.studies.tightness import Tightness

    STUDIES: dict[str, type[Study]]
    """Subcommand → study of a trained model."""
    FREE_STUDIES: dict[str, type[FreeStudy]]
    """Subcommand → study that needs no model."""

OF_A_MODEL = {
    "sample": "Sample",
    "tightness": "Tightness",
    "anneal": "Anneal",
    "diagnose": "Diagnose",
    "compress": "Compress",
}
"""Subcommand → name of its study, which looks at a trained model."""
OF_FILES = {
    "compare": "Compare",
    "configs": "Configs",
    "decompress": "Decompress",
    "log_space": "LogSpace",
    "report": "Report",
}
"""Subcommand → name of its study, which needs no model."""

_offered = offers(
    __name__,
    {name: word for word, name in (OF_A_MODEL | OF_FILES).items()} | {"Study": "base", "Subject": "base"},
)


def __getattr__(name: str) -> Any:
    named = {"STUDIES": OF_A_MODEL, "FREE_STUDIES": OF_FILES}.get(name)
    return _offered(name) if named is None else {word: _offered(study) for word, study in named.items()}
