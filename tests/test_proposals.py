"""Proposals and priors: densities that integrate to 1, log q of their own samples, and closed-form KL."""

from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from lvm_lightning.densities import (
    DiagonalGaussian,
    Exponential,
    ExponentialPrior,
    FlowPrior,
    GaussianPosterior,
    InverseAutoregressiveFlow,
    NoiseProposal,
    Posterior,
    Prior,
    StandardNormal,
)
from lvm_lightning.densities.priors import standard_normal_log_prob
from lvm_lightning.support.randomness import Rows
from tests.conftest import assert_within

B = 3


def heads(K: int) -> dict[str, Posterior]:
    torch.manual_seed(0)
    made: dict[str, Posterior] = {
        "exp": GaussianPosterior(K, "exp"),
        "softplus": GaussianPosterior(K, "softplus"),
        "flow": InverseAutoregressiveFlow(K, hidden=(16,)),
        "deep flow": InverseAutoregressiveFlow(K, depth=3, hidden=(8, 8), context=1, scale="exp"),
    }
    for head in made.values():
        head.double()
        for parameter in head.parameters():
            parameter.data.mul_(1.5)  # away from the identity
    return made


def proposal(name: str, K: int = 2, seed: int = 1) -> NoiseProposal:
    head = heads(K)[name]
    h = 0.5 * torch.randn(B, head.features, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    made: NoiseProposal = head(h)
    return made


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("K", [1, 2, 5])
@pytest.mark.parametrize("name", ["exp", "softplus", "flow", "deep flow"])
def test_the_density_of_a_sample_is_the_density_at_that_point(name: str, K: int) -> None:
    z, log_q = proposal(name, K).rsample(noise(4, 6, B, K))
    assert (z.shape, log_q.shape) == ((4, 6, B, K), (4, 6, B))
    torch.testing.assert_close(proposal(name, K).stopped_log_prob(z), log_q)


@pytest.mark.parametrize("name", ["exp", "softplus", "flow", "deep flow"])
def test_the_density_integrates_to_one(name: str) -> None:
    axis = torch.linspace(-12, 12, 601, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis).unsqueeze(1).expand(-1, B, -1)
    with torch.no_grad():
        total = proposal(name, seed=4).stopped_log_prob(grid).exp().sum(0) * (axis[1] - axis[0]) ** 2
    torch.testing.assert_close(total, torch.ones(B, dtype=torch.float64), atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", ["flow", "deep flow"])
def test_log_q_of_a_flow_is_the_change_of_variables(name: str) -> None:
    """Against the Jacobian of ε → z by automatic differentiation."""
    q, eps = proposal(name, 3), noise(1, B, 3)
    log_q = q.rsample(eps)[1]
    jacobian = torch.autograd.functional.jacobian(lambda e: q.rsample(e)[0], eps)
    for b in range(B):
        log_det = torch.linalg.slogdet(jacobian[0, b, :, 0, b])[1]
        torch.testing.assert_close(log_q[0, b], standard_normal_log_prob(eps[0, b]) - log_det)


@pytest.mark.parametrize("name", ["exp", "flow"])
def test_a_stopped_density_leaves_the_encoder_alone_and_moves_with_z(name: str) -> None:
    head = heads(3)[name]
    h = torch.randn(B, head.features, dtype=torch.float64, requires_grad=True)
    z = noise(2, B, 3).requires_grad_()
    head(h).stopped_log_prob(z).sum().backward()
    assert h.grad is None
    assert all(parameter.grad is None for parameter in head.parameters())
    assert z.grad is not None
    assert (z.grad != 0).all()


def test_the_gradient_of_a_stopped_flow_density_is_that_of_the_density() -> None:
    z = noise(1, B, 3).requires_grad_()
    q = proposal("flow", 3)
    (to_z,) = torch.autograd.grad(q.stopped_log_prob(z).sum(), z)
    step = 1e-6
    for k in range(3):
        shift = torch.zeros(3, dtype=torch.float64).index_fill(0, torch.tensor(k), step)
        difference = (q.stopped_log_prob(z + shift) - q.stopped_log_prob(z - shift)) / (2 * step)
        torch.testing.assert_close(to_z[..., k], difference.detach(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["exp", "softplus", "flow", "deep flow"])
def test_the_density_at_a_sample_has_the_samples_gradient(name: str) -> None:
    """Through z and through the density's own parameters; the flow's own included."""
    head = heads(2)[name]
    h = torch.randn(B, head.features, dtype=torch.float64, requires_grad=True)
    leaves = [h, *head.parameters()]
    z, log_q = head(h).rsample(noise(4, B, 2))
    expected = torch.autograd.grad(log_q.square().sum(), leaves, retain_graph=True)
    found = torch.autograd.grad(head(h).log_prob(z).square().sum(), leaves)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)


def test_the_exponentials_density_has_its_samples_gradient_too() -> None:
    log_rate = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    q = Exponential(log_rate, B)
    z, log_q = q.rsample(noise(4, B, 1))
    (expected,) = torch.autograd.grad(log_q.square().sum(), log_rate, retain_graph=True)
    (found,) = torch.autograd.grad(q.log_prob(z).square().sum(), log_rate)
    torch.testing.assert_close(found, expected)
    assert not q.detached().log_prob(z.detach()).requires_grad


@pytest.mark.parametrize("name", ["exp", "flow"])
def test_points_shared_by_the_batch_have_the_same_density(name: str) -> None:
    q, z = proposal(name), noise(4, 5, 1, 2)
    torch.testing.assert_close(q.log_prob(z), q.log_prob(z.expand(4, 5, B, 2)))


def test_shared_points_under_a_sharp_proposal_keep_their_digits() -> None:
    q = DiagonalGaussian(3 * torch.randn(7, 50), torch.full((7, 50), -7.0))
    z = (q.mean + q.log_sigma.exp() * torch.randn(7, 50)).unsqueeze(1)
    exact = DiagonalGaussian(q.mean.double(), q.log_sigma.double()).log_prob(z.double().expand(7, 7, 50))
    torch.testing.assert_close(q.log_prob(z).double(), exact, rtol=1e-6, atol=1e-3)


@pytest.mark.parametrize("name", ["exp", "flow"])
def test_a_proposal_held_fixed_is_the_same_density_and_stays_fixed(name: str) -> None:
    q, z = proposal(name), noise(4, B, 2)
    fixed = q.detached().detached()
    assert isinstance(fixed, NoiseProposal)
    assert torch.equal(fixed.log_prob(z), q.log_prob(z))
    assert torch.equal(fixed.rsample(z)[0], q.rsample(z)[0])
    assert not any(t.requires_grad for t in (*fixed.rsample(z), fixed.location, fixed.widened(2).log_prob(z)))


@pytest.mark.parametrize("name", ["exp", "flow"])
def test_a_process_samples_its_rows_of_the_global_batch(name: str) -> None:
    (drawn,) = proposal(name).draws(5, Rows(1, 7), torch.Generator().manual_seed(3), size=5 * 7)
    eps = torch.randn(5, 7, 2, generator=torch.Generator().manual_seed(3))[:, 1 : 1 + B].double()
    expected = proposal(name).rsample(eps)
    assert torch.equal(drawn.z, expected[0])
    assert torch.equal(drawn.log_q, expected[1])
    assert drawn.z.shape == (5, B, 2)


def test_the_exponential_draws_its_noise_in_float64() -> None:
    q = Exponential(torch.tensor(0.7, dtype=torch.float64), B)
    ((_, _, z, _),) = q.draws(5, Rows(0, B), torch.Generator().manual_seed(3), size=5 * B)
    eps = torch.randn(5, B, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    assert torch.equal(z, q.rsample(eps)[0])


@pytest.mark.parametrize("name", ["exp", "softplus"])
def test_the_closed_form_kl_is_the_mean_of_log_q_minus_log_p(name: str) -> None:
    q = proposal(name, 4)
    z, log_q = q.rsample(noise(40_000, B, 4))
    kl = q.kl_per_dimension()
    assert kl is not None
    assert_within(log_q - standard_normal_log_prob(z), kl.sum(-1), errors=4)
    assert kl.shape == (B, 4)
    assert (kl >= 0).all()


def test_each_dimension_has_its_own_kl() -> None:
    q = DiagonalGaussian(torch.tensor([[0.0, 2.0]]), torch.tensor([[0.0, 0.0]]))
    torch.testing.assert_close(q.kl_per_dimension(), torch.tensor([[0.0, 2.0]]))


def test_a_flow_has_no_closed_form_kl() -> None:
    assert proposal("flow").kl_per_dimension() is None
    assert not heads(2)["flow"].factorised


def test_the_features_are_means_and_then_scales() -> None:
    h = torch.tensor([[1.0, 2.0, -1.0, 0.5]])
    for scale, sigma in [("exp", h[:, 2:].exp()), ("softplus", (1 + h[:, 2:].exp()).log())]:
        options: dict[str, Any] = {"scale": scale}
        q = GaussianPosterior(2, **options)(h)
        torch.testing.assert_close(q.location, h[:, :2])
        torch.testing.assert_close(q.log_sigma.exp(), sigma)


@pytest.mark.parametrize("name", ["exp", "flow"])
def test_half_precision_features_become_float32(name: str) -> None:
    head = heads(2)[name].float()
    z, log_q = head(torch.randn(B, head.features).bfloat16()).rsample(torch.randn(2, B, 2))
    assert z.dtype == log_q.dtype == torch.float32


# Priors


def priors(K: int) -> list[Prior]:
    flows = [FlowPrior(K, hidden=(16,)).double(), FlowPrior(K, hidden=(16,), kind="coupling").double()]
    for parameter in nn.ModuleList(flows).parameters():
        parameter.data.mul_(1.5)
    return [StandardNormal(K), *flows]


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_prior_integrates_to_one_and_its_samples_have_its_density(which: int) -> None:
    prior = priors(2)[which]
    axis = torch.linspace(-12, 12, 801, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        density = prior.log_prob(grid).exp() * (axis[1] - axis[0]) ** 2
        z = prior.sample(20_000, torch.Generator().manual_seed(2))
        assert float(density.sum()) == pytest.approx(1, abs=1e-3)
        assert_within(z, density @ grid, errors=4)
        assert_within(prior.log_prob(z), (density * prior.log_prob(grid)).sum(), errors=4)


PRIORS = [
    *(StandardNormal(3), FlowPrior(3, hidden=(8,)), FlowPrior(3, hidden=(8,), kind="coupling")),
    ExponentialPrior(2.0),
]


@pytest.mark.parametrize("prior", PRIORS)
def test_a_prior_samples_in_its_own_type_and_leaves_no_trace_in_a_checkpoint(prior: Prior) -> None:
    for dtype in (torch.float32, torch.float64):
        z = prior.to(dtype).sample(5, torch.Generator().manual_seed(1))
        assert z.dtype == dtype
        assert z.shape == (5, prior.dim)
    assert not [name for name in prior.state_dict() if not name.startswith("flow.")]


@pytest.mark.parametrize("kind", ["masked", "coupling"])
def test_a_flows_log_density_has_the_determinant_that_autograd_finds(kind: Literal["masked", "coupling"]) -> None:
    """log p(z) = log N(f(z); 0, I) + log |det ∂f/∂z|, and f is the inverse of what makes samples."""
    torch.manual_seed(4)
    prior = FlowPrior(5, 3, hidden=(16,), kind=kind).double()
    noise = torch.randn(5, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(prior.transform, noise)
    z, log_det = prior.transform(noise), torch.linalg.slogdet(torch.as_tensor(jacobian)).logabsdet
    assert not torch.allclose(z, noise, atol=0.05)
    torch.testing.assert_close(prior.log_prob(z), standard_normal_log_prob(noise) - log_det)


def test_a_coupling_of_one_dimension_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^prior.kind: coupling needs two latent dimensions or more, got 1; set it t"):
        FlowPrior(1, kind="coupling")


def test_the_exponential_prior_is_float64() -> None:
    assert ExponentialPrior(2.0).sample(5, torch.Generator()).dtype == torch.float64


def test_the_standard_normals_quantiles_are_its_own() -> None:
    u = torch.tensor([[0.5, 0.975]], dtype=torch.float64)
    torch.testing.assert_close(StandardNormal(2).icdf(u), torch.tensor([[0.0, 1.959964]], dtype=torch.float64))
