"""What every room may use: files, errors, argument types, randomness, portions; it knows nothing else here."""

from typing import TYPE_CHECKING

from lvm_lightning.support.argtypes import (
    ClosedUnitInterval,
    NonNegativeFloat,
    NonNegativeInt,
    OrUnlimited,
    PositiveFloat,
    PositiveInt,
)
from lvm_lightning.support.errors import PROGRAM, STOP, NonFiniteError, Stopped, UserError, debugging, one_line
from lvm_lightning.support.files import free_bytes, replacing, write_arrays
from lvm_lightning.support.lazily import offers

if TYPE_CHECKING:
    from lvm_lightning.support.randomness import Purpose, Rows, generator_for

__getattr__ = offers(__name__, dict.fromkeys(("Purpose", "Rows", "generator_for"), "randomness"))
