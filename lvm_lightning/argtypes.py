"""Argument types that the command line enforces: jsonargparse's restricted numbers.

A type checker sees the number that they restrict, because a restricted type is made at run time.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    PositiveInt = int
    NonNegativeInt = int
    ClosedUnitInterval = float
    PositiveFloat = float
    NonNegativeFloat = float
else:
    from jsonargparse.typing import ClosedUnitInterval, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

__all__ = ["ClosedUnitInterval", "NonNegativeFloat", "NonNegativeInt", "PositiveFloat", "PositiveInt"]
