"""The precision in force, to be taken up again later."""

from collections.abc import Callable

import torch


def autocast_of_now(device: str) -> Callable[[], torch.autocast]:
    """What makes the autocast context that is in force now, wherever it is called.

    It has no cache of weights: what is put there without a graph would be found where one is wanted.
    """
    dtype, enabled = torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
    return lambda: torch.autocast(device, dtype, enabled, cache_enabled=False)
