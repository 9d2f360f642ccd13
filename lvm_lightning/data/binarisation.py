"""Bernoulli(v/255) pixels, and uniform noise on grey levels, from a bit generator's raw stream.

The bits are the same on every platform and version. The stream is Philox4x64-10 (Salmon et al., Parallel Random
Numbers: As Easy as 1, 2, 3, 2011), whose raw output NumPy guarantees to keep; nothing here goes through a distribution
method, which NumPy may change.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def random_bytes(stream: np.random.Philox, count: int) -> npt.NDArray[np.uint8]:
    """``count`` uniform bytes: the stream's 64-bit words in order, each from its least significant byte."""
    words = stream.random_raw(-(-count // 8))
    return words.astype("<u8").view(np.uint8)[:count]


def philox(seed: int, purpose: int, counter: Sequence[int] = (0, 0, 0, 0)) -> np.random.Philox:
    """Philox with the key (seed, purpose), at the given four-word counter."""
    return np.random.Philox(key=np.array([seed, purpose], np.uint64), counter=np.array(counter, np.uint64))


def bernoulli_pixels(intensities: Tensor, stream: np.random.Philox) -> Tensor:
    """Draw every pixel once as Bernoulli(v/255), exactly.

    v/255 has the digits 0.vvv… in base 256, so a uniform number lies below it when its first byte that
    differs from v is smaller than v. One byte decides 255 pixels of 256; a tied pixel takes a further byte.

    Args:
        intensities: values v in 0..255, uint8, any shape.
        stream: bit generator, which is advanced.

    Returns:
        Zeros and ones, uint8, in the shape of ``intensities``.
    """
    v = intensities.numpy().reshape(-1)
    byte = random_bytes(stream, v.size)
    on = byte < v
    tied = np.flatnonzero(byte == v)
    while tied.size:
        byte = random_bytes(stream, tied.size)
        on[tied] = byte < v[tied]
        tied = tied[byte == v[tied]]
    return torch.from_numpy(on.view(np.uint8)).reshape(intensities.shape)


def dequantised(grey: Tensor, stream: np.random.Philox) -> Tensor:
    """Grey level v as the real number (v + u)/256, u ~ U(0, 1) in steps of 2^−15.

    Args:
        grey: values v in 0..255, uint8, any shape.
        stream: bit generator, which is advanced.

    Returns:
        Numbers in (0, 1), float32, in the shape of ``grey``.
    """
    words = random_bytes(stream, 2 * grey.numel()).view("<u2") >> 1
    u = (torch.from_numpy(words.astype(np.float32)) + 0.5) / 2**15
    return (grey.float() + u.view(grey.shape)) / 256
