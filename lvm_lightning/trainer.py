"""Lightning's Trainer with the subcommands of this package."""

import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.profilers import Profiler

from lvm_lightning.annealed import Start, write_annealing
from lvm_lightning.argtypes import NonNegativeInt, PositiveInt, Repeats
from lvm_lightning.callbacks.evaluation_report import provenance
from lvm_lightning.checkpoints import read_checkpoint
from lvm_lightning.diagnosis import write_diagnosis
from lvm_lightning.errors import UserError
from lvm_lightning.evaluation.report import Provenance
from lvm_lightning.modules.base import LatentVariableModule
from lvm_lightning.sampling import write_samples
from lvm_lightning.tightness import write_tightness

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


class Trainer(pl.Trainer):
    """Lightning's Trainer, with a method for each subcommand that Lightning has none for.

    The limits are spelled out because ``typing`` may hand out Lightning's ``Union[int, float]`` with its members
    swapped, whichever some other library made first; then 1 on the command line would be 1.0, all batches.

    Two of Lightning's habits cost a tenth of a 10 ms step and are left out: without a GPU, torch asking the driver for
    one at each optimiser step, and a profiler that is entered forty times a step to record nothing.
    """

    def __init__(
        self,
        *,
        limit_train_batches: int | float | None = None,
        limit_val_batches: int | float | None = None,
        limit_test_batches: int | float | None = None,
        limit_predict_batches: int | float | None = None,
        profiler: Profiler | str | None = None,
        **kwargs: Any,
    ) -> None:
        if not torch.cuda.is_available():
            os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)
        super().__init__(
            profiler=NoProfiler() if profiler is None else profiler,
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
