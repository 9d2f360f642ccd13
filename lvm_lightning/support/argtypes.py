"""Argument types that the command line enforces: jsonargparse's restricted numbers.

A type checker sees the number that they restrict, because a restricted type is made at run time. So does whoever gets
the value: a number of a restricted type could be written neither to a config, once another class takes it over for
an argument of its own that is less strict, nor to a checkpoint that is read without running code.
"""

from typing import TYPE_CHECKING, Any

RULES: dict[Any, str] = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
"""What a type allows, in words."""

if TYPE_CHECKING:
    PositiveInt = int
    NonNegativeInt = int
    ClosedUnitInterval = float
    PositiveFloat = float
    NonNegativeFloat = float
    Repeats = int
    OrUnlimited = int
else:
    from functools import partial

    from jsonargparse.typing import (
        ClosedUnitInterval,
        NonNegativeFloat,
        NonNegativeInt,
        PositiveFloat,
        PositiveInt,
        register_type,
        restricted_number_type,
    )

    # A spread needs two of them; 0 is none.
    Repeats = restricted_number_type("Repeats", int, [("==", 0), (">=", 2)], join="or")
    OrUnlimited = restricted_number_type("OrUnlimited", int, [("==", -1), (">=", 0)], join="or")

    def _plain(kind: type, value: object) -> float:
        """The value as a plain number, once it is one that the type allows."""
        return (int if issubclass(kind, int) else float)(kind(value))

    _RESTRICTED = {
        PositiveInt: "a whole number above 0",
        NonNegativeInt: "a whole number from 0 on",
        Repeats: "0 or a whole number from 2 on",
        OrUnlimited: "-1 or a whole number from 0 on",
        ClosedUnitInterval: "a number from 0 to 1",
        PositiveFloat: "a number above 0",
        NonNegativeFloat: "a number from 0 on",
    }
    RULES |= _RESTRICTED
    for _kind in _RESTRICTED:
        register_type(_kind, serializer=partial(_plain, _kind), deserializer=partial(_plain, _kind))
