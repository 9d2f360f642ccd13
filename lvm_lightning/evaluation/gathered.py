"""Measurements of all batches and processes, by their names."""

from collections.abc import Sequence

import torch
from torchmetrics.aggregation import CatMetric

from lvm_lightning.evaluation import Measured


class Gathered:
    """Measurements that batch after batch brings; every process must bring the same names in the same order."""

    def __init__(self) -> None:
        self._labels: dict[str, Measured] = {}
        self._values: dict[str, CatMetric] = {}

    def add(self, found: Sequence[Measured], device: torch.device | str = "cpu") -> None:
        """Take in what was measured of a batch."""
        for measured in found:
            if measured.name not in self._labels:
                self._labels[measured.name] = measured
                self._values[measured.name] = CatMetric(nan_strategy="error").to(device)
            if not measured.constant:
                self._values[measured.name].update(measured.values.double().to(device))

    def all(self) -> dict[str, Measured]:
        """The measurements of all examples, by name."""
        return {name: self._joined(label) for name, label in self._labels.items()}

    def _joined(self, label: Measured) -> Measured:
        return label if label.constant else label.with_values(torch.as_tensor(self._values[label.name].compute()))
