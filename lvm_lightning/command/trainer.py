"""Lightning's Trainer with the subcommands of this package."""

import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.pytorch.plugins import CheckpointIO, LayerSync, Precision
from lightning.pytorch.profilers import Profiler

from lvm_lightning.callbacks.evaluation_report import provenance
from lvm_lightning.command.checkpoints import SafeCheckpointIO, read_checkpoint
from lvm_lightning.evaluation.report import Provenance
from lvm_lightning.modules.base import LatentVariableModule
from lvm_lightning.studies.anneal import Start, write_annealing
from lvm_lightning.studies.diagnose import write_diagnosis
from lvm_lightning.studies.sample import write_samples
from lvm_lightning.studies.tightness import write_tightness
from lvm_lightning.support.argtypes import (
    NonNegativeInt,
    OrUnlimited,
    PositiveFloat,
    PositiveInt,
    Repeats,
)
from lvm_lightning.support.errors import UserError
from lvm_lightning.support.signals import StopSignals

OWN_SUBCOMMANDS = ("sample", "tightness", "anneal", "diagnose")


class NoProfiler(Profiler):
    """Records nothing, and enters one empty context for everything."""

    _nothing = nullcontext()

    def start(self, action_name: str) -> None:
        """Nothing."""

    def stop(self, action_name: str) -> None:
        """Nothing."""

    def profile(self, action_name: str) -> AbstractContextManager[None]:  # type: ignore[override]
        """The empty context."""
        return self._nothing


Plugin = Precision | ClusterEnvironment | CheckpointIO | LayerSync


def with_safe_checkpoints(plugins: Plugin | list[Plugin] | None) -> list[Plugin]:
    """The plugins, and :class:`SafeCheckpointIO` where none of them writes checkpoints."""
    given = [] if plugins is None else plugins if isinstance(plugins, list) else [plugins]
    return given if any(isinstance(p, CheckpointIO) for p in given) else [*given, SafeCheckpointIO()]


def require_batches(name: str, value: int | float | None, least: int) -> None:
    """Refuse what is neither a number of batches nor a share of them. Lightning finds 0 as an interval late.

    Raises:
        ValueError: naming the argument.
    """
    if value is None or (isinstance(value, int) and value >= least):
        return
    if not isinstance(value, float) or not 0 <= value <= 1 or (value == 0 and least > 0):
        raise ValueError(
            f"trainer.{name}: must be a whole number of batches, {least} or more, or a share of them from 0.0 to 1.0, "
            f"got {value}"
        )


class Trainer(pl.Trainer):
    """Lightning's Trainer, with a method for each subcommand that Lightning has none for.

    Numbers are spelled out with their ranges, so that a wrong one is refused before anything starts; Lightning finds
    some of them late and others never. The limits also because ``typing`` may hand out Lightning's
    ``Union[int, float]`` with its members swapped, whichever some other library made first; then 1 on the command line
    would be 1.0, all batches. (No restricted type for them: it would take 1.0 for the whole number 1.)
    Checkpoints are written and read by :class:`SafeCheckpointIO`; :attr:`stop` is what SIGTERM and Ctrl-C do.

    Two of Lightning's habits cost a tenth of a 10 ms step and are left out: without a GPU, torch asking the driver for
    one at each optimiser step, and a profiler that is entered forty times a step to record nothing.
    """

    def __init__(
        self,
        *,
        num_nodes: PositiveInt = 1,
        max_epochs: OrUnlimited | None = None,
        min_epochs: NonNegativeInt | None = None,
        max_steps: OrUnlimited = -1,
        min_steps: NonNegativeInt | None = None,
        limit_train_batches: int | float | None = None,
        limit_val_batches: int | float | None = None,
        limit_test_batches: int | float | None = None,
        limit_predict_batches: int | float | None = None,
        overfit_batches: int | float = 0.0,
        val_check_interval: int | float | None = None,
        check_val_every_n_epoch: PositiveInt | None = 1,
        log_every_n_steps: PositiveInt | None = None,
        accumulate_grad_batches: PositiveInt = 1,
        gradient_clip_val: PositiveFloat | None = None,
        gradient_clip_algorithm: Literal["norm", "value"] | None = None,
        profiler: Profiler | Literal["simple", "advanced", "pytorch"] | None = None,
        plugins: Plugin | list[Plugin] | None = None,
        **kwargs: Any,
    ) -> None:
        limits = {
            "limit_train_batches": limit_train_batches,
            "limit_val_batches": limit_val_batches,
            "limit_test_batches": limit_test_batches,
            "limit_predict_batches": limit_predict_batches,
            "overfit_batches": overfit_batches,
            "val_check_interval": val_check_interval,
        }
        for name, value in limits.items():
            require_batches(name, value, least=1 if name == "val_check_interval" else 0)
        self.stop: StopSignals | None = None
        if not torch.cuda.is_available():
            os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)
        super().__init__(
            num_nodes=num_nodes,
            max_epochs=max_epochs,
            min_epochs=min_epochs,
            max_steps=max_steps,
            min_steps=min_steps,
            limit_train_batches=limit_train_batches,
            limit_val_batches=limit_val_batches,
            limit_test_batches=limit_test_batches,
            limit_predict_batches=limit_predict_batches,
            overfit_batches=overfit_batches,
            val_check_interval=val_check_interval,
            check_val_every_n_epoch=check_val_every_n_epoch,
            log_every_n_steps=log_every_n_steps,
            accumulate_grad_batches=accumulate_grad_batches,
            gradient_clip_val=gradient_clip_val,
            gradient_clip_algorithm=gradient_clip_algorithm,
            profiler=NoProfiler() if profiler is None else profiler,
            plugins=with_safe_checkpoints(plugins),
            **kwargs,
        )

    def _run_stage(self) -> Any:
        """Take SIGTERM and Ctrl-C over again.

        Lightning has just put its own handler for SIGTERM in place. That one exits with status 0, saves nothing, and
        with several processes starts a broadcast from inside the handler, in the middle of whatever else they send.
        """
        if self.stop is not None:
            self.stop.install()
        return super()._run_stage()

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
        folder, data, about = self._opened(model, datamodule, ckpt_path, output)
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
        folder, data, about = self._opened(model, datamodule, ckpt_path, output)
        text, path = write_annealing(
            model,
            data,
            about,
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
        gradient_repeats: Repeats = 0,
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
        folder, data, about = self._opened(model, datamodule, ckpt_path, output)
        text, path = write_diagnosis(
            model,
            data,
            about,
            folder,
            images=images,
            samples=samples,
            gradient_repeats=gradient_repeats,
            seed=seed,
        )
        print(f"{text}\n\nwritten to {path}")

    def _opened(
        self,
        model: LatentVariableModule,
        datamodule: pl.LightningDataModule | None,
        ckpt_path: str | None,
        output: str | None,
    ) -> tuple[Path, pl.LightningDataModule, Provenance]:
        """The folder to write to, the data read, and what a number is about; the model with its weights."""
        folder = self._restore(model, ckpt_path, output)
        if datamodule is None:
            raise UserError("data: this needs a data module, got none; give --data or a config")
        datamodule.prepare_data()
        datamodule.setup("test")
        return folder, datamodule, provenance(self, model, datamodule)

    def _restore(self, model: LatentVariableModule, ckpt_path: str | None, output: str | None) -> Path:
        """Load the weights, move the model to the device, and find the folder to write to."""
        assert ckpt_path is not None
        model.load_state_dict(read_checkpoint(Path(ckpt_path))["state_dict"])
        model.to(self.strategy.root_device).eval()
        return Path(output or self.log_dir or self.default_root_dir)
