"""A stack of symbols in as few bits as their probabilities allow: asymmetric numeral systems, by constriction."""

from typing import Any

import numpy as np
import numpy.typing as npt
from constriction import stream

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Words = npt.NDArray[np.uint32]

WORD = 32
"""Bits of a word."""
LARGEST = 2**24
"""Values that a uniform symbol can have; the coder's probabilities are multiples of 1/LARGEST."""


class ExhaustedError(Exception):
    """More bits were asked of a stack than it has."""


class BitStack:
    """Symbols that are pushed in some order come back in the reverse order, if the same probabilities are given.

    A symbol of probability p takes −log₂ p bits. What is popped from a stack that holds other things, or noise, is a
    sample with these probabilities, and pushing it again gives its bits back. Of the symbols of one call the first is
    popped first, so that an array comes back as it was pushed.

    Args:
        words: what is there at the start, any bits.
        sealed: whether that is a stack's own :attr:`words`, and not any bits.

    Reference:
        Duda, Asymmetric numeral systems, 2009.
    """

    def __init__(self, words: Words, sealed: bool = False) -> None:
        self._coder = stream.stack.AnsCoder(words, not sealed)

    @property
    def bits(self) -> int:
        """How many bits it holds."""
        return int(self._coder.num_valid_bits())

    @property
    def words(self) -> Words:
        """All of it, to start another one from."""
        return np.asarray(self._coder.get_compressed(), dtype=np.uint32)

    def is_back_at(self, words: Words) -> bool:
        """Whether it holds what it has started from, bit for bit."""
        try:
            return np.array_equal(self._coder.get_compressed(True), words)
        except AssertionError:  # it ends in the middle of a word, and so is no start
            return False

    def push_uniform(self, values: Ints, sizes: Ints | int) -> None:
        """Push values ``(*)``, each as likely as the others of 0, …, size − 1; a size of 1 takes no bits."""
        among = np.broadcast_to(np.asarray(sizes, dtype=np.int32), values.shape)
        self._push(values[among > 1], stream.model.Uniform(), among[among > 1])

    def pop_uniform(self, sizes: Ints) -> Ints:
        """Pop values ``(*)`` of 0, …, size − 1.

        Raises:
            ExhaustedError: if there are not as many bits.
        """
        self._require(float(np.log2(sizes).sum()))
        values = np.zeros(sizes.shape, dtype=np.int64)
        values[sizes > 1] = self._pop(stream.model.Uniform(), sizes[sizes > 1].astype(np.int32))
        return values

    def push_gaussian(self, values: Ints, largest: int, mean: Floats, sigma: float) -> None:
        """Push whole numbers ``(*)`` from −largest to largest, given the normals that they are rounded of."""
        self._push(values, stream.model.QuantizedGaussian(-largest, largest), mean.ravel(), np.full(mean.size, sigma))

    def pop_gaussian(self, largest: int, mean: Floats, sigma: float) -> Ints:
        """Pop whole numbers ``(*)`` from −largest to largest."""
        model = stream.model.QuantizedGaussian(-largest, largest)
        return self._pop(model, mean.ravel(), np.full(mean.size, sigma)).reshape(mean.shape)

    def push_bits(self, values: Ints, probabilities: Floats) -> None:
        """Push zeros and ones ``(*)``, given the probability of each to be 1."""
        self._push(values, stream.model.Bernoulli(perfect=False), probabilities.ravel())

    def pop_bits(self, probabilities: Floats) -> Ints:
        """Pop zeros and ones ``(*)``, given the probability of each to be 1."""
        return self._pop(stream.model.Bernoulli(perfect=False), probabilities.ravel()).reshape(probabilities.shape)

    def push_choices(self, values: Ints, weights: Floats) -> None:
        """Push values ``(n,)`` of 0, …, M − 1, given weights ``(n, M)`` that are probabilities but for a factor."""
        if weights.shape[-1] > 1:
            self._push(values, stream.model.Categorical(perfect=False), weights)

    def pop_choices(self, weights: Floats) -> Ints:
        """Pop values ``(n,)`` of 0, …, M − 1.

        Raises:
            ExhaustedError: if there may be not as many bits.
        """
        n, choices = weights.shape
        if choices == 1:
            return np.zeros(n, dtype=np.int64)
        self._require(n * float(np.log2(choices)))
        return self._pop(stream.model.Categorical(perfect=False), weights)

    def _push(self, values: npt.NDArray[Any], model: Any, *parameters: npt.NDArray[Any]) -> None:
        self._coder.encode_reverse(values.ravel().astype(np.int32), model, *parameters)

    def _pop(self, model: Any, *parameters: npt.NDArray[Any]) -> Ints:
        return np.asarray(self._coder.decode(model, *parameters), dtype=np.int64)

    def _require(self, bits: float) -> None:
        if self.bits < bits + WORD:
            raise ExhaustedError


def noise_words(count: int, seed: int, stream: int) -> Words:
    """Random words, the same on every machine and with every version: NumPy's generator Philox, counter-based."""
    raw = np.random.Philox(key=(seed % 2**64, stream)).random_raw(-(-count // 2))
    return np.ascontiguousarray(raw.astype("<u8")).view("<u4")[:count].astype(np.uint32)
