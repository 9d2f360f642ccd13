"""The latent-variable model as a plain object: its importance weights written out by hand, its samples, its blocks."""

import itertools
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli as TorchBernoulli
from torch.distributions import Normal

from lvm_lightning.densities import (
    Bernoulli,
    ExponentialPrior,
    FlowPrior,
    Gaussian,
    GaussianPosterior,
    InverseAutoregressiveFlow,
    Posterior,
    Prior,
    PriorProposal,
    StandardNormal,
)
from lvm_lightning.model import LatentVariableModel
from lvm_lightning.networks import MLP
from lvm_lightning.support.randomness import Rows
from tests.conftest import assert_within
from tests.small import D, images

K, B, S = 2, 6, 8


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small_model(prior: Prior | None = None) -> LatentVariableModel:  # in float64
    return LatentVariableModel(prior or StandardNormal(K), MLP(K, D, hidden=[8]), Bernoulli()).double()


def encoder_of(head: Posterior) -> nn.Sequential:
    return nn.Sequential(MLP(D, head.features, hidden=[8]), head).double()


def by_hand(model: LatentVariableModel, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """log p(x|z) and log p(z) of torch's distributions, with a standard normal prior."""
    log_lik = TorchBernoulli(logits=model.decoder(z), validate_args=False).log_prob(x).sum(-1)
    return log_lik, Normal(0.0, 1.0).log_prob(z).sum(-1)


def test_the_weights_under_an_encoder_are_those_of_its_densities() -> None:
    model, x = small_model(), images(B).double()
    q = encoder_of(GaussianPosterior(K))(x)
    log_w = model.log_weights(x, q, S, seeded())
    z = q.mean + q.log_sigma.exp() * torch.randn(S, B, K, generator=seeded()).double()
    log_lik, log_prior = by_hand(model, x, z)
    log_q = Normal(q.mean, q.log_sigma.exp()).log_prob(z).sum(-1)
    torch.testing.assert_close(log_w, log_lik + log_prior - log_q)
    torch.testing.assert_close(tuple(model.terms(x, q, S, seeded())), (log_lik, log_prior, log_q))
    torch.testing.assert_close(model.log_joint(x, z), (log_lik, log_prior))


@pytest.mark.parametrize("samples", [S, 1024])
def test_the_weights_under_the_prior_are_its_likelihoods(samples: int) -> None:
    model, x = small_model(), images(B).double()
    q = PriorProposal(model.prior, x)
    (drawn,) = q.draws(samples, Rows(0, B), seeded(), size=2**20)
    assert drawn.z.shape == (samples, B if samples == S else 1, K)
    log_lik, _ = by_hand(model, x, drawn.z)
    torch.testing.assert_close(model.log_weights(x, q, samples, seeded()), log_lik)


@pytest.mark.parametrize("prior", [StandardNormal(K), FlowPrior(K, hidden=(8,))], ids=["normal", "flow"])
@pytest.mark.parametrize("samples", [S, 1024])
def test_under_the_prior_the_bracket_is_exactly_zero(prior: Prior, samples: int) -> None:
    model, x = small_model(prior), images(B).double()
    terms = model.terms(x, PriorProposal(model.prior, x), samples, seeded())
    assert (terms.log_prior - terms.log_q == 0).all()
    assert torch.equal(terms.log_w, terms.log_lik)


@pytest.mark.parametrize("samples", [S, 1024])
@pytest.mark.parametrize("cuts", [[0, 60, 120], [0, 30, 70, 120, 120]])
def test_processes_draw_their_rows_of_the_whole_batch(samples: int, cuts: list[int]) -> None:
    """Of 1,024 samples or more, fifty neighbouring rows share each; the last process may have no row."""
    model, x = small_model(), images(1).double().expand(120, D)

    def weights(start: int, stop: int) -> Tensor:
        here = x[start:stop]
        return model.log_weights(here, PriorProposal(model.prior, here), samples, seeded(), Rows(start, 120))

    whole = weights(0, 120)
    parts = torch.cat([weights(*pair) for pair in itertools.pairwise(cuts)], -1)
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=0)
    groups = whole[0].unique_consecutive(return_counts=True)[1].tolist()
    assert groups == ([50, 50, 20] if samples == 1024 else [1] * 120)


@pytest.mark.parametrize("samples", [64, 1024])
@pytest.mark.parametrize("head", [None, GaussianPosterior(K), InverseAutoregressiveFlow(K)], ids=["prior", "q", "flow"])
def test_how_many_points_are_decoded_at_a_time_changes_nothing_but_rounding(
    head: Posterior | None, samples: int
) -> None:
    model, x = small_model(), images(B).double()
    q = PriorProposal(model.prior, x) if head is None else encoder_of(head)(x)
    found = []
    for model.at_a_time in (2**20, 8 * B, 16 * B):  # torch draws multiples of 16 normal numbers as one stream
        found.append(model.log_weights(x, q, samples, seeded()))
    torch.testing.assert_close(found, [found[0]] * 3, rtol=1e-12, atol=1e-12)


def test_samples_have_the_models_moments() -> None:
    """x − E[x|z] has mean 0 and the variance p (1 − p) of a pixel that is on with probability p."""
    with torch.no_grad():
        x, mean, z = small_model().sample(20_000, seeded())
    assert (x.shape, mean.shape, z.shape) == ((20_000, D), (20_000, D), (20_000, K))
    for values, expected in [(z, 0.0), (z.square(), 1.0), (x - mean, 0.0), ((x - mean)[:, :1] * z, 0.0)]:
        assert_within(values, expected, errors=4)
    assert_within((x - mean).square() - mean * (1 - mean), 0.0, errors=4)


def test_what_is_simulated_comes_from_the_z_that_is_given_with_it() -> None:
    """Linear: E[x zᵀ] = W. Of the toy model, each of five observations is N(z, σ²) with the same z."""
    W = torch.randn(K, D, dtype=torch.float64)
    linear = LatentVariableModel(StandardNormal(K), nn.Linear(K, D, bias=False), Gaussian(0.5)).double()
    linear.decoder.weight = nn.Parameter(W.T.clone())
    x, z = linear.simulate(torch.zeros(20_000, D), seeded())
    assert_within((x.unsqueeze(1) * z.unsqueeze(2)).detach(), W, errors=4)
    assert_within((x - z @ W).square().detach(), 0.25, errors=4)
    toy = LatentVariableModel(ExponentialPrior(2.0), nn.Identity(), Gaussian(0.5))
    x, z = toy.simulate(torch.zeros(20_000, 5), seeded())
    assert (x.shape, z.shape) == ((20_000, 5), (20_000, 1))
    assert_within(z, 0.5, errors=4)
    assert_within(x - z, 0.0, errors=4)
    assert_within((x - z)[:, :1] * (x - z)[:, 1:], 0.0, errors=4)  # one z, and noise of their own


def test_a_notebook_needs_no_lightning() -> None:
    script = """
import sys, torch
from lvm_lightning.densities import Bernoulli, PriorProposal, StandardNormal
from lvm_lightning.model import LatentVariableModel
model = LatentVariableModel(StandardNormal(2), torch.nn.Linear(2, 12), Bernoulli())
x = torch.ones(3, 12)
print(model.log_weights(x, PriorProposal(model.prior, x), 5, torch.Generator()).shape, "lightning" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "torch.Size([5, 3]) False"
