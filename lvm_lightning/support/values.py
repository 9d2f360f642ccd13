"""Where values lie: what a likelihood is defined on, and what a data set holds."""

import math
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Support:
    """The closed interval [low, high], or its two ends alone.

    Attributes:
        low: least value; −∞ is allowed.
        high: largest value; ∞ is allowed.
        binary: whether only the two ends are meant.
    """

    low: float
    high: float
    binary: bool = False

    def holds(self, other: "Support") -> bool:
        """Whether the other is a subset: {0, 1} ⊂ [0, 1] ⊂ the real line."""
        return self == other or (not self.binary and self.low <= other.low and other.high <= self.high)

    def outside(self, x: Tensor) -> Tensor:
        """The values of x that do not lie here, ``(*) → (n,)``; a number that is not finite never does."""
        inside = (x == self.low) | (x == self.high) if self.binary else (x >= self.low) & (x <= self.high)
        return x[~(inside & x.isfinite())]

    def __str__(self) -> str:
        """{0, 1}, [-1, 1] or the real line."""
        if (self.low, self.high) == (-math.inf, math.inf):
            return "the real line"
        ends = f"{self.low:g}, {self.high:g}"
        return f"{{{ends}}}" if self.binary else f"[{ends}]"


BINARY = Support(0.0, 1.0, binary=True)
UNIT = Support(0.0, 1.0)
REALS = Support(-math.inf, math.inf)
