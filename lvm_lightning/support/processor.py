"""What the processor computes fast."""

import torch


def has_bfloat16(device: str) -> bool:
    """Whether products of bfloat16 matrices are fast on devices of this type: elsewhere they take 100 times as long."""
    return device != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
