"""A loss or a gradient that is no number stops the run, with the evidence kept."""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, NoReturn

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from lvm_lightning.callbacks.run_checkpoint import LAST
from lvm_lightning.data.loader import Batch
from lvm_lightning.support import NonFiniteError, write_arrays

HISTORY = 20
"""Losses that tell whether training diverged."""


class Evidence(NamedTuple):
    """What is known when a loss or a weight is not finite.

    Attributes:
        step: number of the step that went wrong, from 1.
        loss: the loss that was looked at.
        weights: names of the weights that are not finite.
        batch_finite: whether the step's batch is.
        losses: finite ones, up to it.
        rate: learning rate.
        precision: the trainer's.
    """

    step: int
    loss: float
    weights: Sequence[str]
    batch_finite: bool
    losses: Sequence[float]
    rate: float
    precision: str

    @property
    def quantity(self) -> str:
        """What is not finite."""
        if self.weights:
            more = f" and {len(self.weights) - 1} more" if len(self.weights) > 1 else ""
            return f"the gradient is not finite, nor is {self.weights[0]}{more} after it"
        return f"the loss is {self.loss:g}"

    @property
    def cause(self) -> str:
        """The likeliest cause, and what to do about it."""
        if not self.batch_finite:
            return "the batch holds values that are not finite: look at the data"
        usual = median(self.losses) if self.losses else 0.0
        if self.losses and self.losses[-1] > usual + 9 * abs(usual):
            return (
                f"training diverged, the loss went from {usual:.4g} to {self.losses[-1]:.4g}: lower "
                f"model.optimizer.lr (now {self.rate:g}) or set trainer.gradient_clip_val"
            )
        if self.precision.startswith("16"):
            return "float16 ends at 65,504: set trainer.precision to bf16-mixed or 32-true"
        return (
            f"the step was too large or a density overflows: lower model.optimizer.lr (now {self.rate:g}), set "
            "trainer.gradient_clip_val, or give scales a floor (likelihood.sigma, likelihood.floor)"
        )


class FiniteGuard(Callback):
    """Stop where a loss or a gradient is not finite, and let nothing of it into a checkpoint.

    The line names the step, what is not finite and the likely cause; the last checkpoint stays as it was, and the batch
    lies beside it as ``nonfinite_step<n>_rank<r>.npz``. The loss is looked at before the backward pass. A gradient that
    is not finite leaves weights that are not, so that the next loss tells of it, at no cost; a checkpoint in between is
    refused. On a CPU each loss is looked at when it comes; elsewhere, where looking means waiting for the device, each
    ``log_every_n_steps`` steps and before a checkpoint.

    Raises:
        NonFiniteError: naming all that.
    """

    _good: tuple[int, Batch]
    """The last step whose loss was finite, and its batch."""

    def __init__(self) -> None:
        self._losses: deque[float] = deque(maxlen=HISTORY)
        self._pending: list[tuple[int, Tensor, Batch]] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, *_: Any) -> None:
        """Keep the batch until its step is known to be good."""
        self._batch = batch

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Look at the loss, or keep it for later."""
        step = trainer.global_step + 1
        self._pending.append((step, loss.detach(), self._batch))
        if loss.device.type == "cpu" or step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self._look(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Let no weights into a checkpoint that are not finite."""
        self._look(trainer, pl_module)
        if broken := not_finite(checkpoint["state_dict"]):
            self._stop(trainer, broken, self._losses[-1], *self._good)

    def _look(self, trainer: Trainer, module: LightningModule) -> None:
        pending, self._pending = self._pending, []
        for step, loss, batch in pending:
            value = float(loss)
            if not math.isfinite(value):
                # weights that are not finite were left by the step before
                broken = not_finite(module.state_dict())
                self._stop(trainer, broken, value, *(self._good if broken and self._losses else (step, batch)))
            self._losses.append(value)
            self._good = step, batch

    def _stop(self, trainer: Trainer, broken: list[str], loss: float, step: int, batch: Batch) -> NoReturn:
        rate, finite = trainer.optimizers[0].param_groups[0]["lr"], bool(batch.x.isfinite().all())
        evidence = Evidence(step, loss, broken, finite, self._losses, rate, str(trainer.precision))
        # not trainer.log_dir: that asks the other processes, which may be well
        folder = Path(getattr(trainer.checkpoint_callback, "dirpath", None) or trainer.default_root_dir)
        last = folder / LAST
        kept = f"the last good state stays in {last}" if last.exists() else "no checkpoint had been written yet"
        path = folder / f"nonfinite_step{step}_rank{trainer.global_rank}.npz"
        write_arrays(path, {**batch.to("cpu")._asdict(), "step": step})
        raise NonFiniteError(
            f"step {step}: {evidence.quantity}; likely cause: {evidence.cause}; {kept}; the batch is in {path}"
        )


def not_finite(tensors: Mapping[str, Tensor | nn.Parameter]) -> list[str]:
    """Names of the tensors that hold a value which is not finite."""
    return [name for name, value in tensors.items() if value.is_floating_point() and not bool(value.isfinite().all())]
