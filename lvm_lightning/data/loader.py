"""Batches cut by index from one tensor, and each process's slice of them."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lvm_lightning.data.images import ImageSet


class Batch(NamedTuple):
    """Rows ``start … start + len(x)`` of a global batch of ``total`` rows.

    Attributes:
        x: images, float32 ``(B, D)``; real observations keep their type.
        label: labels ``(B,)``, uint8, for pictures.
        start: position of the first row in the global batch; 0 in a single process.
        total: rows of the global batch, all processes together.
    """

    x: Tensor
    label: Tensor
    start: int
    total: int

    def to(self, device: torch.device | str) -> "Batch":
        """The same on a device. Lightning calls it, instead of looking for tensors inside at each step."""
        return self._replace(x=self.x.to(device), label=self.label.to(device))

    @classmethod
    def whole(cls, x: Tensor) -> "Batch":
        """A global batch of unlabelled examples ``(B, D)`` in one process."""
        return cls(x, torch.zeros(len(x), dtype=torch.uint8), 0, len(x))

    def groups(self, size: int) -> Iterator[tuple[int, "Batch"]]:
        """The batch in groups of so many rows of the global batch, each a global batch of its own, and where it starts.

        A process has its rows of each group: the groups are the same however many processes there are. One without a
        row has one group without a row.
        """
        begin = min(self.start, self.total - 1) // size * size
        for first in range(begin, max(self.start + len(self.x), begin + 1), size):
            rows = slice(max(first - self.start, 0), first + size - self.start)
            start, total = max(self.start - first, 0), min(size, self.total - first)
            yield first, Batch(self.x[rows], self.label[rows], start, total)


Transform = Callable[[Tensor, int, int], Tensor]
"""(images of one global batch, epoch, batch number) → images: fresh noise at each training step."""


class RowOrder:
    """Order of the rows in one pass over a split: as stored, or a permutation of (seed, epoch).

    Args:
        rows: number of rows.
        seed: seed of the permutations; None keeps the stored order.
    """

    def __init__(self, rows: int, seed: int | None = None) -> None:
        self.rows, self.seed, self.epoch = rows, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the permutation of the next pass; Lightning calls this."""
        self.epoch = epoch

    def order(self) -> Tensor:
        """Row numbers ``(rows,)``."""
        if self.seed is None:
            return torch.arange(self.rows)
        return torch.from_numpy(np.random.default_rng([self.seed, self.epoch]).permutation(self.rows))


class GlobalBatches:
    """Row numbers of the global batches of one pass, all processes together.

    Args:
        sampler: the order of the rows.
        batch_size: rows of a global batch.
        drop_last: whether a ragged last batch is left out.
    """

    def __init__(self, sampler: RowOrder, batch_size: int, drop_last: bool) -> None:
        self.sampler, self.batch_size, self.drop_last = sampler, batch_size, drop_last

    def __len__(self) -> int:
        rows = self.sampler.rows
        return rows // self.batch_size if self.drop_last else -(-rows // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.sampler.order().split(self.batch_size)[: len(self)])


class BatchLoader:
    """Iterable over one split: global batches, and of each this process's contiguous slice.

    Every process cuts the same global batches and keeps its own rows of each, so that the processes together
    see exactly what one process would, and no image twice. A global batch that the processes do not divide
    is cut as evenly as possible (a slice may be empty).

    Args:
        data: the split.
        batch_size: rows of a global batch, all processes together.
        shuffle_seed: seed of the permutations; with one, a ragged last batch is dropped.
        rank: this process's number.
        world_size: number of processes.
        transform: applied to each global batch before it is sliced; none by default.
        scale: what a value is divided by, 255 to bring grey values to [0, 1].
        shift: what is added then.
        device: where the split is kept, in its stored type, and batches are cut; fresh noise is drawn on the CPU, and
            keeps the split there.

    Raises:
        ValueError: if there is no whole batch to shuffle, or the processes do not divide it.
    """

    def __init__(
        self,
        data: ImageSet,
        batch_size: int,
        *,
        shuffle_seed: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        transform: Transform | None = None,
        scale: float = 1.0,
        shift: float = 0.0,
        device: torch.device | str = "cpu",
    ) -> None:
        rows, shuffle = len(data.images), shuffle_seed is not None
        if shuffle and batch_size > rows:
            raise ValueError(f"data.batch_size: must be at most the {rows:,} training images, got {batch_size}")
        if shuffle and batch_size % world_size:
            raise ValueError(
                f"data.batch_size: must be a multiple of the {world_size} processes that share it, got {batch_size}"
            )
        self.device = torch.device("cpu" if transform else device)
        self.data = ImageSet(data.images.to(self.device), data.labels.to(self.device))
        self.transform, self.scale, self.shift = transform, scale, shift
        self.rank, self.world_size = rank, world_size
        self.batch_sampler = GlobalBatches(RowOrder(rows, shuffle_seed), batch_size, drop_last=shuffle)
        self._position = 0
        self._resume_at = 0

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[Batch]:
        epoch, first = self.batch_sampler.sampler.epoch, self._resume_at % len(self)
        self._resume_at = 0
        for number, rows in itertools.islice(enumerate(self.batch_sampler), first, None):
            self._position = number + 1
            yield self._batch(rows, epoch, number)

    def state_dict(self) -> dict[str, int]:
        """How many batches of the pass were handed out: Lightning saves it with a checkpoint."""
        return {"position": self._position}

    def load_state_dict(self, state_dict: Mapping[str, int]) -> None:
        """Let the next pass go on after that many batches; after a whole pass, from the start."""
        self._resume_at = state_dict["position"]

    def _batch(self, rows: Tensor, epoch: int, number: int) -> Batch:
        total = len(rows)
        start, stop = (total * r // self.world_size for r in (self.rank, self.rank + 1))
        own = rows[start:stop].to(self.device)
        if self.transform is None:
            images = self.data.images.index_select(0, own)
        else:
            images = self.transform(self.data.images.index_select(0, rows), epoch, number)[start:stop]
        x = images if images.is_floating_point() else images.float()
        if (self.scale, self.shift) != (1.0, 0.0):
            x = x / self.scale + self.shift
        return Batch(x, self.data.labels.index_select(0, own), start, total)
