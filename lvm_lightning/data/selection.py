"""Examples of a split that stand for all of it."""

from typing import Any

import torch
from torch import Tensor


def evenly_spaced(rows: int, count: int) -> Tensor:
    """``count`` row numbers spread over all: some files are sorted by class, so that a prefix is no sample."""
    return torch.linspace(0, rows - 1, min(rows, count)).round().long()


def rows_of(data: Any, split: str, count: int) -> Tensor:
    """``count`` evenly spaced examples of a data module's split, ``(count, D)``; a single one is repeated."""
    x = torch.cat([batch.x for batch in getattr(data, f"{split}_dataloader")()])
    return x.expand(count, -1) if len(x) == 1 else x[evenly_spaced(len(x), count)]
