"""A loss or a gradient that is no number stops the run, with the evidence kept."""

from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from lvm_lightning.callbacks.run_checkpoint import LAST
from lvm_lightning.callbacks.run_folder import run_folder
from lvm_lightning.data.loader import Batch
from lvm_lightning.errors import NonFiniteError
from lvm_lightning.files import write_arrays

HISTORY = 20
"""Gradient norms that tell whether training diverged."""


class Evidence(NamedTuple):
    """What is known of a step whose loss or gradient is not finite.

    Attributes:
        step: its number, from 1.
        loss: its loss.
        parameters: names of weights that were not finite before it.
        gradients: names of weights whose gradients are not.
        batch_finite: whether the batch is.
        norms: gradient norms of the steps before it.
        rate: learning rate.
        precision: the trainer's.
    """

    step: int
    loss: float
    parameters: Sequence[str]
    gradients: Sequence[str]
    batch_finite: bool
    norms: Sequence[float]
    rate: float
    precision: str

    @property
    def quantity(self) -> str:
        """What is not finite."""
        if torch.tensor(self.loss).isfinite():
            return f"the gradient of {named(self.gradients)} is not finite (the loss is {self.loss:g})"
        return f"the loss is {self.loss:g}"

    @property
    def cause(self) -> str:
        """The likeliest cause, and what to do about it."""
        if not self.batch_finite:
            return "the batch holds values that are not finite: look at the data"
        if self.parameters:
            return f"the step before broke {named(self.parameters)}: lower model.optimizer.lr (now {self.rate:g})"
        usual = median(self.norms) if self.norms else 0.0
        if self.norms and self.norms[-1] > 30 * usual > 0:
            return (
                f"training diverged, the gradient's norm went from {usual:.3g} to {self.norms[-1]:.3g}: lower "
                f"model.optimizer.lr (now {self.rate:g}) or set trainer.gradient_clip_val"
            )
        if self.precision.startswith("16"):
            return "float16 ends at 65,504: set trainer.precision to bf16-mixed or 32-true"
        return (
            "a density of this batch under the model overflows: set a floor for its scales (likelihood.sigma, .floor), "
            f"lower model.optimizer.lr (now {self.rate:g}), or set trainer.gradient_clip_val"
        )


def named(names: Sequence[str]) -> str:
    """The first name, and how many more."""
    if not names:
        return "a weight"
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


class FiniteGuard(pl.Callback):
    """Stop where a loss or a gradient is not finite, before the step is taken and before anything bad is saved.

    The line names the step, what is not finite and the likely cause; the last checkpoint stays as it was, and the batch
    lies beside it as ``nonfinite_step<n>_rank<r>.npz``. On a CPU each step is looked at; elsewhere, where looking means
    waiting for the device, the steps since the last look, each ``log_every_n_steps`` and before a checkpoint.

    Raises:
        NonFiniteError: naming all that.
    """

    def __init__(self) -> None:
        self._norms: deque[float] = deque(maxlen=HISTORY)
        self._pending: list[tuple[int, Tensor, Batch]] = []
        self._batch: Batch | None = None
        self._loss = torch.zeros(())

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Keep the batch until its step is known to be good."""
        self._batch = batch

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Keep the loss."""
        self._loss = loss.detach()

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Look at the loss and at the norm of the gradient, all processes' together.

        A scaler of float16 gradients expects that some overflow, and skips those steps.
        """
        assert self._batch is not None
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        norm = self._loss.new_zeros(()) if scaled else get_total_norm(gradients)
        step = trainer.global_step + 1
        self._pending.append((step, torch.stack([self._loss.float(), norm.float()]), self._batch))
        if norm.device.type == "cpu" or step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self._look(trainer, pl_module, optimizer)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Let no weights into a checkpoint that are not finite."""
        if self._pending:
            self._look(trainer, pl_module, trainer.optimizers[0])
        broken = not_finite(checkpoint["state_dict"])
        if broken:
            raise NonFiniteError(
                f"step {trainer.global_step}: {named(broken)} is not finite after it; likely cause: the step was too "
                f"large, lower model.optimizer.lr or set trainer.gradient_clip_val; {kept(trainer)}"
            )

    def _look(self, trainer: pl.Trainer, module: pl.LightningModule, optimizer: Optimizer) -> None:
        pending, self._pending = self._pending, []
        for (step, _, batch), (loss, norm) in zip(pending, torch.stack([p[1] for p in pending]).tolist(), strict=True):
            if not torch.tensor([loss, norm]).isfinite().all():
                self._stop(trainer, module, optimizer, step, loss, batch)
            self._norms.append(norm)

    def _stop(
        self,
        trainer: pl.Trainer,
        module: pl.LightningModule,
        optimizer: Optimizer,
        step: int,
        loss: float,
        batch: Batch,
    ) -> None:
        losses = trainer.strategy.reduce(torch.tensor(loss, device=module.device), reduce_op="mean")
        folder = run_folder(trainer)
        path = (checkpoint_folder(trainer) or folder) / f"nonfinite_step{step}_rank{trainer.global_rank}.npz"
        arrays = {"x": batch.x.cpu().numpy(), "label": batch.label.cpu().numpy()}
        write_arrays(path, arrays | {"start": batch.start, "total": batch.total, "step": step})
        evidence = Evidence(
            step=step,
            loss=float(losses),
            parameters=not_finite(dict(module.named_parameters())),
            gradients=not_finite({n: p.grad for n, p in module.named_parameters() if p.grad is not None}),
            batch_finite=bool(batch.x.isfinite().all()),
            norms=list(self._norms),
            rate=optimizer.param_groups[0]["lr"],
            precision=str(trainer.precision),
        )
        raise NonFiniteError(
            f"step {step}: {evidence.quantity}; likely cause: {evidence.cause}; {kept(trainer)}; the batch is in {path}"
        )


def not_finite(tensors: Mapping[str, Tensor | nn.Parameter]) -> list[str]:
    """Names of the tensors that hold a value which is not finite."""
    return [name for name, value in tensors.items() if value.is_floating_point() and not bool(value.isfinite().all())]


def checkpoint_folder(trainer: pl.Trainer) -> Path | None:
    """Where the run's checkpoints lie, if it has any."""
    folder = getattr(trainer.checkpoint_callback, "dirpath", None)
    return None if folder is None else Path(folder)


def kept(trainer: pl.Trainer) -> str:
    """Which checkpoint stays, in words."""
    path = (checkpoint_folder(trainer) or Path()) / LAST
    return f"the last good state stays in {path}" if path.exists() else "no checkpoint had been written yet"
