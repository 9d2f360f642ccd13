"""A measurement that carries its label."""

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lvm_lightning.evaluation.quantity import Kind, Quantity

LOG_P, NATS = "unit of log p(x)", "unit of a difference"
"""Units that only the data say: nats for each image or for one data set, and of a density also the scale of x."""


@dataclasses.dataclass(frozen=True)
class Measured:
    """What an evaluator has found of each example.

    Attributes:
        name: what it is, as it is printed.
        values: a number for each example ``(B,)``, or a vector ``(B, K)`` from which others derive what is printed.
        kind: how the values stand to what they name.
        samples: latent points that each value took.
        unit: :data:`LOG_P`, :data:`NATS`, or any other in words.
        images: how many examples the values are about, where that is not their number.
        constant: whether it is one number ``(1,)`` for all examples, without an error.
    """

    name: str
    values: Tensor
    kind: Kind
    samples: int
    unit: str = LOG_P
    images: int | None = None
    constant: bool = False

    def quantity(self, split: str, units: Mapping[str, str], images: int | None = None) -> Quantity:
        """The mean over the examples with its standard error; over repeats where ``images`` says how many they are."""
        unit, about = units.get(self.unit, self.unit), self.images or images
        if self.constant:
            return Quantity(self.name, float(self.values), 0.0, unit, self.kind, split, self.samples, about or 1)
        mean = Quantity.mean_of(self.name, self.values, kind=self.kind, split=split, samples=self.samples, unit=unit)
        return dataclasses.replace(mean, images=about or mean.images)

    def with_values(self, values: Tensor) -> "Measured":
        """The same label on other values."""
        return dataclasses.replace(self, values=values)

    @classmethod
    def joined(cls, parts: "Sequence[Measured]") -> "Measured":
        """The same measurement of the examples of all parts."""
        if len(parts) == 1 or parts[0].constant:
            return parts[0]
        return parts[0].with_values(torch.cat([part.values for part in parts]))
