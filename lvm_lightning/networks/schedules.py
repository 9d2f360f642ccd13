"""Learning-rate schedules that span the training: their peak is the optimiser's rate, their length the training's."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lvm_lightning.support import ClosedUnitInterval, PositiveFloat


def steps_of_share(share: float, steps: float, argument: str) -> int:
    """How many of a training's steps a share of it is, where the share is not 0.

    Raises:
        ValueError: naming the argument, if the training has no end.
    """
    if share and not math.isfinite(steps):
        raise ValueError(
            f"{argument}: needs a training that has an end, got none; set trainer.max_steps or trainer.max_epochs"
        )
    return round(share * steps) if share else 0


class TrainingSchedule(LRScheduler, ABC):
    """Abstract: a schedule that is told how long the training is.

    A module tells it by :meth:`train_for` before the first step. Until then it keeps the optimiser's rate. The length
    is no part of the state: a run that goes on with another ``max_steps`` is at its place in a training of that length.

    Args:
        optimizer: whose rate, or rates of parameter groups, are the peak.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.total_steps = 0
        super().__init__(optimizer)

    @abstractmethod
    def rate(self, peak: float, step: int, steps: int) -> float:
        """The rate of a step, 0 … ``steps`` − 1."""

    def train_for(self, steps: float) -> None:
        """Span that many steps.

        Raises:
            ValueError: if the training has no end.
        """
        self.total_steps = steps_of_share(1.0, steps, "lr_scheduler")
        self._show()

    def get_lr(self) -> list[float | Any]:
        """The rates of the present step; after the last step they stay."""
        if not self.total_steps:
            return list(self.base_lrs)
        step = min(self.last_epoch, self.total_steps - 1)
        return [self.rate(float(peak), step, self.total_steps) for peak in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds: all but the length."""
        return {name: value for name, value in super().state_dict().items() if name != "total_steps"}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Be where a checkpoint was, in a training of the present length."""
        super().load_state_dict(state_dict)
        self._show()

    def _show(self) -> None:
        """Set the optimiser's rates to those of the present step."""
        self._last_lr = self.get_lr()
        for group, rate in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = rate


class OneCycle(TrainingSchedule):
    """One cycle of rates: up to the optimiser's rate in the first part of the training, then down to almost nothing.

    Equal to :class:`torch.optim.lr_scheduler.OneCycleLR` whose ``max_lr`` is the optimiser's rate, whose
    ``total_steps`` are the training's and whose ``pct_start`` is ``warmup``.

    Args:
        optimizer: whose rate is the peak.
        warmup: share of the training in which the rate rises.
        shape: of the way up and down: half a ``cosine``, or ``linear``.
        div_factor: peak over the first rate.
        final_div_factor: first rate over the last.

    Reference:
        Smith & Topin, Super-convergence: Very fast training of neural networks using large learning rates, 2019.

    >>> optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=0.5)
    >>> schedule = OneCycle(optimizer, warmup=0.5)
    >>> schedule.train_for(100)
    >>> f"{schedule.get_last_lr()[0]:.2f}"
    '0.02'
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup: ClosedUnitInterval = 0.05,
        shape: Literal["cosine", "linear"] = "cosine",
        div_factor: PositiveFloat = 25.0,
        final_div_factor: PositiveFloat = 1e4,
    ) -> None:
        self.warmup, self.shape = warmup, shape
        self.div_factor, self.final_div_factor = div_factor, final_div_factor
        super().__init__(optimizer)

    def rate(self, peak: float, step: int, steps: int) -> float:
        """The rate of a step: two half waves that meet at the peak."""
        first = peak / self.div_factor
        top, end = self.warmup * steps - 1, steps - 1
        if step <= top and top > 0:
            return self._between(first, peak, step / top)
        return self._between(peak, first / self.final_div_factor, (step - top) / (end - top) if end > top else 1.0)

    def _between(self, start: float, end: float, share: float) -> float:
        """The rate at a share of the way from one rate to another."""
        if self.shape == "linear":
            return (end - start) * share + start
        return end + (start - end) / 2.0 * (1 + math.cos(math.pi * share))


class Cosine(TrainingSchedule):
    """Half a cosine from the optimiser's rate to 0: η (1 + cos π t/T)/2 at step t of T.

    Equal, up to rounding, to :class:`torch.optim.lr_scheduler.CosineAnnealingLR` whose ``T_max`` are the training's
    steps.

    Args:
        optimizer: whose rate η is the first.

    Reference:
        Loshchilov & Hutter, SGDR: Stochastic gradient descent with warm restarts, 2017, eq. 5.
    """

    def __init__(self, optimizer: Optimizer) -> None:  # its signature is what the command offers
        super().__init__(optimizer)

    def rate(self, peak: float, step: int, steps: int) -> float:
        """The rate of a step."""
        return peak * (1 + math.cos(math.pi * step / steps)) / 2


class MultiStep(TrainingSchedule):
    """The optimiser's rate, times a factor after each of some shares of the training.

    Equal, up to rounding, to :class:`torch.optim.lr_scheduler.MultiStepLR` whose milestones are these shares of the
    training's steps.

    Args:
        optimizer: whose rate is the first.
        shares: of the training, after each of which the rate is multiplied.
        gamma: the factor.
    """

    def __init__(self, optimizer: Optimizer, shares: Sequence[ClosedUnitInterval], gamma: PositiveFloat = 0.1) -> None:
        self.shares, self.gamma = tuple(shares), gamma
        super().__init__(optimizer)

    def rate(self, peak: float, step: int, steps: int) -> float:
        """The rate of a step."""
        return float(peak * self.gamma ** sum(step >= round(share * steps) for share in self.shares))
