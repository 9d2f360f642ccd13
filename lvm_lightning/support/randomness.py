"""Seeds as a function of what they are for, so that noise does not depend on what was drawn before it."""

from typing import Literal, get_args

import numpy as np
import torch

Purpose = Literal[
    "train",
    "val",
    "test",
    "predict",
    "figures",
    "sample",
    "tightness",
    "annealing",
    "simulation",
    "diagnosis",
    "pilots",
    "fitted",
]
PURPOSES: tuple[Purpose, ...] = get_args(Purpose)


def generator_for(seed: int, purpose: Purpose, step: int) -> torch.Generator:
    """CPU generator that is a function of (seed, purpose, step) alone."""
    words = np.random.SeedSequence([seed, PURPOSES.index(purpose), step]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(words[0]) >> 1)  # manual_seed takes signed 64-bit numbers
