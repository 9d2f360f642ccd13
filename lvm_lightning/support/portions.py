"""Large batches in little memory: portions of a batch one after the other, and blocks of samples computed twice.

On a processor, tensors that outgrow its cache cost more than the arithmetic on them, and those of 32 MB and more are
also mapped and unmapped at each step; on any device, they set the largest number of samples that fits.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

PerExample = Callable[..., tuple[Tensor, Tensor]]
"""Rows of tensors → (what to raise, what to report), ``(b,)`` each."""

WHOLE = {"cpu": 8192}
"""Latent points, by device, that a batch may have to be left whole; else its portions have half as many."""
BLOCK = {"cpu": 2**15}
"""Latent points that one graph may hold before blocks of them are computed again in the backward pass."""
PIECE = {"cpu": 4096}
"""Latent points that are decoded in one call: what a layer puts out is still in the cache when the next takes it."""
LARGE = 2**18
"""All three for other devices, which need large products: 784 float32 columns then take 0.8 GB."""
PROBE = 8
"""How many times smaller than the others the portion is that comes first to learn from."""


def mean_in_portions(
    objective: PerExample,
    tensors: Sequence[Tensor],
    parameters: Sequence[Tensor],
    points: int,
    growth: Callable[[], int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Mean over the batch of an objective whose examples do not depend on each other.

        F = 1/B Σ_b f(rows b of the tensors)

    The batch is cut so that a portion has few latent points, and each portion is differentiated as soon as it is
    computed: its activations are gone before the next one starts, and nothing is computed twice. A batch that is one
    portion is left to autograd.

    Args:
        objective: tensors with b rows → what to raise and what to report, ``(b,)`` each. It may depend, besides its
            arguments, on ``parameters``, and on nothing else that needs a gradient.
        tensors: each ``(*, B, D)``: the batch is the axis before the last.
        parameters: leaves that ``objective`` may depend on; give all of the model. One that it does not reach gets no
            gradient and costs nothing.
        points: latent points that an example takes.
        growth: where given, a small portion comes first, from which ``objective`` learns how to go on; after it, this
            says how many times as large as otherwise the others may be.

    Returns:
        F ``()``, with gradients for ``tensors`` and ``parameters``, and what is reported ``(B,)``, without.
    """
    whole, batch = WHOLE.get(tensors[0].device.type, LARGE), tensors[0].shape[-2]
    rows = batch if batch * points <= whole else max(1, whole // 2 // points)
    first = rows // PROBE if growth is not None else 0
    if (rows == batch and not first) or not torch.is_grad_enabled():
        raised, reported = objective(*tensors)
        return raised.mean(), reported.detach()
    wanted = [p for p in parameters if p.requires_grad]
    portions = partial(_portions, batch, first or rows, rows, growth or (lambda: 1))
    return cast(tuple[Tensor, Tensor], _MeanInPortions.apply(objective, portions, len(tensors), *tensors, *wanted))


def _portions(batch: int, first: int, rows: int, growth: Callable[[], int]) -> Iterator[slice]:
    """The rows of each portion; how many the second and later ones have is asked for when the first is done."""
    yield slice(0, first)
    rows *= growth()
    for start in range(first, batch, rows):
        yield slice(start, min(start + rows, batch))


def in_blocks(function: Callable[[Tensor], Tensor], z: Tensor, weight: int = 1) -> Tensor:
    """A function of latent points, its activations computed again in the backward pass where they are many.

    Args:
        function: z ``(s, *, K)`` → ``(s, *)``, each sample by itself.
        z: ``(S, *, K)``.
        weight: how many points one of them counts for.

    Returns:
        ``(S, *)``, the same numbers as ``function(z)``.

    Reference:
        Chen et al., Training Deep Nets with Sublinear Memory Cost, 2016.
    """
    block = BLOCK.get(z.device.type, LARGE)
    each = weight * math.prod(z.shape[1:-1])
    if len(z) * each <= block or not torch.is_grad_enabled():
        return function(z)
    blocks = z.split(max(1, block // each))
    return torch.cat([checkpoint(function, part, use_reentrant=False) for part in blocks])


def in_pieces(function: Callable[[Tensor], Tensor], z: Tensor, pieces: Mapping[str, int] = PIECE) -> Tensor:
    """A function of latent points, of some at a time, in one graph.

    Args:
        function: z ``(s, *, K)`` → ``(s, *)``, each sample by itself.
        z: ``(S, *, K)``.
        pieces: how many points a piece has, by device.

    Returns:
        ``(S, *)``, the same numbers as ``function(z)``.
    """
    piece = pieces.get(z.device.type, LARGE)
    parts = z.split(max(1, piece // max(1, math.prod(z.shape[1:-1]))))
    return function(z) if len(parts) == 1 else torch.cat([function(part) for part in parts])


class _MeanInPortions(torch.autograd.Function):
    """The mean, its gradient computed on the way forward: it is linear in the cotangent, a single number."""

    @staticmethod
    def forward(
        ctx: Any, objective: PerExample, portions: Callable[[], Iterator[slice]], count: int, *inputs: Tensor
    ) -> tuple[Tensor, Tensor]:
        tensors, parameters = inputs[:count], inputs[count:]
        needed = ctx.needs_input_grad[3 : 3 + count]
        batch, device = tensors[0].shape[-2], tensors[0].device.type
        told: list[tuple[Tensor, Tensor]] = []
        of_rows: list[tuple[Tensor, ...]] = []
        of_parameters: list[Tensor | None] = [None] * len(parameters)
        for rows in portions():
            with torch.enable_grad():
                leaves = [t[..., rows, :].detach().requires_grad_(n) for t, n in zip(tensors, needed, strict=True)]
                values, numbers = objective(*leaves)
                mean = values.sum() / batch
            wanted = [leaf for leaf in leaves if leaf.requires_grad]
            with torch.autocast(device, enabled=False):
                found = torch.autograd.grad(mean, [*wanted, *parameters], allow_unused=True)
            pairs = zip(wanted, found, strict=False)  # the parameters' gradients come behind
            of_rows.append(tuple(torch.zeros_like(leaf) if g is None else g for leaf, g in pairs))
            for i, new in enumerate(found[len(wanted) :]):
                if new is not None:  # it may be shared, so that the first is copied
                    total = of_parameters[i]
                    of_parameters[i] = new.clone() if total is None else total.add_(new)
            told.append((values.detach(), numbers.detach()))
        of_tensors = iter([torch.cat(gradients, dim=-2) for gradients in zip(*of_rows, strict=True)])
        ctx.gradients = [*(next(of_tensors) if need else None for need in needed), *of_parameters]
        raised, bound = (torch.cat(parts) for parts in zip(*told, strict=True))
        ctx.mark_non_differentiable(bound)
        return raised.mean(), bound

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangent: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        scaled = [None if gradient is None else gradient * cotangent for gradient in ctx.gradients]
        return (None, None, None, *scaled)
