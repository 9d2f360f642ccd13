"""The naive estimate of p(x) and its log-space twin."""

import math
from pathlib import Path

import torch

from lvm_lightning.studies.log_space import LogSpace, estimates


def test_both_estimates_agree_until_the_naive_one_underflows() -> None:
    logits, x = torch.randn(16, 784), torch.randint(2, (784,)).float()
    found = estimates(logits, x)
    alive = found.naive > 1e-30
    assert 20 < int(alive.sum()) < 300
    torch.testing.assert_close(found.naive[alive].log(), found.log_space[alive], atol=1e-3, rtol=1e-4)
    assert found.naive[-1] == 0
    exact = torch.distributions.Bernoulli(logits=logits.double()).log_prob(x.double()).sum(-1).logsumexp(0)
    torch.testing.assert_close(found.log_space[-1].double(), exact - math.log(16), rtol=1e-5, atol=0)


def test_the_lesson_prints_the_underflow_and_leaves_the_random_state_alone(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    account = LogSpace(tmp_path, samples=8).run()
    assert torch.equal(before, torch.get_rng_state())
    assert "0.8^784 in float32: 0; 784 log 0.8 = -174.94 nats" in account
    assert "(0 from " in account
    assert (tmp_path / "log_space.png").read_bytes().startswith(b"\x89PNG")
    assert LogSpace(tmp_path, samples=8).run() == account
