"""Where values lie: subsets, values outside, and how a message names them."""

import math

import pytest
import torch

from lvm_lightning.support.values import BINARY, REALS, UNIT, Support

WIDE = Support(-1.0, 1.0)
GROWING = [BINARY, UNIT, WIDE, REALS]


@pytest.mark.parametrize("larger", range(4))
@pytest.mark.parametrize("smaller", range(4))
def test_each_support_holds_itself_and_the_smaller_ones(larger: int, smaller: int) -> None:
    assert GROWING[larger].holds(GROWING[smaller]) == (smaller <= larger)


def test_intervals_that_overlap_do_not_hold_each_other() -> None:
    assert not UNIT.holds(Support(0.5, 1.5))
    assert not Support(0.5, 1.5).holds(UNIT)


@pytest.mark.parametrize(
    ("support", "outside"),
    [(BINARY, [-1.0, 0.5]), (UNIT, [-1.0]), (WIDE, []), (REALS, [])],
    ids=str,
)
def test_values_outside_are_found(support: Support, outside: list[float]) -> None:
    x = torch.tensor([[0.0, 1.0, -1.0], [0.5, math.nan, math.inf]])
    found = support.outside(x)
    assert found[found.isfinite()].tolist() == outside
    assert int((~found.isfinite()).sum()) == 2


def test_bytes_are_values_too() -> None:
    assert BINARY.outside(torch.tensor([0, 1, 255], dtype=torch.uint8)).tolist() == [255]


def test_a_support_is_named_as_on_paper() -> None:
    assert [str(s) for s in GROWING] == ["{0, 1}", "[0, 1]", "[-1, 1]", "the real line"]
