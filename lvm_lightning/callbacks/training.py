"""What a training shows of its bound, and torch.compile for it."""

import math
from collections.abc import Mapping
from statistics import fmean
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from lvm_lightning.callbacks.board import list_run, log_bound
from lvm_lightning.callbacks.pictures import publish
from lvm_lightning.callbacks.run_checkpoint import RunCheckpoint
from lvm_lightning.callbacks.run_folder import has_stepped, run_folder
from lvm_lightning.data.loader import Batch
from lvm_lightning.evaluation import LOG_P
from lvm_lightning.figures.curves import training_curve
from lvm_lightning.modules.base import LatentVariableModule
from lvm_lightning.modules.provenance import name_of
from lvm_lightning.support import UserError, replacing

LAST = 50
"""Steps that the closing mean is taken over."""
LOGGED = ("val/bound", "val/bound_stderr")
"""What every module here logs in a validation."""


def monitored(trainer: Trainer) -> list[tuple[str, str]]:
    """What early stopping and checkpoints look at: the argument and its value."""
    found: list[tuple[str, str | None]] = [
        (f"{'checkpoint' if isinstance(callback, RunCheckpoint) else 'trainer.callbacks'}.monitor", callback.monitor)
        for callback in [*trainer.early_stopping_callbacks, *trainer.checkpoint_callbacks]
        if isinstance(callback, EarlyStopping | ModelCheckpoint)
    ]
    return [(key, monitor) for key, monitor in found if monitor is not None]


class TrainingBound(Callback):
    """Keep each step's bound; log the mean since the last point every ``log_every_n_steps`` steps.

    Logs ``train/bound`` (nats per image; in the progress bar too) and ``train/pixel_likelihood`` =
    exp(bound/D), the geometric mean of the probability of a pixel, where it is one. When training ends,
    ``training_bound.csv`` and the curve are written to the run's folder.
    """

    def __init__(self) -> None:
        self.bounds: list[float] = []
        self.validation: dict[int, float] = {}
        self._pending: list[Tensor] = []
        self._parts: list[Tensor] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From now on bounds are logged here; where another quantity is monitored, look at a validation batch first.

        Only a validation shows what it logs, and the first one may be hours away.
        """
        cast(LatentVariableModule, pl_module).logs_bound = False
        if trainer.num_sanity_val_steps == 0 and any(monitor not in LOGGED for _, monitor in monitored(trainer)):
            trainer.num_sanity_val_steps = 1

    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find out before training that a monitored quantity does not exist.

        What a module of the user's own logs in training, only training shows.
        """
        for key, monitor in monitored(trainer):
            known, in_training = sorted(trainer.callback_metrics), key != "checkpoint.monitor"
            if monitor not in known and not (in_training and monitor.startswith("train/")):
                told = ", ".join([*known, *(["train/bound"] if in_training else [])])
                raise UserError(f"{key}: must be one of {told}, got {monitor}")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Each process has a slice of the batch: the bound is the mean over them."""
        self._strategy = trainer.strategy
        list_run(trainer, cast(LatentVariableModule, pl_module))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, *_: Any
    ) -> None:
        """Keep the step's bound on its device; every n steps, log."""
        self._parts.append(outputs["bound"])
        if not has_stepped(trainer):
            return
        self._pending.append(self._parts[0] if len(self._parts) == 1 else torch.stack(self._parts).mean())
        self._parts = []
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if trainer.global_step % every == 0:
            self._flush()
            mean = fmean(self.bounds[-every:])
            values = {"bound": mean}
            if not cast(LatentVariableModule, pl_module).model.likelihood.density:
                values["pixel_likelihood"] = math.exp(mean / math.prod(batch.x.shape[1:]))
            for name, value in values.items():
                pl_module.log(f"train/{name}", value, prog_bar=name == "bound", logger=False)
            log_bound(trainer, "train", values)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log what a validation has found, but for what the loggers have already."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            found = trainer.callback_metrics
            new = {name: float(value) for name, value in found.items() if name not in trainer.logged_metrics}
            if "val/bound" in found:
                self.validation[trainer.global_step] = float(found["val/bound"])
            log_bound(trainer, "val", {name[4:]: value for name, value in new.items() if name.startswith("val/")})

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take in the last bounds while the processes still talk to each other."""
        self._flush()
        cast(LatentVariableModule, pl_module).logs_bound = True

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the curve, and say where training ended; also where a run that is resumed had no step left."""
        folder = run_folder(trainer)
        if not trainer.is_global_zero or not self.bounds:
            return
        lines = [f"{step},{bound:.4f}\n" for step, bound in enumerate(self.bounds, start=1)]
        with replacing(folder / "training_bound.csv") as file:
            file.write("".join(["step,bound_nats_per_image\n", *lines]).encode())
        module = cast(LatentVariableModule, pl_module)
        title = f"The {module.objective.bound.kind} on log p(x) in training\n{name_of(module)}"
        curve = training_curve(self.bounds, title, LAST, self.validation, module.units[LOG_P])
        publish(trainer, folder, [("training_bound", curve)])
        last = torch.tensor(self.bounds[-LAST:], dtype=torch.float64)
        stderr = f" ± {float(last.std()) / math.sqrt(len(last)):.2f}" if len(last) > 1 else ""
        rank_zero_info(
            f"training bound, mean of the last {len(last)} of {len(self.bounds):,} steps: "
            f"{float(last.mean()):.2f}{stderr} {module.units[LOG_P]}; run folder: {folder}"
        )

    def state_dict(self) -> dict[str, Any]:
        """The bounds so far, so that a resumed run draws its whole curve. Lightning asks every process."""
        self._flush()
        return {"bounds": list(self.bounds), "validation": dict(self.validation)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a checkpoint's bounds."""
        self.bounds, self._pending = list(state_dict["bounds"]), []
        self.validation = dict(state_dict.get("validation", {}))

    def _flush(self) -> None:
        if self._pending:
            self.bounds += cast(Tensor, self._strategy.reduce(torch.stack(self._pending), reduce_op="mean")).tolist()
            self._pending = []


class CompiledNetworks(Callback):
    """Compile decoder and encoder with ``torch.compile`` when training starts.

    The weights keep their names, so that a checkpoint does not know whether it was compiled. Sampling, bounds and
    estimators stay as they are: they are few and small beside the networks. Compiled products may round differently.

    Args:
        backend: compiler backend of torch.
        mode: how hard Inductor tries: ``reduce-overhead`` replays CUDA graphs, ``max-autotune`` tries kernels.

    Raises:
        ValueError: if torch has no such backend.
    """

    def __init__(self, backend: str = "inductor", mode: str | None = None) -> None:
        known = torch.compiler.list_backends(exclude_tags=())
        if backend not in known:
            raise ValueError(f"callbacks.backend: must be one of {', '.join(sorted(known))}, got {backend}")
        self.options = {"backend": backend, "mode": mode}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compile in place."""
        for network in (cast(LatentVariableModule, pl_module).model.decoder, getattr(pl_module, "encoder", None)):
            if isinstance(network, nn.Module):
                network.compile(**self.options)
