"""LightningCLI with run folders, checkpoints that are checked, and studies as subcommands."""

import contextlib
import inspect
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from jsonargparse import SUPPRESS, Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import LearningRateMonitor, Timer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.model_helpers import is_overridden

from lvm_lightning.callbacks import finite, pictures, progress, run_checkpoint, run_folder, training, validation
from lvm_lightning.command import checkpoints, config_files, environment, folders, helping, parsing, paths, runs
from lvm_lightning.command.meeting import MEETING
from lvm_lightning.command.starting import WeightsFrom
from lvm_lightning.command.trainer import require_work
from lvm_lightning.modules import ExponentialPosterior, GaussianVAE
from lvm_lightning.modules.provenance import provenance
from lvm_lightning.studies import STUDIES, Study, Subject
from lvm_lightning.support import PROGRAM, NonNegativeInt, Stopped, UserError, debugging

ARGUMENT_ERRORS = (ValueError, TypeError, MisconfigurationException, ModuleNotFoundError, NotImplementedError)


class CLI(LightningCLI):
    """LightningCLI that refuses to evaluate an untrained model, to replace what the user asked for, or to lose a run.

    Args:
        study: the study that the subcommand asks for, if it asks for one.
        **kwargs: LightningCLI's.
    """

    def __init__(self, study: type[Study] | None, **kwargs: Any) -> None:
        self._given = self._word = sys.argv[1] if len(sys.argv) > 1 else ""
        self._studies = STUDIES
        if study is not None and study not in STUDIES.values():  # the parser takes a dot for a key below
            self._word, self._studies = study.__name__, STUDIES | {study.__name__: study}
        with contextlib.ExitStack() as self._held:
            super().__init__(**kwargs)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Callbacks that every run has; their arguments can be set like any other."""
        parser.add_lightning_class_args(run_checkpoint.RunCheckpoint, "checkpoint")
        best = {"monitor": "val/bound", "mode": "max", "filename": "best", "enable_version_counter": False}
        parser.set_defaults({f"checkpoint.{name}": value for name, value in best.items()})
        parser.add_lightning_class_args(pictures.Pictures, "pictures")
        parser.add_lightning_class_args(run_folder.EvaluationReport, "evaluation")
        parser.add_argument("--test_after_fit", type=bool, default=False)
        parser.add_argument("--weights_from", type=Path | None)

    def _add_subcommands(self, parser: LightningArgumentParser, **kwargs: Any) -> None:
        """Lightning's subcommands, and the studies."""
        super()._add_subcommands(parser, **kwargs)
        listed = parser._subcommands_action
        assert listed is not None
        for name, study in self._studies.items():
            own = self.init_parser(description=inspect.getdoc(study))
            if name == self._word:
                self._add_arguments(own)
                own.add_argument("--ckpt_path", type=str | None)
                own.add_argument("--seed", type=NonNegativeInt, default=0, help="seed of the draws")
                own.add_argument("--output", type=str | None, help="folder to write to; the run's folder by default")
                # a training run's configuration has it
                own.add_argument("--weights_only", type=bool | None, help=SUPPRESS)
                self._own_settings: list[str] = own.add_class_arguments(study, fail_untyped=False)
                helping.in_our_words(own)
            self._subcommand_parsers[name] = own
            listed.add_subcommand(name, own, help=(inspect.getdoc(study) or name).partition("\n")[0])
            own.prog = f"{PROGRAM} {self._given if name == self._word else name}"

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        if self._word in {*self.subcommands(), *self._studies} - {subcommand}:  # not filled: that takes a second
            return self.init_parser(**kwargs)
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        helping.in_our_words(parser, subcommand)
        if subcommand in ("validate", "test"):
            parser.set_defaults({"verbose": False})  # our tables have the units and standard errors
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse them, once the config files have the form that the parser takes for granted."""
        config_files.require_configs(sys.argv, ("trainer", "checkpoint", "pictures", "evaluation"))
        self.config = parser.parse_args([self._word, *parsing.classes_first(sys.argv[2:])] if self._word else [])
        parsing.require_classes(self.config.get(self._word))
        paths.expand_paths(self.config)
        paths.require_inside(self.config[self.config.subcommand])

    def _parse_ckpt_path(self) -> None:
        """Find and check the checkpoint. Lightning would let its hyper-parameters replace the configuration's."""
        settings = self.config[self.config.subcommand]
        if settings.get("ckpt_path") in ("last", "best"):
            settings.ckpt_path = str(runs.newest_checkpoint(settings, settings.ckpt_path))
        if settings.get("ckpt_path") is not None:
            path = Path(settings.ckpt_path)
            self._dump_config()
            self._checkpoint = checkpoint = checkpoints.read_checkpoint(path)
            checkpoints.require_same_model(path, checkpoint, self.config_dump["model"], self.config.subcommand)
            if self.config.subcommand == "fit":
                for note in checkpoints.require_same_run(path, checkpoint, checkpoints.settings_of(self.config_dump)):
                    rank_zero_info(f"{PROGRAM}: note: {note}")
            # from an earlier state, fit makes a run of its own
            if self.config.subcommand != "fit" or path.name == run_checkpoint.LAST:
                runs.continue_run_folder(settings, path)
        elif self.config.subcommand != "fit":
            raise UserError(
                f"ckpt_path: {self.config.subcommand} needs a trained model, got none; train one with '{PROGRAM} fit' "
                "and give --ckpt_path last, best, or a path"
            )

    def _set_seed(self) -> None:
        try:
            super()._set_seed()
        except ValueError as error:
            given = self._get(self.config, "seed_everything")
            raise UserError(f"seed_everything: must be from 0 to 4,294,967,295, got {given}") from error

    def before_instantiate_classes(self) -> None:
        """Take the folders that are written to: one process speaks for all of a run."""
        settings = self.config[self.subcommand]
        ways = {"fit": folders.take_run_folder, "test": folders.take_test_folder}
        if not settings.trainer.get("fast_dev_run") and runs.process_rank() == 0:
            ways.get(str(self.subcommand), folders.require_writable)(settings, self._held)

    def instantiate_classes(self) -> None:
        """Make the model, the data and the trainer; an argument that one of them refuses is the user's mistake."""
        try:
            super().instantiate_classes()
        except ARGUMENT_ERRORS as error:
            raise UserError(parsing.with_key(parsing.first_told(error), self.config[self.subcommand])) from error

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """The trainer with the callbacks that fit its switches, once the model and the data are known to fit it."""
        settings = self.config[self.subcommand].trainer
        require_work(str(self.subcommand), settings)
        self.model.check_data(self.datamodule)
        given = self._get(self.config, "ckpt_path")
        if given is not None and not is_overridden("configure_model", self.model):
            checkpoints.require_weights(Path(given), self._checkpoint, self.model, str(self.subcommand))
        if self.subcommand == "fit":
            self.model.make_optimizer(max(0, settings.get("max_steps", 0)))
        self._choose_callbacks(self._get(self.config_init, "trainer"), self._parser(self.subcommand).callback_keys)
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except (*ARGUMENT_ERRORS, RuntimeError) as error:
            names = ("accelerator", "devices", "strategy", "precision")
            received = ", ".join(f"{name} {settings.get(name)}" for name in names)
            if str(error).startswith("trainer."):  # ours, which names the argument itself
                raise
            raise UserError(f"trainer: {error} (got {received})") from error
        if trainer.world_size == 1 and (variable := environment.rank_variable()) is not None:
            raise UserError(
                f"{variable.partition('=')[0]}: must not be set for a run of one process, got {variable} in the "
                "environment; unset it, or set trainer.devices"
            )
        return trainer

    def _choose_callbacks(self, trainer: Namespace, keys: list[str]) -> None:
        """Those that the subcommand and the model have a use for: every callback costs time at each step."""
        ours: list[tuple[pl.Callback, bool]] = [
            (finite.FiniteGuard(), True),
            (progress.BoundProgressBar(), progress.wanted(trainer)),
        ]
        if trainer.get("enable_checkpointing") is False:
            keys.remove("checkpoint")
        if trainer.get("fast_dev_run"):  # it leaves nothing behind
            keys.clear()
        else:
            ours += [
                (training.TrainingBound(), True),  # Lightning misses what a checkpoint has the state of
                (Timer(), trainer.get("max_time") is None),  # else Lightning has one of its own
                (run_folder.Predictions(), self.subcommand == "predict"),
                (validation.ValidationReport(), self.subcommand == "validate"),
                (pictures.ExponentialPictures(), isinstance(self.model, ExponentialPosterior)),
                (pictures.PosteriorPictures(), isinstance(self.model, GaussianVAE)),
                (LearningRateMonitor(logging_interval="step"), trainer.get("logger") is not False),
            ]
            if self.subcommand == "fit" and not self._get(self.config_init, "test_after_fit"):
                keys.remove("evaluation")
        start = self._get(self.config_init, "weights_from")
        if start and self.subcommand == "fit" and self._get(self.config, "ckpt_path") is None:  # else it has its own
            ours.append((WeightsFrom(start), True))
        trainer.callbacks = runs.as_list(trainer.get("callbacks")) + [callback for callback, wanted in ours if wanted]

    def before_fit(self) -> None:
        """Find out now what would fail later: reading the data, and the room on the disk."""
        self.datamodule.prepare_data()
        self.datamodule.setup("fit")
        try:
            self.datamodule.train_dataloader()
        except ValueError as error:
            raise UserError(parsing.with_key(str(error), self.config[self.subcommand])) from error
        logger = runs.logger_arguments(self.config[self.subcommand])
        weights = sum(p.numel() * p.element_size() for p in self.model.parameters())
        runs.require_room(Path(logger.get("save_dir") or self.trainer.default_root_dir), weights)

    def after_fit(self) -> None:
        """Test the trained model, if asked to."""
        if self._get(self.config_init, "test_after_fit"):
            self.trainer.test(self.model, self.datamodule, verbose=False)

    def _run_subcommand(self, subcommand: str) -> None:
        """Run it; of what fails in all processes, one tells, while the others can hear it."""
        try:
            self._run_or_say_why(subcommand)
        except Exception as error:
            if debugging() or MEETING.must_tell(str(error)):
                raise
            raise SystemExit(2 if isinstance(error, UserError) else 1) from error
        finally:
            runs.end_the_others(self.trainer)

    def _run_or_say_why(self, subcommand: str) -> None:
        """Run it; who stops it, or what does, learns how to go on."""
        try:
            MEETING.join(self.trainer)
            run = self._run_study if subcommand in self._studies else super()._run_subcommand
            run(subcommand)
        except Stopped as stopped:
            if self.trainer.strategy.launcher is not None and not stopped.agreed:
                self.trainer.strategy.launcher.kill(stopped.number)
            stopped.advice = runs.how_to_go_on(self.trainer, subcommand)
            stopped.alone = not runs.started_by_lightning(self.trainer)
            raise
        except ValueError as error:
            raise ValueError(parsing.with_key(str(error), self.config[self.subcommand])) from error
        except (OSError, RuntimeError) as error:
            if (told := parsing.what_happened(error)) is None:
                raise
            advice = runs.how_to_go_on(self.trainer, subcommand)
            raise RuntimeError("; ".join(filter(None, [told, advice]))) from error

    def _run_study(self, subcommand: str) -> None:
        """Make the study of its settings, and let it look at the model."""
        settings = self.config_init[subcommand]
        self.model.settings = settings.evaluation.settings
        self.model.check_data(self.datamodule)
        study = self._studies[subcommand](**{name: settings[name] for name in self._own_settings})
        self.model.load_state_dict(checkpoints.read_checkpoint(Path(settings.ckpt_path))["state_dict"])
        self.model.to(self.trainer.strategy.root_device).eval()
        folder = Path(settings.output) if settings.output else run_folder.run_folder(self.trainer)
        self.datamodule.prepare_data()
        self.datamodule.setup("test")
        about = provenance(self.model, self.datamodule)
        bars = settings.trainer.get("enable_progress_bar") is not False
        print(study.run(Subject(self.model, self.datamodule, folder, about, settings.seed, bars)))
