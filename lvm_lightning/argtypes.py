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
    Repeats = int
    OrUnlimited = int
else:
    from jsonargparse.typing import (
        ClosedUnitInterval,
        NonNegativeFloat,
        NonNegativeInt,
        PositiveFloat,
        PositiveInt,
        restricted_number_type,
    )

    # A spread needs two of them; 0 is none.
    Repeats = restricted_number_type("Repeats", int, [("==", 0), (">=", 2)], join="or")
    OrUnlimited = restricted_number_type("OrUnlimited", int, [("==", -1), (">=", 0)], join="or")

__all__ = [
    "ClosedUnitInterval",
    "NonNegativeFloat",
    "NonNegativeInt",
    "OrUnlimited",
    "PositiveFloat",
    "PositiveInt",
    "Repeats",
]
