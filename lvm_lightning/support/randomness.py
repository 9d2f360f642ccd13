"""Seeds as a function of what they are for, so that noise does not depend on what was drawn before it."""

from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

Stage = Literal["train", "val", "test", "predict", "figures", "sample"]
Purpose = Literal[
    Stage,
    "tightness",
    "annealing",
    "simulation",
    "diagnosis",
    "pilots",
    "fitted",
    "evaluator",
    "roulette",
    "coding",
    "dropout",
]
PURPOSES: tuple[Purpose, ...] = get_args(Purpose)


def generator_for(seed: int | None, purpose: Purpose, step: int) -> torch.Generator:
    """CPU generator that is a function of (seed, purpose, step) alone; without a seed, of the run's."""
    run = torch.initial_seed() if seed is None else seed
    words = np.random.SeedSequence([run, PURPOSES.index(purpose), step]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(words[0]) >> 1)  # manual_seed takes signed 64-bit numbers


class Rows(NamedTuple):
    """Which rows of a batch that several processes share are here.

    Attributes:
        start: number of the first one.
        total: rows of the whole batch.
    """

    start: int
    total: int


def normal_noise(seed: int | None, purpose: Purpose, step: int, shape: tuple[int, int, int], rows: Rows) -> Tensor:
    """ε ~ N(0, I) for some rows of a shared batch, ``(S, b, K)``, the same however many processes share it."""
    S, b, K = shape
    noise = torch.randn(S, rows.total, K, generator=generator_for(seed, purpose, step))
    return noise[:, rows.start : rows.start + b]


def dropout(x: Tensor, share: float, generator: torch.Generator, rows: Rows) -> Tensor:
    """0 in the place of a share of the numbers at random, and the others over 1 − share.

    Args:
        x: these rows of a shared batch, ``(b, D)``.
        share: the probability of each number.
        generator: CPU generator of the chance, the same in all processes.
        rows: which rows of the batch they are.

    Reference:
        Srivastava et al., Dropout: A Simple Way to Prevent Neural Networks from Overfitting, 2014, section 10.
    """
    seen = torch.rand(rows.total, x.shape[-1], generator=generator)[rows.start : rows.start + len(x)] >= share
    return torch.where(seen.to(x.device), x / (1 - share), 0.0)
