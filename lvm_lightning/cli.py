"""The command ``lvm-lightning``: LightningCLI with one-line errors, run folders and subcommands of its own."""

import os
import sys
import warnings
from pathlib import Path
from typing import Any, NoReturn, cast

import lightning.pytorch as pl
from jsonargparse import Namespace
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lvm_lightning.callbacks import (
    BoundProgressBar,
    EvaluationReport,
    ExponentialPictures,
    Pictures,
    PosteriorPictures,
    Predictions,
    RunCheckpoint,
    TrainingBound,
)
from lvm_lightning.checkpoints import read_checkpoint, require_same_model, run_of
from lvm_lightning.comparison import ComparisonError, compare
from lvm_lightning.errors import PROGRAM, UserError, one_line
from lvm_lightning.modules import ExponentialPosterior, GaussianVAE
from lvm_lightning.modules.base import LatentVariableModule
from lvm_lightning.trainer import OWN_SUBCOMMANDS, Trainer

DESCRIPTION = f"Latent-variable models on PyTorch Lightning. '{PROGRAM} compare RUN RUN …' puts runs side by side."
NEEDS_CHECKPOINT = ("validate", "test", "predict", *OWN_SUBCOMMANDS)


class Parser(LightningArgumentParser):
    """A parser whose errors are one line and exit with status 2."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Report the mistake and exit; with ``LVM_DEBUG=1``, with its traceback."""
        if debugging() and ex is not None:
            raise ex
        command = self.prog.replace(" [options]", "")
        print(f"{PROGRAM}: error: {one_line(message)}; '{command} --help' lists the arguments", file=sys.stderr)
        sys.exit(2)


class SaveRunConfig(SaveConfigCallback):
    """Save the resolved configuration beside a training run; evaluating a run leaves its ``config.yaml`` alone."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Save when training starts."""
        if stage == "fit":
            super().setup(trainer, pl_module, stage)


class CLI(LightningCLI):
    """LightningCLI that refuses to evaluate an untrained model or to replace what the user asked for."""

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

    def _parse_ckpt_path(self) -> None:
        """Find and check the checkpoint. Lightning would let its hyper-parameters replace the configuration's."""
        settings = self.config[self.config.subcommand]
        if settings.get("ckpt_path") in ("last", "best"):
            settings.ckpt_path = str(newest_checkpoint(settings, settings.ckpt_path))
        if settings.get("ckpt_path") is not None:
            path = Path(settings.ckpt_path)
            self._dump_config()
            require_same_model(path, read_checkpoint(path), self.config_dump["model"], self.config.subcommand)
            continue_run_folder(settings, path)
        elif self.config.subcommand in NEEDS_CHECKPOINT:
            raise UserError(
                f"ckpt_path: {self.config.subcommand} needs a trained model, got none; train one with '{PROGRAM} fit' "
                "and give --ckpt_path last, best, or a path"
            )

    def instantiate_classes(self) -> None:
        """Make the model, the data and the trainer; an argument that one of them refuses is the user's mistake."""
        try:
            super().instantiate_classes()
        except ValueError as error:
            raise UserError(str(error)) from error

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """The trainer with the callbacks that fit its switches."""
        trainer = self._get(self.config_init, "trainer")
        keys = self._parser(self.subcommand).callback_keys
        own: list[pl.Callback] = []
        if trainer.get("enable_progress_bar") is not False:
            own.append(BoundProgressBar())
        if trainer.get("enable_checkpointing") is False:
            keys.remove("checkpoint")
        if trainer.get("fast_dev_run"):
            keys.clear()  # it leaves nothing behind
        else:
            own += self._callbacks_of_the_subcommand()
            if self.subcommand == "fit" and not self._get(self.config_init, "test_after_fit"):
                keys.remove("evaluation")
            if trainer.get("logger") is not False:
                own.append(LearningRateMonitor(logging_interval="step"))
        trainer.callbacks = [*as_list(trainer.get("callbacks")), *own]
        return super().instantiate_trainer(**kwargs)

    def _callbacks_of_the_subcommand(self) -> list[pl.Callback]:
        """What the subcommand and the model have a use for: every callback costs time at each step."""
        callbacks: list[pl.Callback] = [TrainingBound()]  # Lightning misses it in a checkpoint otherwise
        if self.subcommand == "predict":
            callbacks.append(Predictions())
        if isinstance(self.model, ExponentialPosterior):
            callbacks.append(ExponentialPictures())
        if isinstance(self.model, GaussianVAE):
            callbacks.append(PosteriorPictures())
        return callbacks

    def after_fit(self) -> None:
        """Test the trained model, if asked to."""
        if self._get(self.config_init, "test_after_fit"):
            self.trainer.test(self.model, self.datamodule, verbose=False)


def as_list(value: Any) -> list[Any]:
    """None is no entry; a single value is one entry."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def newest_checkpoint(settings: Namespace, name: str) -> Path:
    """``last`` or ``best`` of the newest run under the configured logger's folder.

    Raises:
        UserError: if no run there has that checkpoint.
    """
    logger = logger_arguments(settings)
    folder = Path(logger.get("save_dir") or ".") / (logger.get("name") or "")
    found = folder.glob(f"version_*/checkpoints/{name}.ckpt")
    newest = max(found, key=lambda path: path.stat().st_mtime, default=None)
    if newest is None:
        raise UserError(
            f"ckpt_path: no run under {folder} has a {name!r} checkpoint; run '{PROGRAM} fit' or give a path"
        )
    return newest


def continue_run_folder(settings: Namespace, checkpoint: Path) -> None:
    """Point the logger at the folder of the checkpoint's run, so that its results lie together."""
    run = run_of(checkpoint)
    logger = logger_arguments(settings)
    if checkpoint.parent.name == "checkpoints" and "version" in logger:
        logger.save_dir, logger.name, logger.version = str(run.parent.parent), run.parent.name, run.name


def logger_arguments(settings: Namespace) -> Namespace:
    """Arguments of the configured logger, empty where there is none."""
    logger = as_list(settings.trainer.get("logger"))
    arguments = logger[0].get("init_args") if logger and isinstance(logger[0], Namespace) else None
    return cast(Namespace, arguments or Namespace())


def debugging() -> bool:
    """Whether the user asked for tracebacks."""
    return os.environ.get("LVM_DEBUG", "") not in ("", "0")


def compare_runs(arguments: list[str]) -> int:
    """``compare RUN RUN …``: needs no model, and so none of LightningCLI's arguments."""
    if not arguments or {"-h", "--help"} & set(arguments):
        print(f"usage: {PROGRAM} compare RUN RUN …\n\n{(compare.__doc__ or '').split('Raises')[0].rstrip()}")
        return 0 if arguments else 2
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
    try:
        if sys.argv[1:2] == ["compare"]:
            return compare_runs(sys.argv[2:])
        with warnings.catch_warnings():
            # Lightning 2.6 calls this under torch 2.15; nothing that a user can change.
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
            # The summary then counts bytes as for float32, and says so.
            warnings.filterwarnings("ignore", r"Precision .* is not supported by the model summary")
            # A run's folder is new unless the user resumes it, and then its checkpoints are meant to be there.
            warnings.filterwarnings("ignore", r"Checkpoint directory .* exists and is not empty")
            CLI(
                trainer_class=Trainer,
                model_class=LatentVariableModule,
                subclass_mode_model=True,
                datamodule_class=pl.LightningDataModule,
                subclass_mode_data=True,
                parser_class=Parser,
                parser_kwargs={"prog": PROGRAM, "description": DESCRIPTION},
                save_config_callback=SaveRunConfig,
                save_config_kwargs={"overwrite": True},
                seed_everything_default=0,
                auto_configure_optimizers=False,
            )
    except SIGTERMException:
        return 143
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):  # Lightning turns Ctrl-C into exit status 1
            return 130
        return stop.code if isinstance(stop.code, int) else 1
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if debugging():
            raise
        print(f"{PROGRAM}: error: {one_line(str(error) or type(error).__name__)}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    return 0
