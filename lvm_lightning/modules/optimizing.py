"""Optimisers and schedules from callables that a user names, and decoders' first output biases."""

import math
from collections.abc import Callable, Iterable

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lvm_lightning.data.protocol import pixel_mean
from lvm_lightning.networks.schedules import TrainingSchedule

OptimizerCallable = Callable[[Iterable[Parameter]], Optimizer]
LRSchedulerCallable = Callable[[Optimizer], LRScheduler]


def require_callables(**given: object) -> None:
    """Refuse null where a class must be.

    Raises:
        ValueError: naming the argument.
    """
    for name, value in given.items():
        if not callable(value):
            raise ValueError(f"{name}: must be a class or its import path, got {value}")  # noqa: TRY004


def make_optimizer(
    parameters: Iterable[Parameter],
    optimizer_of: OptimizerCallable,
    schedule_of: LRSchedulerCallable | None,
    steps: float,
) -> tuple[Optimizer, LRScheduler | None]:
    """The optimiser and its schedule, for that many training steps.

    Raises:
        ValueError: if torch refuses their arguments, if a rate is negative, if the schedule is shorter than the
            training: torch would stop it in the middle, or if it spans a training that has no end.
    """
    require_callables(optimizer=optimizer_of)
    try:
        optimizer = optimizer_of(parameters)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(f"optimizer: {error}") from error
    if schedule_of is None:
        return optimizer, None
    try:
        schedule = schedule_of(optimizer)
    except (ValueError, TypeError, RuntimeError, ZeroDivisionError) as error:
        raise ValueError(f"lr_scheduler: {error}") from error
    if isinstance(schedule, TrainingSchedule):
        schedule.train_for(steps)
    scheduled, rate = getattr(schedule, "total_steps", math.inf), schedule.get_last_lr()[0]
    if not rate >= 0:
        raise ValueError(f"lr_scheduler: must start at a rate of 0 or more, got {rate:g}")
    if scheduled < steps:
        raise ValueError(
            f"lr_scheduler: its total_steps must be at least the {steps:,} training steps, got {scheduled:,}; set both "
            "to the same number"
        )
    return optimizer, schedule


def tell_of_schedule(optimizer: Optimizer, schedule: LRScheduler, steps: float) -> None:
    """A line where a schedule overrides the optimiser's rate, or is longer than the training."""
    name, asked = type(schedule).__name__, optimizer.defaults["lr"]
    peak = optimizer.param_groups[0].get("max_lr", asked)
    scheduled = getattr(schedule, "total_steps", getattr(schedule, "T_max", steps))
    if peak != asked:
        rank_zero_info(
            f"note: lr_scheduler: {name}'s max_lr of {peak:g} takes the place of optimizer.lr, {asked:g}; set both to "
            "the same rate, or use lvm_lightning.networks.OneCycle"
        )
    if scheduled > steps:
        rank_zero_info(
            f"note: lr_scheduler: the training ends after {steps:,.0f} of the {scheduled:,} steps of {name}, before "
            f"the rate has come down; the schedules of lvm_lightning.networks span the training"
        )


def start_output_bias(decoder: nn.Module, setting: str, data: object, start: Callable[[Tensor], Tensor]) -> None:
    """Set the first entries of a decoder's output bias to a function of the training images' pixel means.

    It is the decoder's ``output_bias`` where it has one, or its last layer's.

    Raises:
        ValueError: if the data do not know the pixel means, or the decoder has no such bias.
    """
    cure = "set output_bias to 'zero'"
    values = start(pixel_mean(data, f"output_bias: {setting!r}", cure))
    last = [m for m in decoder.modules() if not list(m.children())][-1]
    bias = getattr(decoder, "output_bias", last.bias if isinstance(last, nn.Linear) else None)
    if bias is None:
        raise ValueError(
            f"output_bias: {setting!r} needs a decoder that ends in a linear layer or has an output_bias, got one that "
            f"ends in {type(last).__name__}; {cure}"
        )
    with torch.no_grad():
        bias[: len(values)] = values
