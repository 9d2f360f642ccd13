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
    from jsonargparse.typing import register_type, restricted_number_type

    def _restricted(name: str, kind: type, rule: Any, words: str, join: str = "and") -> type:
        """jsonargparse's type of that name and rule, whose values are plain numbers once it has allowed them."""
        made = restricted_number_type(name, kind, rule, join=join)

        def plain(value: object) -> float:
            number = kind(made(value))
            if kind is int and number >= 2**63:  # torch's whole numbers have 64 bits
                raise ValueError(f"must be below 2**63, got {number}")
            return number

        register_type(made, serializer=plain, deserializer=plain)
        RULES[made] = words
        return made

    PositiveInt = _restricted("PositiveInt", int, (">", 0), "a whole number above 0")
    NonNegativeInt = _restricted("NonNegativeInt", int, (">=", 0), "a whole number from 0 on")
    # A spread needs two of them; 0 is none.
    Repeats = _restricted("Repeats", int, [("==", 0), (">=", 2)], "0 or a whole number from 2 on", join="or")
    OrUnlimited = _restricted("OrUnlimited", int, [("==", -1), (">=", 0)], "-1 or a whole number from 0 on", join="or")
    ClosedUnitInterval = _restricted("ClosedUnitInterval", float, [(">=", 0), ("<=", 1)], "a number from 0 to 1")
    PositiveFloat = _restricted("PositiveFloat", float, (">", 0), "a number above 0")
    NonNegativeFloat = _restricted("NonNegativeFloat", float, (">=", 0), "a number from 0 on")
