"""Studies as subcommands: the one that is asked for, its options, and what it looks at."""

import importlib
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from jsonargparse import SUPPRESS, Namespace
from lightning.pytorch.cli import LightningArgumentParser

from lvm_lightning.command.checkpoints import read_checkpoint
from lvm_lightning.command.parsing import Parser, nearest
from lvm_lightning.modules.base import LatentVariableModule
from lvm_lightning.modules.provenance import provenance
from lvm_lightning.studies import FREE_STUDIES, STUDIES, FreeStudy, Study, Subject
from lvm_lightning.support import PROGRAM, NonNegativeInt, UserError

AnyStudy = type[Study] | type[FreeStudy]


def study_named(word: str, others: Sequence[str]) -> AnyStudy | None:
    """The study that a subcommand means, by its name or by its import path.

    Args:
        word: the first word of the command line.
        others: the subcommands that are no studies.

    Returns:
        The class, or None where the word is one of the others or an option.

    Raises:
        UserError: if it is nothing of that.
    """
    known = STUDIES | FREE_STUDIES
    if word in known:
        return known[word]
    if word in others or word.startswith("-"):
        return None
    module, _, name = word.rpartition(".")
    if not module:
        names = [*others, *known]
        raise UserError(
            f"subcommand: must be {', '.join(names)} or the import path of a Study, got '{word}'{nearest(word, names)}"
        )
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"subcommand: must be the import path of a Study, got '{word}' ({error})") from error
    if not (inspect.isclass(found) and issubclass(found, Study | FreeStudy)):
        raise UserError(f"subcommand: must be a subclass of lvm_lightning.studies.Study, got '{word}'")
    return found


def summary(study: AnyStudy) -> str:
    """The first line of its docstring."""
    return (inspect.getdoc(study) or study.__name__).partition("\n")[0]


def add_study(parser: LightningArgumentParser, study: type[Study]) -> list[str]:
    """Add the settings that all studies share, and the study's own; returns the names of those."""
    parser.add_argument("--ckpt_path", type=str | None, help="the checkpoint with the weights: last, best, or a path")
    parser.add_argument("--seed", type=NonNegativeInt, default=0, help="seed of the draws")
    parser.add_argument("--output", type=str | None, help="folder to write to; the run's folder by default")
    parser.add_argument("--weights_only", type=bool | None, help=SUPPRESS)  # a training run's configuration has it
    own: list[str] = parser.add_class_arguments(study, fail_untyped=False)
    return own


def subject_of(
    trainer: pl.Trainer, module: LatentVariableModule, data: pl.LightningDataModule, settings: Namespace
) -> Subject:
    """The module with its weights on the device, the data set up for a test, and the folder to write to."""
    module.load_state_dict(read_checkpoint(Path(settings.ckpt_path))["state_dict"])
    module.to(trainer.strategy.root_device).eval()
    folder = Path(settings.output or trainer.log_dir or trainer.default_root_dir)
    data.prepare_data()
    data.setup("test")
    return Subject(module, data, folder, provenance(module, data), settings.seed)


def run_free(study: type[FreeStudy], word: str, arguments: Sequence[str]) -> None:
    """Run a study that needs no model: its options are all there are."""
    parser = Parser(prog=f"{PROGRAM} {word}", description=inspect.getdoc(study))
    several = [p for p in inspect.signature(study).parameters.values() if p.kind is p.VAR_POSITIONAL]
    for parameter in several:
        parser.add_argument(parameter.name, nargs="*", metavar=parameter.name.upper())
    parser.add_class_arguments(study, fail_untyped=False)
    settings: dict[str, Any] = parser.parse_args(list(arguments)).as_dict()
    given = [value for parameter in several for value in settings.pop(parameter.name)]
    print(study(*given, **settings).run())
