"""What the processor computes fast."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def has_bfloat16(device: str) -> bool:
    """Whether products of bfloat16 matrices are fast on devices of this type: elsewhere they take 100 times as long."""
    return device != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()


@contextmanager
def bfloat16_products() -> Iterator[None]:
    """Let a processor that can multiply float32 matrices with its bfloat16 units: factors are rounded, sums are not."""
    setting = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # torch makes it when it is imported
    before = setting.fp32_precision
    setting.fp32_precision = "bf16"
    try:
        yield
    finally:
        setting.fp32_precision = before
