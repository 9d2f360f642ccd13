"""Batches cut by index from one tensor, and each process's slice of them."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lvm_lightning.support.randomness import Rows


class ImageSet(NamedTuple):
    """Images of one split, held in their smallest type.

    Attributes:
        images: ``(n, D)``, uint8: 0/1 for binary images, 0..255 for grey ones; float32 in (0, 1) once dequantised.
        labels: ``(n,)``, uint8, for pictures; zeros where the source has none.
    """

    images: Tensor
    labels: Tensor

    @classmethod
    def unlabelled(cls, images: Tensor) -> "ImageSet":
        """Images without labels."""
        return cls(images, torch.zeros(len(images), dtype=torch.uint8))

    def rows(self, start: int | None, stop: int | None) -> "ImageSet":
        """The images ``start … stop``, as a Python slice counts them."""
        return ImageSet(self.images[start:stop], self.labels[start:stop])


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

    @property
    def rows(self) -> Rows:
        """Which rows of the global batch are here."""
        return Rows(self.start, self.total)

    def to(self, device: torch.device | str) -> "Batch":
        """The same on a device. Lightning calls it, instead of looking for tensors inside at each step."""
        return self._replace(x=self.x.to(device), label=self.label.to(device))

    @classmethod
    def of(cls, batch: object, rank: int = 0, world_size: int = 1) -> "Batch":
        """A batch of any data loader: a Batch as it is, examples ``(B, …)``, or a pair (examples, labels).

        Examples become floating-point numbers ``(B, D)``. Each process is taken to hold as many as this one. Labels
        other than one number an example are left out.

        Args:
            batch: what the loader gives.
            rank: this process's number.
            world_size: number of processes.

        Raises:
            ValueError: if it is none of these.
        """
        if isinstance(batch, Batch):
            return batch
        x, *rest = batch if isinstance(batch, list | tuple) and batch else [batch]
        if not isinstance(x, Tensor) or not x.ndim:
            raise ValueError(
                f"batch: must be a tensor (B, …) or a pair (x, label), got {type(x).__name__} for x; give the data "
                "loader a collate_fn that makes one"
            )
        B = len(x)
        label = next((t for t in rest[:1] if isinstance(t, Tensor) and t.shape == (B,)), ImageSet.unlabelled(x).labels)
        x = x.flatten(1) if x.ndim > 1 else x.unsqueeze(1)
        return cls(x if x.is_floating_point() else x.float(), label, rank * B, world_size * B)

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


@dataclasses.dataclass(eq=False, repr=False)
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
        device: where the split is kept, in its stored type, and batches are cut; fresh noise is drawn on the CPU, and
            keeps the split there.
        transform: applied to each global batch before it is sliced; none by default.
        affine: what a value is divided by (255 to bring grey values to [0, 1]), and what is added then.

    Raises:
        ValueError: if there is no whole batch to shuffle, or the processes do not divide it.
    """

    data: ImageSet
    batch_size: int
    shuffle_seed: int | None = None
    rank: int = 0
    world_size: int = 1
    device: torch.device | str = "cpu"
    transform: Transform | None = None
    affine: tuple[float, float] = (1.0, 0.0)
    batch_sampler = None  # Lightning asks for it where there is a sampler

    def __post_init__(self) -> None:
        rows, shuffle, size = len(self.data.images), self.shuffle_seed is not None, self.batch_size
        if shuffle and size > rows:
            raise ValueError(f"data.batch_size: must be at most the {rows:,} training images, got {size}")
        if shuffle and size % self.world_size:
            shared = f"the {self.world_size} processes that share it"
            raise ValueError(f"data.batch_size: must be a multiple of {shared}, got {size}")
        self.device = "cpu" if self.transform else self.device
        self.data = ImageSet(*(tensor.to(self.device) for tensor in self.data))
        self.sampler = RowOrder(rows, self.shuffle_seed)
        self._position = self._resume_at = 0

    def __len__(self) -> int:
        whole, ragged = divmod(self.sampler.rows, self.batch_size)
        return whole + bool(ragged and self.sampler.seed is None)

    def __iter__(self) -> Iterator[Batch]:
        epoch, first = self.sampler.epoch, self._resume_at % len(self)
        self._resume_at = 0
        batches = self.sampler.order().split(self.batch_size)[: len(self)]
        for number, rows in itertools.islice(enumerate(batches), first, None):
            self._position = number + 1
            yield self._batch(rows, epoch, number)

    def state_dict(self) -> dict[str, int]:
        """How many batches of the pass were handed out: Lightning saves it with a checkpoint."""
        return {"position": self._position}

    def load_state_dict(self, state_dict: Mapping[str, int]) -> None:
        """Let the next pass go on after that many batches; after a whole pass, from the start."""
        self._resume_at = state_dict["position"]

    def _batch(self, rows: Tensor, epoch: int, number: int) -> Batch:
        start, stop = (len(rows) * r // self.world_size for r in (self.rank, self.rank + 1))
        own = rows[start:stop].to(self.device)
        images = self.data.images.index_select(0, rows if self.transform else own)
        if self.transform:
            images = self.transform(images, epoch, number)[start:stop]
        x = images if images.is_floating_point() else images.float()
        if self.affine != (1.0, 0.0):
            x = x / self.affine[0] + self.affine[1]
        return Batch(x, self.data.labels.index_select(0, own), start, len(rows))
