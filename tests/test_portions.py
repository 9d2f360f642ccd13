"""Portions and blocks: the same numbers and gradients as the whole batch, in less memory."""

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lvm_lightning.data.loader import Batch
from lvm_lightning.densities import InverseAutoregressiveFlow, VampPrior
from lvm_lightning.modules import GaussianVAE, PriorIWAE
from lvm_lightning.modules.base import LatentVariableModule
from lvm_lightning.networks import MLP
from lvm_lightning.support import portions
from lvm_lightning.support.portions import in_blocks, mean_in_portions
from tests.conftest import kept_for_backward
from tests.small import D, batch_of, images


def network(fan_in: int, fan_out: int) -> MLP:
    return MLP(fan_in, fan_out, hidden=(16,))


MODELS: dict[str, dict[str, Any]] = {
    "pathwise": {"inner_samples": 6},
    "sticking the landing": {"outer_samples": 6, "estimator": "sticking_the_landing"},
    "doubly reparameterised": {"outer_samples": 2, "inner_samples": 3, "estimator": "doubly_reparameterised"},
    "pooled": {"outer_samples": 2, "inner_samples": 3, "decoder_bound": "pooled"},
    "flow": {"inner_samples": 6, "posterior": InverseAutoregressiveFlow, "estimator": "doubly_reparameterised"},
    "VampPrior": {"inner_samples": 6, "prior": lambda K: VampPrior(K, 4)},
    "VampPrior of a flow": {
        "outer_samples": 2,
        "inner_samples": 3,
        "estimator": "doubly_reparameterised",
        "posterior": InverseAutoregressiveFlow,
        "prior": lambda K: VampPrior(K, 4),
    },
    "free bits and warm-up": {"outer_samples": 6, "free_bits": 0.3, "kl_warmup": 1.0},
}


def small(kind: str) -> LatentVariableModule:
    """In float64 and with the same weights each time."""
    torch.manual_seed(1)
    if kind == "prior":
        model: LatentVariableModule = PriorIWAE(
            inner_samples=6, share_points=False, decoder=network, data_dim=D, output_bias="zero"
        )
    else:
        model = GaussianVAE(latent_dim=2, data_dim=D, encoder=network, decoder=network, **MODELS[kind])
    model.training_steps = 10  # as a trainer would say: a warm-up of 10 steps
    return model.double()


def step(model: LatentVariableModule, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Loss, bound and gradient of a training step."""
    output = model.training_step(batch, 0)
    assert isinstance(output, dict)
    model.zero_grad()
    (3 * output["loss"]).backward()  # a factor, as a loss scaler would put before it
    return (
        output["loss"].detach(),
        output["bound"],
        {n: p.grad for n, p in model.named_parameters() if p.grad is not None},
    )


@pytest.mark.parametrize("block", [2**15, 10], ids=["", "in blocks"])
@pytest.mark.parametrize("kind", ["prior", *MODELS])
def test_portions_have_the_gradient_of_the_whole(kind: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = small(kind), batch_of(images(5).double())
    loss, bound, gradient = step(model, batch)
    monkeypatch.setitem(portions.WHOLE, "cpu", 2 * 2 * 6)  # portions of two images, and one of the fifth
    monkeypatch.setitem(portions.BLOCK, "cpu", block)
    calls: list[int] = []
    original = type(model)._objective  # type: ignore[attr-defined]

    def counted(self: LatentVariableModule, first: Tensor, *others: Tensor, **named: Any) -> tuple[Tensor, Tensor]:
        calls.append(len(first))
        pair: tuple[Tensor, Tensor] = original(self, first, *others, **named)
        return pair

    monkeypatch.setattr(type(model), "_objective", counted)
    found_loss, found_bound, found = step(model, batch)
    assert len(calls) == 3
    torch.testing.assert_close(found_loss, loss, rtol=1e-12, atol=0)
    torch.testing.assert_close(found_bound, bound, rtol=1e-12, atol=0)
    assert found.keys() == gradient.keys() == dict(model.named_parameters()).keys()
    for name in gradient:
        torch.testing.assert_close(found[name], gradient[name], rtol=1e-9, atol=1e-12, msg=name)


def test_portions_under_autocast_are_near_those_of_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = small("pathwise").float(), batch_of(images(5))
    loss, _, gradient = step(model, batch)
    monkeypatch.setitem(portions.WHOLE, "cpu", 2 * 2 * 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model.training_step(batch, 0)
    assert isinstance(output, dict)
    assert output["loss"].dtype == torch.float32
    torch.testing.assert_close(output["loss"].detach(), loss, rtol=0, atol=0.05)
    model.zero_grad()
    (3 * output["loss"]).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        assert (parameter.grad - gradient[name]).norm() < 0.05 * gradient[name].norm() + 1e-3, name


def test_a_frozen_parameter_gets_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(portions.WHOLE, "cpu", 4)
    layer = nn.Linear(3, 1).requires_grad_(False)
    layer.bias.requires_grad_()
    x = torch.randn(7, 3)
    mean, _ = mean_in_portions(lambda rows: (layer(rows).sum(-1),) * 2, [x], list(layer.parameters()), points=1)
    mean.backward()
    assert layer.weight.grad is None
    assert layer.bias.grad is not None
    torch.testing.assert_close(layer.bias.grad, torch.ones(1))


def test_a_parameter_that_is_not_reached_gets_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(portions.WHOLE, "cpu", 4)
    used, other = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    x, idle = torch.randn(7, 3, requires_grad=True), torch.randn(7, 3, requires_grad=True)
    mean, _ = mean_in_portions(lambda rows, _: ((rows * used).sum(-1),) * 2, [x, idle], [used, other], points=1)
    mean.backward()
    torch.testing.assert_close(used.grad, x.detach().mean(0))
    assert other.grad is None
    assert idle.grad is not None
    assert not idle.grad.any()


@pytest.mark.parametrize("limits", [{"BLOCK": 10}, {"PIECE": 10}, {"PIECE": 1}, {"BLOCK": 20, "PIECE": 5}], ids=str)
@pytest.mark.parametrize("shared", [True, False])
def test_blocks_and_pieces_are_the_same_numbers_and_gradients(
    shared: bool, limits: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small("prior")
    x, z = images(5).double(), torch.randn(2, 7, 1 if shared else 5, 2, dtype=torch.float64)
    log_lik = model.model.log_likelihood(x, z)
    whole = torch.autograd.grad(log_lik.logsumexp(1).sum(), list(model.parameters()))
    for limit, points in limits.items():
        monkeypatch.setitem(getattr(portions, limit), "cpu", points)
    blocked = model.model.log_likelihood(x, z)
    torch.testing.assert_close(blocked, log_lik, rtol=1e-12, atol=0)
    for found, expected in zip(
        torch.autograd.grad(blocked.logsumexp(1).sum(), list(model.parameters())), whole, strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_blocks_keep_no_activations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(portions.BLOCK, "cpu", 10)
    decoder, z = small("prior").model.decoder, torch.randn(40, 1, 2, dtype=torch.float64)
    with kept_for_backward() as kept:
        in_blocks(lambda part: decoder(part).sum(-1), z)
    assert max(kept, default=0) <= 40 * 2  # the points themselves, and no layer's output


LARGE_STEPS = {
    "N = 16,384 shared points": ("PriorIWAE(inner_samples=16384)", 256),
    "S = 5,000 training samples": (
        "GaussianVAE(inner_samples=5000, encoder=net, decoder=net)",
        100,
    ),
}


@pytest.mark.parametrize("name", LARGE_STEPS)
def test_large_steps_fit_in_three_gigabytes(name: str) -> None:
    model, size = LARGE_STEPS[name]
    script = f"""
import re, resource, sys
from pathlib import Path
import torch
from lvm_lightning.data.loader import Batch
from lvm_lightning.modules import GaussianVAE, PriorIWAE
from lvm_lightning.networks import MLP
net = lambda i, o: MLP(i, o, hidden=(200, 200), activation="Tanh")
model = {model}
x = torch.randint(2, ({size}, 784), generator=torch.Generator().manual_seed(1)).float()
output = model.training_step(Batch.of(x), 0)
output["loss"].backward()
assert all(p.grad.isfinite().all() for p in model.parameters())
status = Path("/proc/self/status")
if status.exists():  # getrusage would count what the process was forked from
    print(1024 * int(re.search(r"VmHWM:\\s+(\\d+)", status.read_text())[1]))
else:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=300)
    assert 5e8 < int(done.stdout) < 3e9
