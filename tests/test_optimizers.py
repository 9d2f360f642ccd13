"""MuonWithAdam against torch's Muon and Adam, each on its own parameters."""

import copy
import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lvm_lightning.modules import optimizing
from lvm_lightning.networks import MLP, MuonWithAdam, networks


def network() -> nn.Module:
    torch.manual_seed(0)
    return MLP(12, 5, hidden=[8, 8], activation="Tanh")


def climb(model: nn.Module, optimizers: list[torch.optim.Optimizer], steps: range) -> None:
    schedules = [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9) for optimizer in optimizers]
    for step in steps:
        x = torch.randn(16, 12, generator=torch.Generator().manual_seed(step))
        model.zero_grad()
        model(x).square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()
        for schedule in schedules:
            schedule.step()


def parameters(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def pretend(bfloat16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Say that the processor has products of bfloat16 matrices, or none."""
    monkeypatch.setattr(networks, "has_bfloat16", lambda device: bfloat16)


def test_matrices_move_as_under_muon_and_the_rest_as_under_adam(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(True, monkeypatch)
    ours, theirs = network(), network()
    matrices, others = [p for p in theirs.parameters() if p.ndim == 2], [p for p in theirs.parameters() if p.ndim != 2]
    muon = torch.optim.Muon(matrices, 0.01, weight_decay=0.3, adjust_lr_fn="match_rms_adamw")
    climb(theirs, [muon, torch.optim.Adam(others, 0.01)], range(10))
    climb(ours, [MuonWithAdam(ours.parameters(), lr=0.01, weight_decay=0.3)], range(10))
    for got, expected in zip(parameters(ours), parameters(theirs), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-7)


COEFFICIENTS = torch.optim.Muon([nn.Parameter(torch.eye(2))]).defaults["ns_coefficients"]


def orthogonalised(momentum: Tensor) -> Tensor:
    """U p(p(p(p(p(S/‖S‖))))) Vᵀ in float64, p(s) = a s + b s³ + c s⁵: what five iterations make of U S Vᵀ."""
    u, s, v = torch.linalg.svd(momentum.double(), full_matrices=False)
    a, b, c = COEFFICIENTS
    s = s / s.norm()
    for _ in range(5):
        s = a * s + b * s**3 + c * s**5
    product: Tensor = u @ s.diag() @ v
    return product


@pytest.mark.parametrize(("bfloat16", "error"), [(True, 0.1), (False, 1e-5)])
def test_without_bfloat16_products_the_iterations_are_float32s(
    bfloat16: bool, error: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With them they are off by some hundredths: so the other half of the test could fail."""
    pretend(bfloat16, monkeypatch)
    matrix, bias = nn.Parameter(torch.zeros(20, 30)), nn.Parameter(torch.zeros(3))
    matrix.grad, bias.grad = torch.randn(20, 30, generator=torch.Generator().manual_seed(0)), torch.zeros(3)
    MuonWithAdam([matrix, bias], lr=1.0).step()
    got = -matrix.detach().double() / (0.2 * math.sqrt(30))
    distance = (got - orthogonalised(matrix.grad)).abs().max()
    assert distance < error
    assert (distance > 1e-3) == bfloat16


def test_what_a_closure_computes_keeps_its_type(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(False, monkeypatch)
    model, found = network(), list[torch.dtype]()

    def closure() -> float:
        model.zero_grad()
        loss = model(torch.ones(2, 12)).to(dtype=torch.bfloat16).square().mean()
        found.append(loss.dtype)
        loss.backward()
        return float(loss.detach())

    MuonWithAdam(model.parameters()).step(closure)
    assert found == [torch.bfloat16]


def test_an_update_of_a_matrix_is_nearly_orthogonal_with_adams_root_mean_square() -> None:
    model = network()
    before = parameters(model)
    climb(model, [MuonWithAdam(model.parameters(), lr=0.01)], range(1))
    for old, new in zip(before, parameters(model), strict=True):
        if old.ndim == 2:
            update = (new - old) / (0.2 * 0.01 * math.sqrt(max(old.shape)))
            assert torch.linalg.svdvals(update).max() < 1.3  # the polynomial's largest value; tiny ones stay below 1
            assert update.square().mean().sqrt() == pytest.approx(1 / math.sqrt(max(old.shape)), rel=0.3)


def test_a_loaded_state_goes_on_bit_for_bit() -> None:
    whole = network()
    optimizer = MuonWithAdam(whole.parameters())
    climb(whole, [optimizer], range(5))
    halted, state = copy.deepcopy(whole), copy.deepcopy(optimizer.state_dict())
    other = MuonWithAdam(halted.parameters(), lr=0.5)
    other.load_state_dict(state)
    for model, each in ((whole, optimizer), (halted, other)):
        climb(model, [each], range(5, 10))
    assert all(torch.equal(a, b) for a, b in zip(parameters(whole), parameters(halted), strict=True))


def test_a_closure_is_called_once_with_gradients() -> None:
    model = network()
    calls: list[float] = []

    def closure() -> float:
        model.zero_grad()
        loss = model(torch.ones(2, 12)).square().mean()
        loss.backward()
        calls.append(float(loss.detach()))
        return calls[-1]

    assert MuonWithAdam(model.parameters()).step(closure) == calls[0]
    assert len(calls) == 1


def test_without_a_matrix_there_is_one_line() -> None:
    with pytest.raises(ValueError, match=r"needs weight matrices and other parameters, got 0 and 1; use torch.optim"):
        MuonWithAdam([nn.Parameter(torch.zeros(3))])


@pytest.mark.parametrize("optimizer_of", [torch.optim.Adam, MuonWithAdam])
@pytest.mark.parametrize("peak", [0.01, 0.02])
@pytest.mark.parametrize("length", [10, 12])
def test_a_line_tells_where_a_cycle_has_another_rate_or_length(
    optimizer_of: Any, peak: float, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(optimizing, "rank_zero_info", told.append)
    cycle = partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=peak, total_steps=length, cycle_momentum=False)
    optimizer, schedule = optimizing.make_optimizer(network().parameters(), partial(optimizer_of, lr=0.01), cycle, 10)
    assert schedule is not None
    optimizing.tell_of_schedule(optimizer, schedule, 10)
    expected = ["OneCycleLR's max_lr of 0.02 takes the place of optimizer.lr, 0.01"] if peak == 0.02 else []
    expected += ["the training ends after 10 of the 12 steps of OneCycleLR"] if length == 12 else []
    assert [line.removeprefix("note: lr_scheduler: ").split(";")[0].split(", before")[0] for line in told] == expected


def test_nothing_is_told_of_other_schedules(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(optimizing, "rank_zero_info", told.append)
    optimizer = torch.optim.Adam(network().parameters(), lr=0.01)
    optimizing.tell_of_schedule(optimizer, torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9), float("inf"))
    assert told == []
