"""The command ``lvm-lightning``: LightningCLI with one-line errors, run folders and subcommands of its own."""

import os
import pickle
import re
import sys
import warnings
from pathlib import Path
from typing import Any, NoReturn, cast

import lightning.pytorch as pl
import torch
from jsonargparse import Namespace
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lvm_lightning.annealed import Start, write_annealing
from lvm_lightning.argtypes import NonNegativeInt, PositiveInt
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
from lvm_lightning.callbacks.evaluation_report import provenance
from lvm_lightning.comparison import ComparisonError, compare
from lvm_lightning.diagnosis import write_diagnosis
from lvm_lightning.modules.base import LatentVariableModule
from lvm_lightning.sampling import write_samples
from lvm_lightning.tightness import write_tightness

PROGRAM = "lvm-lightning"
DESCRIPTION = f"Latent-variable models on PyTorch Lightning. '{PROGRAM} compare RUN RUN …' puts runs side by side."
OWN_SUBCOMMANDS = ("sample", "tightness", "anneal", "diagnose")
NEEDS_CHECKPOINT = ("validate", "test", "predict", *OWN_SUBCOMMANDS)
TRAINING_ONLY = ("optimizer", "lr_scheduler")
"""Model arguments that may differ between a checkpoint and the configuration that evaluates it."""
EVALUATION_ONLY = ("test_samples", "test_widen")
"""Model arguments that have no part in training, and may always differ."""


class UserError(Exception):
    """A mistake that one line explains: the argument, the rule, the value received and the cure."""


class Trainer(pl.Trainer):
    """Lightning's Trainer, with a method for each subcommand that Lightning has none for.

    The limits are spelled out because ``typing`` may hand out Lightning's ``Union[int, float]`` with its members
    swapped, whichever some other library made first; then 1 on the command line would be 1.0, all batches.
    """

    def __init__(
        self,
        *,
        limit_train_batches: int | float | None = None,
        limit_val_batches: int | float | None = None,
        limit_test_batches: int | float | None = None,
        limit_predict_batches: int | float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            limit_train_batches=limit_train_batches,
            limit_val_batches=limit_val_batches,
            limit_test_batches=limit_test_batches,
            limit_predict_batches=limit_predict_batches,
            **kwargs,
        )

    def sample(
        self,
        model: LatentVariableModule,
        datamodule: pl.LightningDataModule | None = None,
        ckpt_path: str | None = None,
        count: PositiveInt = 64,
        seed: NonNegativeInt = 0,
        output: str | None = None,
        weights_only: bool | None = None,
    ) -> None:
        """Draw new images from a trained model: a PNG grid and an array.

        Args:
            model: the module to draw from.
            datamodule: says the images' shape.
            ckpt_path: the checkpoint with the weights.
            count: number of images.
            seed: seed of the draw.
            output: folder to write ``samples.png`` and ``samples.npz`` to; the run's folder by default.
            weights_only: stands in the configuration of a training run; a checkpoint is always read that way here.
        """
        folder = self._restore(model, ckpt_path, output)
        shape = getattr(datamodule, "image_shape", (28, 28))
        if shape is None:
            raise UserError(f"model: sample draws images, got {type(model).__name__}, which has none; use test")
        pixel_range = getattr(datamodule, "pixel_range", (0.0, 1.0))
        for path in write_samples(model, shape, count, seed, folder, pixel_range):
            print(f"{count} samples written to {path}")

    def tightness(
        self,
        model: LatentVariableModule,
        datamodule: pl.LightningDataModule | None = None,
        ckpt_path: str | None = None,
        largest: PositiveInt = 4096,
        images: PositiveInt = 500,
        seed: NonNegativeInt = 0,
        output: str | None = None,
        weights_only: bool | None = None,
    ) -> None:
        """Draw the importance-weighted bound over its number of samples: a figure, a table and a JSON file.

        Args:
            model: the module to evaluate.
            datamodule: gives the test images.
            ckpt_path: the checkpoint with the weights.
            largest: largest number of samples N.
            images: test images to average over, evenly spaced; repeats of the estimate where there is one data set.
            seed: seed of the draws.
            output: folder to write ``tightness.png`` and ``tightness.json`` to; the run's folder by default.
            weights_only: stands in the configuration of a training run; a checkpoint is always read that way here.
        """
        folder = self._restore(model, ckpt_path, output)
        data = self._prepared(datamodule)
        about = provenance(self, model, data)
        rows, paths = write_tightness(model, data, about, folder, largest=largest, images=images, seed=seed)
        print(f"{rows}\n\nwritten to {' and '.join(map(str, paths))}")

    def anneal(
        self,
        model: LatentVariableModule,
        datamodule: pl.LightningDataModule | None = None,
        ckpt_path: str | None = None,
        images: PositiveInt = 100,
        simulated: PositiveInt = 100,
        start: Start = "prior",
        steps: PositiveInt = 500,
        chains: PositiveInt = 16,
        leapfrog: PositiveInt = 5,
        importance_samples: PositiveInt = 10_000,
        seed: NonNegativeInt = 0,
        output: str | None = None,
        weights_only: bool | None = None,
    ) -> None:
        """Measure log p(x) by quadrature, importance sampling and annealing, and sandwich it on simulated data.

        Args:
            model: the module to evaluate.
            datamodule: gives the test images.
            ckpt_path: the checkpoint with the weights.
            images: test images to average over, evenly spaced.
            simulated: images simulated from the model for the sandwich, at most ``images``.
            start: where chains start, ``prior`` or ``encoder``.
            steps: number of temperatures.
            chains: chains an image.
            leapfrog: leapfrog steps between two temperatures.
            importance_samples: largest number of samples of the importance-weighted bounds.
            seed: seed of the draws.
            output: folder to write ``annealing.json`` to; the run's folder by default.
            weights_only: stands in the configuration of a training run; a checkpoint is always read that way here.
        """
        folder = self._restore(model, ckpt_path, output)
        data = self._prepared(datamodule)
        text, path = write_annealing(
            model,
            data,
            provenance(self, model, data),
            folder,
            images=images,
            simulated=simulated,
            start=start,
            steps=steps,
            chains=chains,
            leapfrog=leapfrog,
            importance_samples=importance_samples,
            seed=seed,
        )
        print(f"{text}\n\nwritten to {path}")

    def diagnose(
        self,
        model: LatentVariableModule,
        datamodule: pl.LightningDataModule | None = None,
        ckpt_path: str | None = None,
        images: PositiveInt = 1000,
        samples: PositiveInt = 500,
        gradient_repeats: NonNegativeInt = 0,
        seed: NonNegativeInt = 0,
        output: str | None = None,
        weights_only: bool | None = None,
    ) -> None:
        """Bounds on train, validation and test side by side, what the latents do, and how noisy the gradient is.

        Args:
            model: the module to evaluate.
            datamodule: gives the images.
            ckpt_path: the checkpoint with the weights.
            images: images of each split to average over, evenly spaced.
            samples: samples of the importance-weighted bound.
            gradient_repeats: gradients that the signal-to-noise ratio is measured with; 0 leaves it out.
            seed: seed of the draws.
            output: folder to write ``diagnosis.json`` to; the run's folder by default.
            weights_only: stands in the configuration of a training run; a checkpoint is always read that way here.
        """
        folder = self._restore(model, ckpt_path, output)
        data = self._prepared(datamodule)
        text, path = write_diagnosis(
            model,
            data,
            provenance(self, model, data),
            folder,
            images=images,
            samples=samples,
            gradient_repeats=gradient_repeats,
            seed=seed,
        )
        print(f"{text}\n\nwritten to {path}")

    def _prepared(self, datamodule: pl.LightningDataModule | None) -> pl.LightningDataModule:
        """The data module, read."""
        if datamodule is None:
            raise UserError("data: this needs a data module, got none; give --data or a config")
        datamodule.prepare_data()
        datamodule.setup("test")
        return datamodule

    def _restore(self, model: LatentVariableModule, ckpt_path: str | None, output: str | None) -> Path:
        """Load the weights, move the model to the device, and find the folder to write to."""
        assert ckpt_path is not None
        model.load_state_dict(read_checkpoint(Path(ckpt_path))["state_dict"])
        model.to(self.strategy.root_device).eval()
        return Path(output or self.log_dir or self.default_root_dir)


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
            own += [TrainingBound(), Predictions(), PosteriorPictures(), ExponentialPictures()]
            if trainer.get("logger") is not False:
                own.append(LearningRateMonitor(logging_interval="step"))
        trainer.callbacks = [*as_list(trainer.get("callbacks")), *own]
        return super().instantiate_trainer(**kwargs)

    def after_fit(self) -> None:
        """Test the trained model, if asked to."""
        if self._get(self.config_init, "test_after_fit"):
            self.trainer.test(self.model, self.datamodule, verbose=False)


def as_list(value: Any) -> list[Any]:
    """None is no entry; a single value is one entry."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A Lightning checkpoint, loaded without running any code in it.

    Raises:
        UserError: if the file is missing or is not a checkpoint of this package.
    """
    try:
        checkpoint = torch.load(path, weights_only=True, map_location="cpu")
    except FileNotFoundError:
        raise UserError(f"ckpt_path: no such file: {path}; give a checkpoint that '{PROGRAM} fit' wrote") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise UserError(
            f"ckpt_path: {path} is not a readable checkpoint ({type(error).__name__}); give one of '{PROGRAM} fit'"
        ) from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise UserError(f"ckpt_path: {path} holds no trained model; give a checkpoint that '{PROGRAM} fit' wrote")
    return checkpoint


def require_same_model(path: Path, checkpoint: dict[str, Any], model: dict[str, Any], subcommand: str) -> None:
    """Refuse a checkpoint whose class or hyper-parameters are not the configuration's.

    Raises:
        UserError: naming the first difference, both values and the cure.
    """
    saved = dict(checkpoint.get("hyper_parameters", {}))
    configured = {
        "class_path": model["class_path"],
        **model.get("init_args", {}),
        **model.get("dict_kwargs", {}),
    }
    saved["class_path"] = saved.pop("_class_path", None)
    saved.pop("_instantiator", None)
    ignored = EVALUATION_ONLY if subcommand == "fit" else EVALUATION_ONLY + TRAINING_ONLY
    for name in sorted(configured.keys() | saved.keys(), key=lambda name: name != "class_path"):
        if name not in ignored and configured.get(name) != saved.get(name):
            raise UserError(
                f"model.{name}: the checkpoint was trained with {saved.get(name)!r}, the configuration says "
                f"{configured.get(name)!r}; use the run's own configuration, --config {run_of(path) / 'config.yaml'}"
            )


def run_of(checkpoint: Path) -> Path:
    """Folder of the run that wrote a checkpoint: ``<run>/checkpoints/<name>.ckpt``."""
    return checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent


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


def one_line(message: str) -> str:
    """A message in one line: no line breaks, and of jsonargparse's account of a union only what can be acted on."""
    flat = re.sub(r"\s+", " ", message).strip()
    union = re.search(r"Does not validate against any of the Union subtypes.*?Errors: - (.*?) Given value type:", flat)
    if union is None:
        return flat
    expected = [e for e in union[1].split(" - ") if "NoneType" not in e]
    given = flat[union.end() :].rpartition("Given value: ")[2]
    received = "" if given.startswith("Namespace(") else f"; got {given}"
    return flat[: union.start()].removesuffix("- ") + ", or ".join(expected) + received


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
