"""Gradient estimators: the same value, the same expectation where they promise it, and their rates."""

from typing import Any, cast, get_args

import pytest
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lvm_lightning.densities import DiagonalGaussian
from lvm_lightning.objectives import (
    CUBO,
    Bound,
    DecoderBound,
    Estimator,
    Jackknife,
    Objective,
    Renyi,
    elbo,
    estimate,
    iw_elbo,
    lower_bound,
)
from lvm_lightning.objectives.estimators import cotangents, doubly_reparameterised_cotangents
from tests.linear_gaussian import BIAS, K, S, W, X, gradients, log_weights, posterior, slope, wrong

DREG: Estimator = "doubly_reparameterised"
STL: Estimator = "sticking_the_landing"
ESTIMATORS: tuple[Estimator, ...] = get_args(Estimator)


def same_mean(first: torch.Tensor, second: torch.Tensor) -> float:
    """Largest distance of two means of independent rows, in standard errors."""
    stderr = (first.var(0) / len(first) + second.var(0) / len(second)).sqrt()
    return float(((first.mean(0) - second.mean(0)) / stderr).abs().max())


@pytest.mark.parametrize("alpha", [0.0, 0.5])
@pytest.mark.parametrize(("J", "N"), [(1, 1), (1, 8), (4, 3)])
def test_swapping_the_estimator_changes_no_value(J: int, N: int, alpha: float) -> None:
    first, *others = (gradients(Objective(J, N, Renyi(alpha), estimator), wrong(), 50)[2] for estimator in ESTIMATORS)
    for other in others:
        assert torch.equal(first, other)
    log_w = log_weights(*wrong(), J, N, 50)
    torch.testing.assert_close(first, Objective(J, N, Renyi(alpha)).bound_of(log_w), atol=1e-12, rtol=0)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_decoders_gradient_is_the_bounds_own(estimator: Estimator) -> None:
    expected = gradients(Objective(2, 8), wrong(), 50)[1]
    torch.testing.assert_close(gradients(Objective(2, 8, iw_elbo, estimator), wrong(), 50)[1], expected)


@pytest.mark.parametrize("alpha", [0.0, 0.5])
@pytest.mark.parametrize("N", [1, 8, 64])
def test_pathwise_and_doubly_reparameterised_have_the_same_encoder_gradient(N: int, alpha: float) -> None:
    repeats = 40_000
    pathwise = gradients(Objective(1, N, Renyi(alpha)), wrong(), repeats, seed=1)[0]
    doubly = gradients(Objective(1, N, Renyi(alpha), DREG), wrong(), repeats, seed=2)[0]
    assert same_mean(pathwise, doubly) < 3
    assert (pathwise.mean(0).abs() > 3 * pathwise.std(0) / repeats**0.5).any()  # there is a gradient to agree on


def test_sticking_the_landing_agrees_on_the_elbo_and_is_biased_beyond() -> None:
    repeats = 40_000
    for J, N, agrees in [(1, 1, True), (8, 1, True), (1, 8, False)]:
        pathwise = gradients(Objective(J, N), wrong(), repeats, seed=1)[0]
        stuck = gradients(Objective(J, N, iw_elbo, STL), wrong(), repeats, seed=2)[0]
        assert (same_mean(pathwise, stuck) < 3) == agrees


def test_sticking_the_landing_vanishes_when_q_is_the_posterior() -> None:
    assert gradients(Objective(4, 1, iw_elbo, STL), posterior(), 100)[0].abs().max() < 1e-9
    assert gradients(Objective(4, 8, iw_elbo, DREG), posterior(), 100)[0].abs().max() < 1e-9
    assert gradients(Objective(4, 1), posterior(), 100)[0].std(0).min() > 0.1  # pathwise keeps the score's noise


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_the_doubly_reparameterised_gradient_is_its_equation(alpha: float) -> None:
    """Written out by hand: if the rescaling of ∂ℓ/∂z never happened, these numbers would be pathwise's."""
    repeats, N = 20, 6
    mean, log_sigma = wrong()
    noise = torch.randn(1, N, repeats, K, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    z = mean + log_sigma.exp() * noise
    log_w = log_weights(mean, log_sigma, 1, N, repeats)
    v = ((1 - alpha) * log_w).softmax(1)
    c = alpha * v + (1 - alpha) * v**2
    to_z = (X - BIAS - z @ W.T) @ W / S**2 - z + (z - mean) / (2 * log_sigma).exp()
    expected = torch.cat([c.unsqueeze(-1) * to_z, c.unsqueeze(-1) * to_z * log_sigma.exp() * noise], -1).sum((0, 1))
    torch.testing.assert_close(gradients(Objective(1, N, Renyi(alpha), DREG), wrong(), repeats)[0], expected)
    assert not torch.allclose(gradients(Objective(1, N, Renyi(alpha)), wrong(), repeats)[0], expected, rtol=0.1)


def test_signal_to_noise_falls_with_n_for_pathwise_and_rises_for_doubly_reparameterised() -> None:
    """Rainforth et al. 2018, theorem 1: 1/√N; Tucker et al. 2018, section 6: √N."""
    sizes = [4, 16, 64, 256]
    repeats = {N: 8000 if N <= 64 else 2000 for N in sizes}  # a second derivative for each sample
    expected = {N: gradients(Objective(1, N, iw_elbo, DREG), wrong(), repeats[N], seed=9)[0].mean(0) for N in sizes}

    def signal_to_noise(estimator: Estimator) -> torch.Tensor:
        rows = []
        for N in sizes:
            to_phi = gradients(Objective(1, N, iw_elbo, estimator), wrong(), repeats[N])[0]
            rows.append((expected[N].abs() / to_phi.std(0)).mean())
        return torch.stack(rows)

    assert abs(slope(sizes, signal_to_noise("pathwise")) + 0.5) < 0.15
    assert abs(slope(sizes, signal_to_noise(DREG)) - 0.5) < 0.15


def test_outer_samples_raise_the_signal_to_noise_as_their_root() -> None:
    sizes = [1, 4, 16, 64]
    ratios = []
    for J in sizes:
        to_phi = gradients(Objective(J, 1), wrong(), 10_000)[0]
        ratios.append((to_phi.mean(0).abs() / to_phi.std(0)).max())
    assert abs(slope(sizes, torch.stack(ratios)) - 0.5) < 0.1


def test_the_two_sample_axes_are_not_each_other() -> None:
    """J = 1, N = 64 is tighter; J = 64, N = 1 has the ELBO's expectation and another gradient."""
    inner, outer = gradients(Objective(1, 64), wrong(), 4000), gradients(Objective(64, 1), wrong(), 4000)
    assert float((inner[2] - outer[2]).mean()) > 0.05
    assert same_mean(gradients(Objective(1, 1), wrong(), 40_000, seed=3)[0], outer[0]) < 3
    assert same_mean(inner[0], outer[0]) > 10


@pytest.mark.parametrize("estimator", ["pathwise", DREG])
def test_partially_importance_weighted_targets_go_to_their_networks(estimator: Estimator) -> None:
    J, N, repeats = 4, 8, 50
    to_phi, to_theta, value = gradients(Objective(J, N, iw_elbo, estimator, "pooled"), wrong(), repeats)
    nested_to_phi = gradients(Objective(J, N, iw_elbo, estimator), wrong(), repeats)[0]
    log_w = log_weights(*wrong(), J, N, repeats)
    torch.testing.assert_close(value, Objective(1, J * N).bound_of(log_w.view(1, J * N, repeats)))
    torch.testing.assert_close(to_phi, nested_to_phi)
    weights = log_w.flatten(0, 1).softmax(0)  # (J·N, repeats): the pooled bound's
    noise = torch.randn(J * N, repeats, K, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    z = wrong()[0] + wrong()[1].exp() * noise
    residual = (X - BIAS - z @ W.T) / S**2
    torch.testing.assert_close(to_theta, (weights.unsqueeze(-1) * residual).sum(0))
    assert not torch.allclose(to_theta, gradients(Objective(J, N), wrong(), repeats)[1])


def test_pooled_weights_that_underflow_leave_the_encoders_gradient_finite() -> None:
    """One group 1,000 nats below the other: its pooled weights are 0, its own are not."""
    mean = torch.zeros(1, 1, requires_grad=True)
    objective = Objective(2, 2, iw_elbo, "pathwise", "pooled")
    draw = objective.draw(DiagonalGaussian(mean, torch.zeros(1, 1)), torch.randn(2, 2, 1, 1))
    log_lik = draw.z.sum(-1) * torch.tensor([1.0, 3.0]).view(2, 1, 1) - torch.tensor([0.0, 1000.0]).view(2, 1, 1)
    (gradient,) = torch.autograd.grad(objective.surrogate(draw, log_lik, torch.zeros(2, 2, 1))[0].sum(), mean)
    torch.testing.assert_close(gradient, torch.tensor([[2.0]]))  # mean of the two slopes; no score for a mean


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_weighted_kl_changes_the_surrogate_and_not_the_bound(estimator: Estimator) -> None:
    mean, log_sigma = (p.unsqueeze(0).requires_grad_() for p in wrong())
    objective = Objective(2, 3, iw_elbo, estimator)
    draw = objective.draw(DiagonalGaussian(mean, log_sigma), torch.randn(2, 3, 1, K, dtype=torch.float64))
    log_lik, log_prior = draw.z.square().sum(-1), draw.z.sum(-1)
    half, bound = objective.surrogate(draw, log_lik, log_prior, kl_weight=0.5)
    torch.testing.assert_close(half, objective.bound_of(log_lik + 0.5 * (log_prior - draw.log_q)))
    assert not torch.isclose(half, bound)
    assert torch.equal(bound, objective.surrogate(draw, log_lik, log_prior)[1])


def closed_cotangents(log_w: Tensor, power: float) -> Tensor:
    """∂F/∂ℓ of the nested power mean 1/p log 1/N Σ w^p: v_n = w_n^p / Σ w^p, over J."""
    return (power * log_w).softmax(1) / len(log_w)


def closed_doubly_reparameterised(log_w: Tensor, power: float) -> Tensor:
    """v (1 − p + p v) / J; for p = 1 the squared weights."""
    v = (power * log_w).softmax(1)
    return v * (1 - power + power * v) / len(log_w)


@pytest.mark.parametrize(("bound", "power"), [(iw_elbo, 1.0), (Renyi(0.5), 0.5), (CUBO(2.0), 2.0), (CUBO(3.0), 3.0)])
@pytest.mark.parametrize(("J", "N", "B"), [(1, 2, 3), (4, 3, 7), (1, 50, 250), (3, 70, 40)])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_automatic_derivatives_are_the_closed_forms(
    bound: Bound, power: float, J: int, N: int, B: int, scale: float
) -> None:
    log_w = scale * torch.randn(J, N, B, dtype=torch.float64)
    torch.testing.assert_close(cotangents(bound, log_w), closed_cotangents(log_w, power))
    expected = closed_doubly_reparameterised(log_w, power)
    torch.testing.assert_close(doubly_reparameterised_cotangents(bound, log_w), expected, rtol=1e-7, atol=1e-15)
    single = doubly_reparameterised_cotangents(bound, log_w.float())
    torch.testing.assert_close(
        single.double(), closed_doubly_reparameterised(log_w.float().double(), power).float().double()
    )


def test_the_elbo_is_linear() -> None:
    log_w = torch.randn(2, 4, 3)
    for found in (cotangents(elbo, log_w), doubly_reparameterised_cotangents(elbo, log_w)):
        torch.testing.assert_close(found, torch.full((2, 4, 3), 1 / 8))


@pytest.mark.parametrize("bound", [Jackknife(1), Jackknife(2)])
def test_automatic_derivatives_of_the_jackknife_are_finite_differences(bound: Bound) -> None:
    log_w = torch.randn(1, 5, 1, dtype=torch.float64)
    step = 1e-4 * torch.eye(5, dtype=torch.float64)
    here, up, down = (bound(log_w[0] + sign * step) for sign in (0, 1, -1))  # (5,): sample n moved in column n
    first, second = (up - down) / 2e-4, (up - 2 * here + down) / 1e-8
    torch.testing.assert_close(cotangents(bound, log_w).flatten(), first, rtol=1e-5, atol=1e-6)
    found = doubly_reparameterised_cotangents(bound, log_w).flatten()
    torch.testing.assert_close(found, first - second, rtol=1e-4, atol=1e-5)


BOUNDS: dict[str, tuple[Bound, int]] = {
    **{"elbo": (elbo, 1), "iw_elbo": (iw_elbo, 1), "renyi": (Renyi(0.5), 1), "cubo": (CUBO(), 2)},
    **{"jackknife1": (Jackknife(1), 2), "jackknife2": (Jackknife(2), 3)},
}
EVERY = [
    (bound, J, N, pooled) for bound in BOUNDS for J, N in [(1, 1), (1, 8), (4, 3)] for pooled in ("same", "pooled")
]


@pytest.mark.parametrize(("name", "J", "N", "decoders"), EVERY)
def test_no_estimator_of_any_bound_changes_its_value(name: str, J: int, N: int, decoders: DecoderBound) -> None:
    bound, least = BOUNDS[name]
    if least > N:
        with pytest.raises(ValueError, match=f"^inner_samples: must have at least {least}"):
            Objective(J, N, bound)
        return
    objectives = [Objective(J, N, bound, estimator, decoders) for estimator in ESTIMATORS]
    log_w = log_weights(*wrong(), J, N, 50)
    expected = objectives[0].bound_of(log_w)
    for objective in objectives:
        torch.testing.assert_close(gradients(objective, wrong(), 50)[2], expected, atol=1e-12, rtol=0)
        own = gradients(objective, wrong(), 50)[1]
        torch.testing.assert_close(own, gradients(objectives[0], wrong(), 50)[1])


@pytest.mark.parametrize("name", ["elbo", "cubo", "jackknife1", "jackknife2"])
@pytest.mark.parametrize(("J", "N", "decoders"), [(1, 8, "same"), (4, 3, "same"), (4, 3, "pooled")])
def test_the_doubly_reparameterised_gradient_of_any_bound_is_unbiased(
    name: str, J: int, N: int, decoders: DecoderBound
) -> None:
    repeats, bound = 40_000, BOUNDS[name][0]
    pathwise = gradients(Objective(J, N, bound, "pathwise", decoders), wrong(), repeats, seed=1)[0]
    doubly = gradients(Objective(J, N, bound, DREG, decoders), wrong(), repeats, seed=2)[0]
    assert same_mean(pathwise, doubly) < 3.5


@pytest.mark.parametrize("decoders", ["same", "pooled"])
@pytest.mark.parametrize("bound", [iw_elbo, Renyi(0.5), CUBO()], ids=["iw_elbo", "renyi", "cubo"])
@pytest.mark.parametrize(("J", "N", "kl_weight"), [(1, 8, 0.1), (3, 4, 0.4), (4, 3, 0.9), (1, 2, 0.5)])
def test_the_doubly_reparameterised_gradient_takes_the_kl_weight(
    J: int, N: int, kl_weight: float, bound: Bound, decoders: DecoderBound
) -> None:
    """Pathwise is autograd through all of it: in expectation both are the gradient of the weighted bound."""
    repeats, found = 40_000, []
    for seed, estimator in enumerate((ESTIMATORS[0], DREG)):
        objective = Objective(J, N, bound, estimator, decoders)
        found.append(gradients(objective, wrong(), repeats, seed, kl_weight))
    assert same_mean(found[0][0], found[1][0]) < 3.5
    assert same_mean(found[0][1], found[1][1]) < 3.5


@estimate("largest weight")
def largest(log_w: Tensor) -> Tensor:
    """Its gradient jumps: the second derivative that autograd finds, 0, is not the whole of it."""
    return log_w.amax(0)


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, log_w: Tensor) -> Tensor:
        ctx.save_for_backward(log_w)
        return log_w.logsumexp(0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> Tensor:
        (log_w,) = ctx.saved_tensors
        return cotangent * cast(Tensor, log_w).softmax(0)


@lower_bound()
def once(log_w: Tensor) -> Tensor:
    result: Tensor = _Once.apply(log_w)
    return result


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"outer_samples": 0}, "^outer_samples: must be at least 1, got 0"),
        ({"inner_samples": 0}, "^inner_samples: must be at least 1, got 0"),
        (
            {"bound": Jackknife(2), "inner_samples": 2},
            "^inner_samples: must have at least 3 samples for .*, got 2; take",
        ),
        ({"bound": CUBO()}, "^inner_samples: must have at least 2 samples for CUBO .*, got 1; take more"),
        ({"bound": torch.logsumexp}, "^bound: must say its kind, got .*; decorate it with @lower_bound"),
        ({"bound": estimate()(lambda log_w: log_w)}, r"^bound: must give one number an example, .*got \(1, 2\)"),
        (
            {"bound": largest, "inner_samples": 4, "estimator": DREG},
            "^estimator: .* a second derivative.*set it to pathw",
        ),
        (
            {"bound": once, "inner_samples": 4, "estimator": DREG},
            "^estimator: doubly_.* got the once; set it to pathwise",
        ),
    ],
)
def test_meaningless_objectives_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Objective(**options)
