"""Argument types that the command line enforces: jsonargparse's restricted numbers.

A type checker sees the number that they restrict, because a restricted type is made at run time.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    PositiveInt = int
    NonNegativeInt = int
    ClosedUnitInterval = float
else:
    from jsonargparse.typing import ClosedUnitInterval, NonNegativeInt, PositiveInt

__all__ = ["ClosedUnitInterval", "NonNegativeInt", "PositiveInt"]
