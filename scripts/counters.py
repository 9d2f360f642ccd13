"""Counts of what operations do: for the benchmark of the configs, and for the tests, which import them from here."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry


def denormal(tensor: Tensor) -> int:
    """How many numbers of a floating-point tensor are smaller than the smallest with all digits, and not 0."""
    size = tensor.detach().abs()
    return int(((size > 0) & (size < torch.finfo(tensor.dtype).tiny)).sum())


class Denormals(TorchDispatchMode):
    """Counts the denormal numbers in what every operation puts out, forwards and backwards.

    Attributes:
        found: how many, by the operation's name; operations without any are not in it.
        seen: how many numbers were looked at.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: dict[str, int] = {}
        self.seen = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.is_view or "empty" in str(func):  # memory that nothing was written to
            return result
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.is_floating_point():
                self.seen += leaf.numel()
                if count := denormal(leaf):
                    self.found[str(func)] = self.found.get(str(func), 0) + count
        return result


class Operations(TorchDispatchMode):
    """Counts the floating-point operations of products. (torch's own counter stops where a Function keeps no graph.)"""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if count := flop_registry.get(func.overloadpacket):
            self.total += count(*args, **(kwargs or {}), out_val=result)
        return result
