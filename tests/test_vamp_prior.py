"""The VampPrior: a density whose samples it describes, made of the encoder's proposals and of trained images."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from lvm_lightning.densities import GaussianPosterior, InverseAutoregressiveFlow, Posterior, Proposal, VampPrior
from lvm_lightning.modules import GaussianVAE
from lvm_lightning.support import portions
from tests.conftest import assert_within
from tests.small import D

M = 3


def vamp(K: int, head: type[Posterior] = GaussianPosterior) -> tuple[VampPrior, nn.Module]:
    posterior = head(K)
    encoder, prior = nn.Linear(D, posterior.features).double(), VampPrior(K, M)

    def encode(x: Tensor) -> Proposal:
        q: Proposal = posterior(encoder(x))
        return q

    prior.attach(encode, D)
    posterior.double()
    return prior.double(), encoder


@pytest.mark.parametrize("head", [GaussianPosterior, InverseAutoregressiveFlow])
@pytest.mark.parametrize("K", [1, 2])
def test_it_integrates_to_one_and_its_samples_have_its_density(K: int, head: type[Posterior]) -> None:
    prior = vamp(K, head)[0]
    axis = torch.linspace(-12, 12, 241 if K == 2 else 4001, dtype=torch.float64)
    grid = torch.cartesian_prod(*[axis] * K).view(-1, K)
    with torch.no_grad():
        log_density = prior.log_prob(grid)
        density = log_density.exp() * (axis[1] - axis[0]) ** K
        z = prior.sample(20_000, torch.Generator().manual_seed(1))
        assert z.shape == (20_000, K)
        assert float(density.sum()) == pytest.approx(1, abs=1e-6)
        assert_within(z, density @ grid, errors=4)
        assert_within(z.square(), density @ grid.square(), errors=4)
        assert_within(prior.log_prob(z), density @ log_density, errors=4)


@pytest.mark.parametrize("block", [2**15, 2 * M], ids=["whole", "in blocks"])
def test_it_is_the_mean_of_the_proposals_with_gradients_for_all_of_them(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(portions.BLOCK, "cpu", block)
    prior, encoder = vamp(2)
    z = torch.randn(4, 5, 2, dtype=torch.float64, requires_grad=True)
    mean, log_sigma = encoder(prior.inputs).chunk(2, dim=-1)
    each = torch.distributions.Normal(mean, log_sigma.exp()).log_prob(z.unsqueeze(-2)).sum(-1)
    expected = each.logsumexp(-1) - math.log(M)
    torch.testing.assert_close(prior.log_prob(z), expected)
    leaves = [z, prior.inputs, *encoder.parameters()]
    wanted = torch.autograd.grad(expected.square().sum(), leaves)
    for found, oracle in zip(torch.autograd.grad(prior.log_prob(z).square().sum(), leaves), wanted, strict=True):
        torch.testing.assert_close(found, oracle)


def model() -> GaussianVAE:
    return GaussianVAE(latent_dim=2, data_dim=D, encoder=nn.Linear, decoder=nn.Linear, prior=lambda K: VampPrior(K, M))


def test_the_model_holds_its_encoder_once() -> None:
    names = [name for name in model().state_dict() if not name.startswith(("encoder.", "model.decoder."))]
    assert names == ["model.prior.inputs"]
    assert [name for name, _ in model().named_parameters()].count("model.prior.inputs") == 1


def test_a_copy_of_the_model_uses_its_own_encoder() -> None:
    one, z = model(), torch.randn(4, 2)
    other = copy.deepcopy(one)
    before = one.model.prior.log_prob(z)
    with torch.no_grad():
        for parameter in other.encoder.parameters():
            parameter.zero_()
    assert torch.equal(one.model.prior.log_prob(z), before)
    torch.testing.assert_close(other.model.prior.log_prob(z), -0.5 * (z.square().sum(-1) + 2 * math.log(2 * math.pi)))


def test_it_starts_from_training_examples() -> None:
    prior, x = vamp(2)[0], torch.rand(M, D)
    assert prior.examples == M
    prior.start_from(x)
    assert torch.equal(prior.inputs.detach(), x.double())
    assert prior.inputs.requires_grad


def test_what_it_lacks_is_told_in_one_line() -> None:
    with pytest.raises(RuntimeError, match=r"prior: a VampPrior needs the model's encoder, got none; call attach"):
        VampPrior(2).log_prob(torch.zeros(1, 2))
    with pytest.raises(ValueError, match=r"components: must be at most the 2 training examples, got 3; lower it"):
        vamp(2)[0].start_from(torch.rand(2, D))
