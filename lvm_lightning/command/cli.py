"""The command ``lvm-lightning``: its subcommands, its exit status, and one line for every mistake."""

import contextlib
import importlib
import inspect
import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.cli import LightningCLI

from lvm_lightning.command.config_files import require_configs
from lvm_lightning.command.environment import end_with_the_parent
from lvm_lightning.command.folders import require_output
from lvm_lightning.command.helping import asks_for_all
from lvm_lightning.command.lightning_cli import CLI
from lvm_lightning.command.meeting import MEETING
from lvm_lightning.command.naming import written_out
from lvm_lightning.command.parsing import Parser, in_words
from lvm_lightning.command.paths import expand_paths, expanded
from lvm_lightning.command.quick import refuse
from lvm_lightning.command.runs import SaveRunConfig, process_rank
from lvm_lightning.command.trainer import Trainer
from lvm_lightning.command.words import COMMAND
from lvm_lightning.modules.base import LatentVariableModule
from lvm_lightning.studies import FREE_STUDIES, STUDIES, FreeStudy, Study
from lvm_lightning.support import PROGRAM, STOP, Stopped, UserError, debugging, one_line


def main() -> int:
    """Run the command.

    Returns:
        Its exit status: 0, 1 for a failure, 2 for wrong arguments, 128 and its number after a signal.
    """
    STOP.install()
    end_with_the_parent()
    try:
        word = sys.argv[1] if len(sys.argv) > 1 else ""
        study = study_named(word, list(LightningCLI.subcommands())) if word else None
        if study is not None and issubclass(study, FreeStudy):
            run_free(study, word, sys.argv[2:])
            return 0
        Parser.tells_all = asks_for_all(sys.argv)
        sys.argv[1:] = written_out(sys.argv[1:])
        with warnings.catch_warnings(), advertisements_left_out():
            # Lightning 2.6 calls this under torch 2.15; nothing that a user can change.
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
            # The summary then counts bytes as for float32, and says so.
            warnings.filterwarnings("ignore", r"Precision .* is not supported by the model summary")
            # A run's folder is new unless the user resumes it, and then its checkpoints are meant to be there.
            warnings.filterwarnings("ignore", r"Checkpoint directory .* exists and is not empty")
            CLI(
                study=study,
                trainer_class=Trainer,
                model_class=LatentVariableModule,
                subclass_mode_model=True,
                datamodule_class=pl.LightningDataModule,
                subclass_mode_data=True,
                parser_class=Parser,
                parser_kwargs={"prog": PROGRAM, "description": COMMAND},
                save_config_callback=SaveRunConfig,
                save_config_kwargs={"save_to_log_dir": False},
                seed_everything_default=0,
                auto_configure_optimizers=False,
            )
    except Stopped as stopped:
        if not stopped.alone:
            return 0
        print("; ".join(filter(None, [f"{PROGRAM}: {stopped}", stopped.advice])), file=sys.stderr)
        return 128 + stopped.number  # as a shell gives it
    except SystemExit as stopped:
        return stopped.code if isinstance(stopped.code, int) else 1
    except Exception as error:
        if debugging():
            raise
        rank = f"[process {process_rank()}] " if process_rank() else ""
        if not MEETING.another_tells(error):
            print(f"{PROGRAM}: error: {rank}{one_line(in_words(error))}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    finally:
        STOP.restore()
    return 0


def study_named(word: str, others: Sequence[str]) -> type[Study] | type[FreeStudy] | None:
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
        refuse(word)
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception as error:  # the module is the user's own, and may fail in any way
        told = f"{type(error).__name__}: {one_line(str(error))}"
        raise UserError(f"subcommand: must be the import path of a Study, got '{word}' ({told})") from error
    if not inspect.isclass(found) or not issubclass(found, Study | FreeStudy) or inspect.isabstract(found):
        lacking = " without a run()" if inspect.isabstract(found) else ""
        raise UserError(f"subcommand: must be a subclass of lvm_lightning.studies.Study, got '{word}'{lacking}")
    return found


def run_free(study: type[FreeStudy], word: str, arguments: Sequence[str]) -> None:
    """Run a study that needs no model: its options are all there are."""
    parser = Parser(prog=f"{PROGRAM} {word}", description=inspect.getdoc(study))
    several = [p for p in inspect.signature(study).parameters.values() if p.kind is p.VAR_POSITIONAL]
    for parameter in several:
        parser.add_argument(parameter.name, nargs="*", metavar=parameter.name.upper())
    parser.add_class_arguments(study, fail_untyped=False)
    require_configs(arguments, ())
    settings: dict[str, Any] = parser.parse_args(list(arguments)).as_dict()
    expand_paths(settings)
    given = [expanded(v) if p.annotation is Path else v for p in several for v in settings.pop(p.name)]
    with contextlib.ExitStack() as held:
        if settings.get("output"):
            require_output(Path(settings["output"]), held)
        print(study(*given, **settings).run())


@contextlib.contextmanager
def advertisements_left_out() -> Iterator[None]:
    """Of Lightning's messages, leave out tips for its products, and what every run says: the seed is in its config."""
    left_out = ("💡 Tip", "Seed set to", "`weights_only` was not set")

    def wanted(record: logging.LogRecord) -> bool:
        return not any(words in record.getMessage() for words in left_out)

    names = ("lightning", "lightning.pytorch", "lightning.fabric")
    handlers = [handler for name in names for handler in logging.getLogger(name).handlers]
    with contextlib.ExitStack() as at_the_end:
        for handler in handlers:
            handler.addFilter(wanted)
            at_the_end.callback(handler.removeFilter, wanted)
        yield
