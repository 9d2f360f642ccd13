"""The command ``lvm-lightning``: LightningCLI with one-line errors, run folders and subcommands of its own."""

import contextlib
import logging
import shlex
import sys
import warnings
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import yaml
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.fabric.utilities.rank_zero import _get_rank
from lightning.pytorch.callbacks import LearningRateMonitor, Timer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info

from lvm_lightning.callbacks import (
    BoundProgressBar,
    EvaluationReport,
    ExponentialPictures,
    FiniteGuard,
    Pictures,
    PosteriorPictures,
    Predictions,
    RunCheckpoint,
    TrainingBound,
)
from lvm_lightning.callbacks.run_checkpoint import LAST
from lvm_lightning.callbacks.run_folder import run_folder
from lvm_lightning.command.checkpoints import (
    SETTINGS,
    read_checkpoint,
    require_same_model,
    require_same_run,
    run_of,
    settings_of,
)
from lvm_lightning.command.parsing import Parser, require_groups
from lvm_lightning.command.runs import (
    as_list,
    continue_run_folder,
    logger_arguments,
    newest_checkpoint,
    remove_if_empty,
    take_run_folder,
)
from lvm_lightning.command.trainer import OWN_SUBCOMMANDS, Trainer
from lvm_lightning.modules import ExponentialPosterior, GaussianVAE
from lvm_lightning.modules.base import LatentVariableModule
from lvm_lightning.studies.compare import ComparisonError, compare
from lvm_lightning.support.errors import PROGRAM, UserError, debugging, one_line
from lvm_lightning.support.files import free_bytes, replacing
from lvm_lightning.support.signals import Stopped, StopSignals

DESCRIPTION = f"Latent-variable models on PyTorch Lightning. '{PROGRAM} compare RUN RUN …' puts runs side by side."
ARGUMENT_ERRORS = (ValueError, TypeError, MisconfigurationException, ModuleNotFoundError, NotImplementedError)
CHECKPOINTS, OTHER_FILES = 3, 20_000_000
"""Checkpoints that a run may have at a time, each with two moments of every weight; bytes of everything else."""
GROUPS = ("trainer", "checkpoint", "pictures", "evaluation")
NEEDS_CHECKPOINT = ("validate", "test", "predict", *OWN_SUBCOMMANDS)


class SaveRunConfig(SaveConfigCallback):
    """Save the resolved configuration beside a training run, and in its checkpoints what a resumed run must share.

    Evaluating a run leaves its ``config.yaml`` alone. The saved file names no checkpoint and no version: whoever trains
    with it starts a new run.
    """

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Save when training starts."""
        self._folder = run_folder(trainer)
        if stage == "fit":
            super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Write the file, in one step. Lightning asks one process."""
        config = self.config.clone()
        config["ckpt_path"] = None
        if "version" in (logger := logger_arguments(config)):
            logger.version = None
        with replacing(self._folder / self.config_filename) as file:
            file.write(self.parser.dump(config, skip_none=False).encode())

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the settings that the steps depend on, as plain values."""
        checkpoint[SETTINGS] = self._settings

    @cached_property
    def _settings(self) -> dict[str, Any]:
        return settings_of(yaml.safe_load(self.parser.dump(self.config, skip_none=False, skip_validation=True)))


class CLI(LightningCLI):
    """LightningCLI that refuses to evaluate an untrained model, to replace what the user asked for, or to lose a run.

    Args:
        stop: what SIGTERM and Ctrl-C do.
        **kwargs: LightningCLI's.
    """

    def __init__(self, stop: StopSignals, **kwargs: Any) -> None:
        self.stop = stop
        self._new_folder: Path | None = None
        try:
            super().__init__(**kwargs)
        finally:
            if self._new_folder is not None:
                remove_if_empty(self._new_folder)

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's subcommands, and those of our trainer."""
        return LightningCLI.subcommands() | {name: {"model", "datamodule"} for name in OWN_SUBCOMMANDS}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Callbacks that every run has; their arguments can be set like any other."""
        parser.add_lightning_class_args(RunCheckpoint, "checkpoint")
        parser.set_defaults(
            {
                "checkpoint.monitor": "val/bound",
                "checkpoint.mode": "max",
                "checkpoint.filename": "best",
                "checkpoint.enable_version_counter": False,
            }
        )
        parser.add_lightning_class_args(Pictures, "pictures")
        parser.add_lightning_class_args(EvaluationReport, "evaluation")
        help_text = "whether fit goes on to test the model that it ends with, in the same process"
        parser.add_argument("--test_after_fit", type=bool, default=False, help=help_text)

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        requested = sys.argv[1] if len(sys.argv) > 1 else None
        if requested in self.subcommands() and requested != subcommand:  # listed, not filled: that takes a second
            return self.init_parser(**kwargs)
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand in ("validate", "test"):
            parser.set_defaults({"verbose": False})  # EvaluationReport's table has the units and standard errors
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse them, once the config files have the form that the parser takes for granted."""
        require_groups(sys.argv, GROUPS)
        super().parse_arguments(parser, args)

    def _parse_ckpt_path(self) -> None:
        """Find and check the checkpoint. Lightning would let its hyper-parameters replace the configuration's."""
        settings = self.config[self.config.subcommand]
        if settings.get("ckpt_path") in ("last", "best"):
            settings.ckpt_path = str(newest_checkpoint(settings, settings.ckpt_path))
        if settings.get("ckpt_path") is not None:
            path = Path(settings.ckpt_path)
            self._dump_config()
            checkpoint = read_checkpoint(path)
            require_same_model(path, checkpoint, self.config_dump["model"], self.config.subcommand)
            if self.config.subcommand == "fit":
                for note in require_same_run(path, checkpoint, settings_of(self.config_dump)):
                    rank_zero_info(f"{PROGRAM}: note: {note}")
            if self.config.subcommand != "fit" or path.name == LAST:  # from an earlier state, a run of its own
                continue_run_folder(settings, path)
        elif self.config.subcommand in NEEDS_CHECKPOINT:
            raise UserError(
                f"ckpt_path: {self.config.subcommand} needs a trained model, got none; train one with '{PROGRAM} fit' "
                "and give --ckpt_path last, best, or a path"
            )

    def _set_seed(self) -> None:
        try:
            super()._set_seed()
        except ValueError as error:
            given = self.config[self.subcommand].get("seed_everything")
            raise UserError(f"seed_everything: must be from 0 to 4,294,967,295, got {given}") from error

    def before_instantiate_classes(self) -> None:
        """Take a folder for a new run, which no other process then takes, and nothing that is there."""
        settings = self.config[self.subcommand]
        if self.subcommand == "fit" and not settings.trainer.get("fast_dev_run") and process_rank() == 0:
            self._new_folder = take_run_folder(settings)

    def instantiate_classes(self) -> None:
        """Make the model, the data and the trainer; an argument that one of them refuses is the user's mistake."""
        try:
            super().instantiate_classes()
        except ARGUMENT_ERRORS as error:
            raise UserError(str(error)) from error

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """The trainer with the callbacks that fit its switches, once the model and the data are known to fit it."""
        settings = self.config[self.subcommand].trainer
        self.model.check_data(self.datamodule)
        if self.subcommand == "fit":
            self.model.make_optimizer(max(0, settings.get("max_steps", 0)))
        try:
            return self._instantiate_our_trainer(**kwargs)
        except ARGUMENT_ERRORS as error:
            names = ("accelerator", "devices", "strategy", "precision")
            received = ", ".join(f"{name} {settings.get(name)}" for name in names)
            if str(error).startswith("trainer."):  # ours, which names the argument itself
                raise
            raise UserError(f"trainer: {error} (got {received})") from error

    def _instantiate_our_trainer(self, **kwargs: Any) -> pl.Trainer:
        trainer = self._get(self.config_init, "trainer")
        keys = self._parser(self.subcommand).callback_keys
        own: list[pl.Callback] = [FiniteGuard()]
        if trainer.get("enable_progress_bar") is not False:
            own.append(BoundProgressBar())
        if trainer.get("enable_checkpointing") is False:
            keys.remove("checkpoint")
        else:
            self._get(self.config_init, "checkpoint").stop = self.stop
        if trainer.get("fast_dev_run"):
            keys.clear()  # it leaves nothing behind
        else:
            own += self._callbacks_of_the_subcommand()
            if self.subcommand == "fit" and not self._get(self.config_init, "test_after_fit"):
                keys.remove("evaluation")
            if trainer.get("logger") is not False:
                own.append(LearningRateMonitor(logging_interval="step"))
        trainer.callbacks = [*as_list(trainer.get("callbacks")), *own]
        made = super().instantiate_trainer(**kwargs)
        if isinstance(made, Trainer):
            made.stop = self.stop
        return made

    def _callbacks_of_the_subcommand(self) -> list[pl.Callback]:
        """What the subcommand and the model have a use for: every callback costs time at each step."""
        callbacks: list[pl.Callback] = [TrainingBound()]  # Lightning misses what a checkpoint has the state of
        if self._get(self.config_init, "trainer").get("max_time") is None:  # else Lightning has one of its own
            callbacks.append(Timer())
        if self.subcommand == "predict":
            callbacks.append(Predictions())
        if isinstance(self.model, ExponentialPosterior):
            callbacks.append(ExponentialPictures())
        if isinstance(self.model, GaussianVAE):
            callbacks.append(PosteriorPictures())
        return callbacks

    def before_fit(self) -> None:
        """Find out now what would fail later: reading the data, and the room on the disk."""
        self.datamodule.prepare_data()
        self.datamodule.setup("fit")
        try:
            self.datamodule.train_dataloader()
        except ValueError as error:
            raise UserError(str(error)) from error
        logger = logger_arguments(self.config[self.subcommand])
        folder = Path(logger.get("save_dir") or self.trainer.default_root_dir)
        need = CHECKPOINTS * 3 * sum(p.numel() * p.element_size() for p in self.model.parameters()) + OTHER_FILES
        if free_bytes(folder) < need:
            raise OSError(
                f"{folder}: the disk has {free_bytes(folder) / 1e6:,.0f} MB left, a run needs about {need / 1e6:,.0f} "
                "MB; free some, or name another folder as --trainer.logger.save_dir"
            )

    def after_fit(self) -> None:
        """Test the trained model, if asked to."""
        if self._get(self.config_init, "test_after_fit"):
            self.trainer.test(self.model, self.datamodule, verbose=False)

    def _run_subcommand(self, subcommand: str) -> None:
        """Run it; who stops it, or what does, learns how to go on."""
        try:
            super()._run_subcommand(subcommand)
        except Stopped as stopped:
            if self.trainer.strategy.launcher is not None and not stopped.agreed:
                self.trainer.strategy.launcher.kill(stopped.number)
            stopped.advice = self._how_to_go_on(subcommand)
            stopped.alone = not started_by_lightning(self.trainer)
            raise
        except (OSError, RuntimeError) as error:
            told = what_happened(error)
            if told is None:
                raise
            raise RuntimeError(f"{told}; {self._how_to_go_on(subcommand)}".removesuffix("; ")) from error

    def _how_to_go_on(self, subcommand: str) -> str:
        """The command that goes on from the last checkpoint, or from the finished batches of a test."""
        if subcommand == "test":
            return "run the same command again; a test goes on from its finished batches"
        if subcommand != "fit":
            return ""
        folder = getattr(self.trainer.checkpoint_callback, "dirpath", None)
        last = Path(folder or ".") / LAST
        if folder is None or not last.exists():
            return "nothing had been saved yet"
        where = f"--config {shlex.quote(str(run_of(last) / 'config.yaml'))} --ckpt_path {shlex.quote(str(last))}"
        if self.trainer.state.fn == TrainerFn.TESTING:
            return f"the training is done; go on with: {PROGRAM} test {where}"
        return f"saved after step {read_checkpoint(last)['global_step']:,}; go on with: {PROGRAM} fit {where}"


def what_happened(error: OSError | RuntimeError) -> str | None:
    """An error of the machine, or of the connection between processes, in words; None for any other."""
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error)
    lost = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "NCCL", "DistBackendError")
    if any(words in str(error) for words in lost):
        return "another process of this run has ended, or cannot be reached"
    return None


def process_rank() -> int:
    """Number of this process, as its launcher gave it."""
    return _get_rank() or 0


def started_by_lightning(trainer: pl.Trainer) -> bool:
    """Whether this is a process that the main one started: that one answers for both."""
    environment = getattr(trainer.strategy, "cluster_environment", None)
    return isinstance(environment, LightningEnvironment) and trainer.local_rank > 0


def compare_runs(arguments: list[str]) -> int:
    """``compare RUN RUN …``: needs no model, and so none of LightningCLI's arguments."""
    if not arguments:
        raise UserError(f"RUN: compare needs the folders of two runs or more, got none; '{PROGRAM} compare --help'")
    if {"-h", "--help"} & set(arguments):
        print(f"usage: {PROGRAM} compare RUN RUN …\n\n{(compare.__doc__ or '').split('Raises')[0].rstrip()}")
        return 0
    try:
        print(compare([Path(argument) for argument in arguments]))
    except ComparisonError as error:
        raise UserError(str(error)) from error
    return 0


def main() -> int:
    """Run the command.

    Returns:
        Its exit status: 0, 1 for a failure, 2 for wrong arguments, 130 after Ctrl-C, 143 after SIGTERM.
    """
    stop = StopSignals()
    stop.install()
    try:
        if sys.argv[1:2] == ["compare"]:
            return compare_runs(sys.argv[2:])
        with warnings.catch_warnings(), advertisements_left_out():
            # Lightning 2.6 calls this under torch 2.15; nothing that a user can change.
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
            # The summary then counts bytes as for float32, and says so.
            warnings.filterwarnings("ignore", r"Precision .* is not supported by the model summary")
            # A run's folder is new unless the user resumes it, and then its checkpoints are meant to be there.
            warnings.filterwarnings("ignore", r"Checkpoint directory .* exists and is not empty")
            CLI(
                stop=stop,
                trainer_class=Trainer,
                model_class=LatentVariableModule,
                subclass_mode_model=True,
                datamodule_class=pl.LightningDataModule,
                subclass_mode_data=True,
                parser_class=Parser,
                parser_kwargs={"prog": PROGRAM, "description": DESCRIPTION},
                save_config_callback=SaveRunConfig,
                save_config_kwargs={"save_to_log_dir": False},
                seed_everything_default=0,
                auto_configure_optimizers=False,
            )
    except Stopped as stopped:
        if not stopped.alone:
            return 0
        print("; ".join(filter(None, [f"{PROGRAM}: {stopped}", stopped.advice])), file=sys.stderr)
        return stopped.status
    except SystemExit as stopped:
        return stopped.code if isinstance(stopped.code, int) else 1
    except Exception as error:
        if debugging():
            raise
        rank = f"[process {process_rank()}] " if process_rank() else ""
        print(f"{PROGRAM}: error: {rank}{one_line(str(error) or type(error).__name__)}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    finally:
        stop.restore()
    return 0


@contextlib.contextmanager
def advertisements_left_out() -> Iterator[None]:
    """Of Lightning's messages, leave out tips for its products, and what every run says: the seed is in its config."""
    left_out = ("💡 Tip", "Seed set to", "`weights_only` was not set")

    def wanted(record: logging.LogRecord) -> bool:
        return not any(words in record.getMessage() for words in left_out)

    names = ("lightning", "lightning.pytorch", "lightning.fabric")
    handlers = [handler for name in names for handler in logging.getLogger(name).handlers]
    for handler in handlers:
        handler.addFilter(wanted)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(wanted)
