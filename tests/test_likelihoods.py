"""The Bernoulli likelihood: normalised, the same for shared and own points, and in float32 under autocast."""

import itertools

import pytest
import torch

from lvm_lightning.likelihoods import Bernoulli

BERNOULLI = Bernoulli()


def test_probabilities_of_all_images_sum_to_one() -> None:
    logits = 3 * torch.randn(5, 1, 4, dtype=torch.float64)
    every_x = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4)), dtype=torch.float64)
    total = BERNOULLI.log_prob(logits, every_x).exp().sum(-1)
    torch.testing.assert_close(total, torch.ones(5, dtype=torch.float64), atol=1e-12, rtol=0)


def test_agrees_with_torch_distributions() -> None:
    logits, x = 3 * torch.randn(6, 10, 20), torch.randint(2, (10, 20)).float()
    oracle = torch.distributions.Bernoulli(logits=logits.double()).log_prob(x.double()).sum(-1)
    torch.testing.assert_close(BERNOULLI.log_prob(logits, x).double(), oracle, atol=1e-4, rtol=0)


@pytest.mark.parametrize("samples", [(6,), (2, 3)])
def test_shared_points_are_the_same_numbers(samples: tuple[int, ...]) -> None:
    logits, x = torch.randn(*samples, 1, 20, dtype=torch.float64), torch.randint(2, (10, 20)).double()
    own = BERNOULLI.log_prob(logits.expand(*samples, 10, 20), x)
    torch.testing.assert_close(BERNOULLI.log_prob(logits, x), own, atol=1e-12, rtol=0)


@pytest.mark.parametrize("points", [1, 10])
def test_stays_in_float32_under_autocast(points: int) -> None:
    logits, x = torch.randn(6, points, 784).bfloat16(), torch.randint(2, (10, 784)).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        log_prob = BERNOULLI.log_prob(logits, x)
    oracle = BERNOULLI.log_prob(logits.double(), x.double())
    assert log_prob.dtype == torch.float32
    torch.testing.assert_close(log_prob.double(), oracle, atol=2e-3, rtol=0)


@pytest.mark.parametrize("points", [1, 2])
def test_extreme_logits_stay_finite(points: int) -> None:
    logits = torch.tensor([1e4, -1e4]).expand(3, points, 2)
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    log_prob = BERNOULLI.log_prob(logits, x)
    torch.testing.assert_close(log_prob, torch.tensor([0.0, -2e4]).expand(3, 2))


def test_samples_have_the_bernoulli_means() -> None:
    logits = torch.tensor([-2.0, 0.0, 3.0])
    x = BERNOULLI.sample(logits.expand(40_000, 3), torch.Generator().manual_seed(1))
    mean = BERNOULLI.mean(logits)
    assert set(x.unique().tolist()) == {0.0, 1.0}
    assert ((x.mean(0) - mean).abs() < 3 * (mean * (1 - mean) / 40_000).sqrt()).all()
