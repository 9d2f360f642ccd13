"""What evaluators measure arrives with its label, whoever asks, in whatever order, and with the unit the data say."""

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lvm_lightning.evaluation import NATS, Evaluator, Gathered, Given, Measured, measure
from lvm_lightning.evaluation.report import FinishedBatches
from lvm_lightning.evaluation.standard import ImportanceSampling, PosteriorMeans, TrainedBound
from lvm_lightning.modules import GaussianVAE
from lvm_lightning.modules.base import LatentVariableModule
from lvm_lightning.networks import MLP
from lvm_lightning.support.randomness import Purpose
from tests.small import D, batch_of, images


class Power(Evaluator):
    """Σ_d x_d^n: a number that anyone can check."""

    def __init__(self, power: int, rows: int | None = None, purpose: Purpose = "test") -> None:
        self.power, self.rows, self.purpose = power, rows, purpose

    def measure(self, given: Given) -> Iterator[Measured]:
        yield Measured(f"power {self.power}", given.batch.x.pow(self.power).sum(-1), "exact", self.power, "any")
        yield Measured(f"the number {self.power}", torch.tensor([self.power]), "exact", 0, "none", constant=True)


def network(fan_in: int, fan_out: int) -> MLP:
    return MLP(fan_in, fan_out, hidden=[8])


def vae(latent_dim: int = 2, **options: Any) -> GaussianVAE:
    return GaussianVAE(latent_dim, data_dim=D, encoder=network, decoder=network, **options)


def measured(evaluators: list[Evaluator], module: LatentVariableModule, x: Tensor) -> dict[str, Measured]:
    with torch.no_grad():
        found = measure(evaluators, module.model, module.propose, batch_of(x), module.noise, 0)
    assert len({m.name for m in found}) == len(found)
    return {m.name: m for m in found}


# Labels and values


def test_a_value_has_its_label_whatever_the_order_of_the_evaluators() -> None:
    x = 1 + torch.rand(7, D, generator=torch.Generator().manual_seed(0))
    evaluators: list[Evaluator] = [Power(1), Power(2, rows=3), Power(3, rows=3, purpose="fitted"), Power(4, rows=3)]
    for order in itertools.permutations(evaluators):
        found = measured(list(order), vae(), x)
        assert len(found) == 8
        for power in range(1, 5):
            torch.testing.assert_close(found[f"power {power}"].values, x.pow(power).sum(-1))
            assert found[f"power {power}"].samples == power
            assert found[f"the number {power}"].values.tolist() == [power]


def test_the_order_of_the_vaes_evaluators_changes_draws_alone() -> None:
    module, x = vae(inner_samples=4), images(300)
    evaluators = [ImportanceSampling(500), TrainedBound(module.objective), PosteriorMeans()]
    one, other = (measured(order, module, x) for order in (evaluators, evaluators[::-1]))
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert dataclasses.replace(value, values=other[name].values) == other[name]
    for name in ("ELBO", "E_q log p(x|z)", "KL(q(z|x) ‖ p(z))", "bound (J=1, N=4)"):
        difference = (one[name].values - other[name].values).double()
        assert abs(float(difference.mean())) < 4 * float(difference.std()) / 300**0.5, name
    assert torch.equal(one["E_q[z]"].values, other["E_q[z]"].values)


LABELLED = [
    Measured("log p(x) ≥ L_7", torch.tensor([1.5, -2.5]), "lower bound", 7),
    Measured("vectors", torch.arange(6, dtype=torch.float64).view(2, 3), "stochastic estimate", 3, NATS),
    Measured("one", torch.tensor([4.0]), "parameter", 0, "1/unit of x", images=9, constant=True),
]


def same(found: Measured, expected: Measured) -> bool:
    labels = dataclasses.replace(found, values=expected.values) == expected
    return labels and found.values.dtype == expected.values.dtype and torch.equal(found.values, expected.values)


def test_parts_are_joined_and_a_constant_stays_one() -> None:
    each, vectors, one = (Measured.joined([m, m, m.with_values(m.values[:1])]) for m in LABELLED)
    assert each.values.tolist() == [1.5, -2.5, 1.5, -2.5, 1.5]
    assert vectors.values.shape == (5, 3)
    assert same(one, LABELLED[2])
    assert same(Measured.joined(LABELLED[:1]), LABELLED[0])


def test_ragged_batches_are_gathered_in_float64_by_name() -> None:
    x, gathered = torch.randn(13, D), Gathered()
    for rows in x.split(5):
        gathered.add(list(measured([Power(1), Power(2)], vae(), rows).values()))
    found = gathered.all()
    assert [*found] == ["power 1", "the number 1", "power 2", "the number 2"]
    assert torch.equal(found["power 2"].values, x.square().sum(-1).double())
    assert found["the number 2"].values.tolist() == [2]
    mean, constant = (found[name].quantity("test", {"any": "apples"}) for name in ("power 2", "the number 2"))
    assert mean.value == pytest.approx(float(x.square().sum(-1).double().mean()))
    assert (mean.images, mean.unit, mean.kind, mean.samples) == (13, "apples", "exact", 2)
    assert (constant.value, constant.stderr, constant.images, constant.unit) == (2, 0, 1, "none")


def test_kept_measurements_are_recalled_with_all_of_their_labels(tmp_path: Path) -> None:
    FinishedBatches(tmp_path / "part", "key").keep("batch0", LABELLED)
    recalled = FinishedBatches(tmp_path / "part", "key").recall("batch0")
    assert recalled is not None
    assert all(same(*pair) for pair in zip(recalled, LABELLED, strict=True))
