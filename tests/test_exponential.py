"""The exponential posterior: closed forms against quadrature and arbitrary precision, and the module that fits it."""

import itertools
import json
import math
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.optimize import minimize_scalar
from torch import Tensor

from lvm_lightning.callbacks.pictures import draw, truncated_kl
from lvm_lightning.data import ExponentialObservations
from lvm_lightning.data.loader import Batch
from lvm_lightning.data.protocol import evenly_spaced
from lvm_lightning.densities import Exponential, ExponentialPrior
from lvm_lightning.evaluation import closed_forms as exponential
from lvm_lightning.evaluation.closed_forms import Problem
from lvm_lightning.evaluation.rise import relative_variance, tightness
from lvm_lightning.figures.pictures import render
from lvm_lightning.modules import ExponentialPosterior
from lvm_lightning.objectives import iw_elbo
from lvm_lightning.objectives.estimators import Estimator
from tests.conftest import ROOT, Run, assert_within
from tests.small import small_trainer

X = torch.tensor([2.9, 1.7, 3.6, 3.0, 1.8], dtype=torch.float64)
SOURCE = Problem.of(X, 1.0, 1.0)


def problems() -> dict[str, Problem]:
    """A grid of λ, σ, n and centres, the negative ones far in the tail of the truncated normal."""
    made = {}
    for rate, sigma, n, centre in itertools.product((0.2, 1.0, 7.0), (0.5, 1.0, 4.0), (1, 5, 10_000), (-3.0, 0.1, 6.0)):
        generator = torch.Generator().manual_seed(n)
        x = centre + sigma * torch.randn(n, dtype=torch.float64, generator=generator)
        if centre < 0:
            x = -x.abs() - 0.1  # all negative
        made[f"λ={rate} σ={sigma} n={n} centre={centre}"] = Problem.of(x, rate, sigma)
    return made


PROBLEMS = problems()


def integral(p: Problem, power: int) -> tuple[float, float]:
    """∫ z^power p(x, z)/p(x, z₀) dz by adaptive quadrature, and log p(x, z₀) at the mode z₀.

    The joint density is written out from the observations' sum and squares, apart from the package's own.
    """
    mode = max(0.0, p.m)
    scale = p.s if p.m > 0 else min(p.s, 1 / (-p.m / p.s**2 + 1 / p.s))

    def log_density(z: float) -> float:
        residual = p.squares + p.n * (z - p.mean) ** 2
        return (
            math.log(p.rate) - p.rate * z - p.n / 2 * math.log(2 * math.pi * p.sigma**2) - residual / (2 * p.sigma**2)
        )

    def log_ratio(z: float) -> float:
        """log p(x, z) − log p(x, z₀), with the large terms cancelled."""
        d = z - mode
        return -p.rate * d - p.n * d * (d + 2 * (mode - p.mean)) / (2 * p.sigma**2)

    low = max(0.0, mode - 40 * scale)
    edges = [low, *[mode + k * scale for k in (-10, -3, 0, 3, 10, 40) if mode + k * scale > low]]
    total = sum(
        quad(lambda z: z**power * math.exp(log_ratio(z)), a, b, epsabs=0, epsrel=1e-13, limit=200)[0]
        for a, b in itertools.pairwise(edges)
    )
    return total, log_density(mode)


@pytest.mark.parametrize("case", PROBLEMS)
def test_log_p_and_the_posterior_agree_with_adaptive_quadrature(case: str) -> None:
    p = PROBLEMS[case]
    mass, log_mode = integral(p, 0)
    assert exponential.log_marginal(p) == pytest.approx(log_mode + math.log(mass), rel=1e-10)
    mean, variance = exponential.posterior_moments(p)
    first, second = (integral(p, k)[0] / mass for k in (1, 2))
    assert mean == pytest.approx(first, rel=1e-10)
    assert second == pytest.approx(variance + mean**2, rel=1e-10)
    z = torch.tensor([0.0, 0.5, 1.0, 2.0], dtype=torch.float64) * mean
    by_bayes = exponential.log_joint(p, z) - log_mode - math.log(mass)
    torch.testing.assert_close(exponential.log_posterior(p, z), by_bayes, rtol=1e-9, atol=1e-9 * p.n)


@pytest.mark.parametrize("a", [-5e4, -500.0, -30.0, -1.001, -0.999, 0.0, 3.0, 40.0])
def test_moments_keep_their_digits_in_the_tail(a: float) -> None:
    """Against 60 digits: I_k = ∫ u^k exp(au − u²/2) du in powers of 1/a for a far below 0, by quadrature elsewhere."""
    with mpmath.workdps(60):
        t = -mpmath.mpf(a)
        near = [0, *[k / (abs(t) + 1) for k in (1, 3, 10, 40)], max(0, -t) + 15, mpmath.inf]
        moments = [mpmath.quad(lambda u, k=k: u**k * mpmath.exp(-u * u / 2 - t * u), sorted(near)) for k in range(3)]
        mean = moments[1] / moments[0]
        variance = moments[2] / moments[0] - mean**2
    p = Problem(rate=1e-300, sigma=1.0, n=1, mean=a, squares=0.0)
    got = exponential.posterior_moments(p)
    assert got[0] == pytest.approx(float(mean), rel=1e-12)
    assert got[1] == pytest.approx(float(variance), rel=1e-11)


@pytest.mark.parametrize("centre", [-3.0, 0.0, 3.0])
@pytest.mark.parametrize("sigma", [1e-4, 1.0, 100.0, 1e4])
@pytest.mark.parametrize("rate", [1e-6, 1e-3, 1.0, 1e3, 1e6])
def test_extreme_problems_keep_their_digits(rate: float, sigma: float, centre: float) -> None:
    """The closed forms as they stand in books, in 400 digits: terms of 1e15 nats and more cancel in them."""
    x = torch.tensor([0.9, -0.3, 1.6], dtype=torch.float64) + centre
    p = Problem.of(x, rate, sigma)
    with mpmath.workdps(400):
        lam, sig, values = mpmath.mpf(rate), mpmath.mpf(sigma), [mpmath.mpf(v) for v in x.tolist()]
        mean, s = sum(values) / 3, sig / mpmath.sqrt(3)
        a = (mean - lam * sig**2 / 3) / s
        constant = mpmath.log(lam) - 1.5 * mpmath.log(2 * mpmath.pi * sig**2)
        exponent = -sum((v - mean) ** 2 for v in values) / (2 * sig**2) - lam * mean + (lam * sig) ** 2 / 6
        mass = mpmath.ncdf(a)
        expected = constant + exponent + mpmath.log(mpmath.sqrt(2 * mpmath.pi) * s * mass)
        assert exponential.log_marginal(p) == pytest.approx(float(expected), rel=1e-12)
        for theta in (1e-3, 1.0, 1e4):
            r = theta * s / mpmath.sqrt(2)
            integral = mpmath.exp(theta * a * s + r**2 / 2) * mpmath.ncdf(mpmath.sqrt(2) * a + r)
            variance = integral / (2 * mpmath.sqrt(mpmath.pi) * s * theta * mass**2) - 1
            found = exponential.relative_variance(p, theta)
            assert found == (math.inf if variance > 1.7e308 else pytest.approx(float(variance), rel=1e-10, abs=1e-12))


def test_outside_the_support_there_is_no_density() -> None:
    z = torch.tensor([-1e-9, -1.0])
    for density in (exponential.log_posterior(SOURCE, z), exponential.log_joint(SOURCE, z)):
        assert (density == -torch.inf).all()
    assert (ExponentialPrior(2.0).log_prob(z.unsqueeze(-1)) == -torch.inf).all()


@pytest.mark.parametrize("case", PROBLEMS)
def test_the_kl_curve_has_its_minimum_at_the_best_rate(case: str) -> None:
    p = PROBLEMS[case]
    best = exponential.best_rate(p)

    def slope(log_theta: Tensor) -> Tensor:
        leaf = log_theta.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(exponential.kl(p, leaf.exp()), leaf)
        return gradient

    at = torch.tensor(best, dtype=torch.float64).log()
    low, high = slope(at - 1e-6), slope(at + 1e-6)
    assert low < 0 < high  # the curve turns within 1e-6 of log θ*


def test_the_best_rate_is_where_a_numerical_search_ends() -> None:
    def curve(theta: float) -> float:
        return float(exponential.kl(SOURCE, torch.tensor(theta, dtype=torch.float64)))

    found = minimize_scalar(curve, bounds=(0.01, 10), method="bounded", options={"xatol": 1e-10})
    assert exponential.best_rate(SOURCE) == pytest.approx(found.x, abs=1e-6)
    b = float(X.sum()) - 1
    assert exponential.best_rate(SOURCE) == pytest.approx((-b + math.sqrt(b**2 + 40)) / 2, rel=1e-14)


@pytest.mark.parametrize("theta", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("case", [c for c in PROBLEMS if "n=5" in c])
def test_kl_and_elbo_are_their_integrals_and_sum_to_log_p(case: str, theta: float) -> None:
    """Both by Gauss–Laguerre quadrature in θz, which is exact for the polynomials that the ELBO integrates."""
    p, rate = PROBLEMS[case], torch.tensor(theta, dtype=torch.float64)
    nodes, weights = np.polynomial.laguerre.laggauss(30)
    z, w = torch.from_numpy(nodes) / theta, torch.from_numpy(weights)
    log_q = rate.log() - rate * z
    lower = float((w * (exponential.log_joint(p, z) - log_q)).sum())
    divergence = float((w * (log_q - exponential.log_posterior(p, z))).sum())
    assert float(exponential.elbo(p, rate)) == pytest.approx(lower, rel=1e-10)
    assert float(exponential.kl(p, rate)) == pytest.approx(divergence, rel=1e-9, abs=1e-9)
    assert lower + divergence == pytest.approx(exponential.log_marginal(p), rel=1e-10)


def test_the_sources_formula_is_the_elbo_with_its_constant() -> None:
    theta = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    b = float(X.sum()) - 1
    without = b / theta - 5 / theta**2 - theta.log()
    constant = exponential.elbo(SOURCE, theta) - without
    torch.testing.assert_close(constant, constant[0].expand(3), atol=1e-12, rtol=0)
    assert float(constant[0]) == pytest.approx(1 - 2.5 * math.log(2 * math.pi) - float(X.square().sum()) / 2, abs=1e-12)


@pytest.mark.parametrize("theta", [0.4, 1.0, 3.0])
def test_the_weights_relative_variance_is_its_integral(theta: float) -> None:
    def integrand(z: float) -> float:
        log_p = float(exponential.log_posterior(SOURCE, torch.tensor(z, dtype=torch.float64)))
        return math.exp(2 * log_p - math.log(theta) + theta * z)

    expected = quad(integrand, 0, 12, epsabs=1e-12, epsrel=1e-12, limit=200)[0] - 1
    assert exponential.relative_variance(SOURCE, theta) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("x", "rate", "sigma", "message"),
    [
        (torch.zeros(0), 1.0, 1.0, "observations: must be one or more finite numbers, got"),
        (torch.tensor([math.nan]), 1.0, 1.0, "observations: must be one or more finite numbers"),
        (X, 0.0, 1.0, "rate: must be positive and finite, got 0"),
        (X, 1.0, math.inf, "sigma: must be positive and finite, got inf"),
    ],
)
def test_problems_without_an_answer_are_refused(x: Tensor, rate: float, sigma: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Problem.of(x, rate, sigma)


# The surrogate and the module


def test_the_surrogates_samples_have_its_density_and_moments() -> None:
    q = Exponential(torch.tensor(3.0, dtype=torch.float64).log(), 2)
    z, log_q = q.rsample(torch.randn(50_000, 2, 1, dtype=torch.float64))
    assert (z > 0).all()
    torch.testing.assert_close(log_q, math.log(3) - 3 * z.squeeze(-1))
    torch.testing.assert_close(q.stopped_log_prob(z), log_q)
    assert_within(z.squeeze(-1), 1 / 3, errors=4)
    assert_within(z.squeeze(-1).square(), 2 / 9, errors=4)
    assert q.location.shape == (2, 1)


def data(**options: Any) -> ExponentialObservations:
    return ExponentialObservations(values=X.tolist(), **options)


def batch() -> Batch:
    return Batch(X.unsqueeze(0), torch.zeros(1, dtype=torch.uint8), 0, 1)


@pytest.mark.parametrize(
    ("estimator", "J", "N"),
    [
        ("pathwise", 128, 1),
        ("sticking_the_landing", 128, 1),
        ("doubly_reparameterised", 128, 1),
        ("pathwise", 8, 16),
        ("doubly_reparameterised", 8, 16),
    ],
)
def test_the_training_step_is_unbiased_for_the_elbo_and_its_gradient(estimator: Estimator, J: int, N: int) -> None:
    model = ExponentialPosterior(start=2.0, outer_samples=J, inner_samples=N, estimator=estimator)
    values, gradients = [], []
    for seed in range(400):
        model.noise_seed = seed
        output = model.training_step(batch(), 0)
        values.append(output["bound"])
        gradients.append(torch.autograd.grad(-output["loss"], model.log_rate)[0])
    if N == 1:
        leaf = torch.tensor(math.log(2.0), dtype=torch.float64, requires_grad=True)
        exact = exponential.elbo(SOURCE, leaf.exp())
        (slope,) = torch.autograd.grad(exact, leaf)
        assert_within(torch.stack(values), exact.detach(), errors=4)
        assert_within(torch.stack(gradients), slope, errors=4)
    else:
        assert float(exponential.elbo(SOURCE, torch.tensor(2.0))) < float(torch.stack(values).mean())
        assert float(torch.stack(values).mean()) < exponential.log_marginal(SOURCE)


def fitted(tmp_path: Path, seed: int = 0, **options: Any) -> ExponentialPosterior:
    torch.manual_seed(seed)
    model = ExponentialPosterior(**options)
    small_trainer(tmp_path, max_steps=1000, limit_val_batches=0).fit(model, data())
    return model


def test_the_sources_settings_end_where_exact_gradient_descent_ends(tmp_path: Path) -> None:
    leaf = torch.zeros((), dtype=torch.float64, requires_grad=True)
    for _ in range(1000):
        (slope,) = torch.autograd.grad(exponential.elbo(SOURCE, leaf.exp()), leaf)
        with torch.no_grad():
            leaf += 1e-4 * slope
    ends = torch.stack([fitted(tmp_path, seed).theta for seed in range(4)])
    assert_within(ends, leaf.detach().exp(), errors=3)
    assert abs(float(ends.mean()) - 1.0) > 0.01  # it has moved


def test_a_sensible_optimiser_reaches_the_best_rate(tmp_path: Path) -> None:
    model = fitted(
        tmp_path,
        optimizer=lambda p: torch.optim.SGD(p, lr=0.05),
        lr_scheduler=lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 1000),
    )
    assert float(model.theta) == pytest.approx(exponential.best_rate(SOURCE), rel=0.01)


@pytest.mark.parametrize("lr", [10.0, 1e6])
def test_the_rate_stays_positive_and_finite_under_any_learning_rate(tmp_path: Path, lr: float) -> None:
    model = ExponentialPosterior(optimizer=lambda p: torch.optim.SGD(p, lr=lr))
    small_trainer(tmp_path, max_steps=50, limit_val_batches=0).fit(model, data())
    assert 0 < float(model.theta) < math.inf
    assert 0 < float(1 / model.theta**2) < math.inf


def test_the_test_reports_closed_forms_and_bounds_that_rise_to_log_p(tmp_path: Path) -> None:
    model, trainer = ExponentialPosterior(start=1.5), small_trainer(tmp_path)
    trainer.test(model, data(), verbose=False)
    named = {q.name: q for q in model.evaluation}
    theta = torch.tensor(1.5)
    assert named["θ"].value == pytest.approx(1.5)
    assert named["θ*, the ELBO's maximum"].value == pytest.approx(exponential.best_rate(SOURCE))
    assert named["ELBO(θ)"].value == pytest.approx(float(exponential.elbo(SOURCE, theta)))
    assert named["log p(x)"].value == pytest.approx(exponential.log_marginal(SOURCE))
    (kl,) = (q for q in model.evaluation if q.name.startswith("KL"))
    assert kl.value == pytest.approx(named["log p(x)"].value - named["ELBO(θ)"].value)
    bounds = [q for q in model.evaluation if q.kind == "lower bound"]
    assert [q.samples for q in bounds] == [4**i for i in range(7)]
    assert abs(bounds[0].value - named["ELBO(θ)"].value) < 4 * bounds[0].stderr
    for lower, higher in itertools.pairwise(bounds):
        assert higher.value > lower.value - 3 * lower.stderr
    for q in bounds:
        assert q.value < named["log p(x)"].value + 3 * q.stderr
    assert {q.unit for q in bounds} == {"nats (density on the scale of the data)"}


@pytest.mark.parametrize("factor", [1.0, 4.0])
def test_the_gap_follows_the_second_order_prediction_once_n_is_large(factor: float) -> None:
    """From N well above the relative variance on, for a good surrogate and for one with heavy weights."""
    theta = factor * exponential.best_rate(SOURCE)
    variance = exponential.relative_variance(SOURCE, theta)
    N = 2 ** math.ceil(math.log2(40 * variance))
    repeats = 20_000 if factor == 1 else 1500
    q = Exponential(torch.tensor(theta, dtype=torch.float64).log(), repeats)
    z, log_q = q.rsample(torch.randn(N, repeats, 1, dtype=torch.float64))
    log_w = exponential.log_joint(SOURCE, z.squeeze(-1)) - log_q
    gap = exponential.log_marginal(SOURCE) - iw_elbo(log_w)
    # Less noise: R_N/p − 1 has mean 0 and all of the first-order fluctuation.
    gap = gap + ((log_w - exponential.log_marginal(SOURCE)).exp().mean(0) - 1)
    assert float(gap.mean()) == pytest.approx(variance / (2 * N), rel=0.1)


def test_one_sample_is_far_from_the_prediction_when_weights_are_heavy() -> None:
    theta = 4 * exponential.best_rate(SOURCE)
    predicted = exponential.relative_variance(SOURCE, theta) / 2
    assert predicted > 5 * float(exponential.kl(SOURCE, torch.tensor(theta)))


def test_the_figures_are_drawn_and_the_cut_curve_has_its_minimum_in_the_wrong_place() -> None:
    drawn = dict(draw(SOURCE, [1.0, 0.99]))
    assert set(drawn) == {"posterior", "kl", "theta", "gap"}
    for figure in drawn.values():
        assert render(figure).std() > 0
    rates = torch.logspace(-4, 1, 300, dtype=torch.float64)
    exact, cut = exponential.kl(SOURCE, rates), truncated_kl(SOURCE, rates, 15.0)
    best = exponential.best_rate(SOURCE)
    assert float(rates[exact.argmin()]) == pytest.approx(best, rel=0.05)
    assert float(rates[cut.argmin()]) < 0.1 * best
    near = (rates > best) & (rates < 3)
    torch.testing.assert_close(cut[near], exact[near], rtol=0.01, atol=0)  # there nothing is cut off


# Observations


def test_observations_are_given_or_drawn() -> None:
    given = data()
    (row,) = given.test_dataloader()
    assert torch.equal(row.x, X.unsqueeze(0))
    assert len(given.train_dataloader()) == 1000
    drawn = ExponentialObservations(n=20_000, z=3.0, sigma=0.5)
    assert_within(drawn.x, 3.0)
    assert_within((drawn.x - 3.0) ** 2, 0.25)
    assert torch.equal(drawn.x, ExponentialObservations(n=20_000, z=3.0, sigma=0.5).x)
    centres = torch.stack([ExponentialObservations(n=1, sigma=1e-6, rate=2.0, seed=s).x[0] for s in range(2000)])
    assert_within(centres, 0.5)
    with pytest.raises(ValueError, match=r"data.values: must be one or more finite numbers, got \[\]; give a list"):
        ExponentialObservations(values=[])


# Tightness


def test_tightness_groups_the_same_weights() -> None:
    log_w, log_p = torch.randn(8, 3, dtype=torch.float64), torch.full((3,), 0.5, dtype=torch.float64)
    rows = tightness(log_w, log_p)
    assert [row.samples for row in rows] == [1, 2, 4, 8]
    assert rows[0].bound == pytest.approx(float(log_w.mean()))
    assert rows[3].bound == pytest.approx(float(iw_elbo(log_w).mean()))
    by_hand = torch.stack([iw_elbo(log_w[:4]), iw_elbo(log_w[4:])]).mean(0)
    assert rows[2].bound == pytest.approx(float(by_hand.mean()))
    assert rows[2].gap == pytest.approx(0.5 - rows[2].bound)
    variance = float(relative_variance(log_w, log_p).mean())
    assert [row.predicted_gap for row in rows] == pytest.approx([variance / (2 * n) for n in (1, 2, 4, 8)])
    assert tightness(log_w, None)[0].gap is None
    with pytest.raises(ValueError, match="log_w: must have shape"):
        tightness(torch.zeros(0, 3), None)


def test_evenly_spaced_rows_reach_both_ends() -> None:
    assert evenly_spaced(10_000, 3).tolist() == [0, 5000, 9999]
    assert evenly_spaced(4, 10).tolist() == [0, 1, 2, 3]
    assert len(set(evenly_spaced(10_000, 999).tolist())) == 999


TIGHT = ["--largest", "64", "--images", "40"]
QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]
SMALL = ["--trainer.max_steps", "1", "--trainer.val_check_interval", "1", "--trainer.limit_val_batches", "1", *QUIET]
SMALL += ["--evaluation.spacing", "0.2"]
MODELS = {
    "exponential_posterior": [],
    "prior_iwae": ["--model.decoder.hidden", "[8]"],
    "burda_vae": ["--model.decoder.hidden", "[8]", "--model.encoder.hidden", "[8]"],
}


@pytest.mark.parametrize("name", MODELS)
def test_tightness_serves_every_family(name: str, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--config", ROOT / "configs" / f"{name}.yaml", *MODELS[name], *SMALL]
    assert run("fit", *arguments) == 0
    assert run("tightness", *arguments, "--ckpt_path", "last", *TIGHT) == 0
    printed = capsys.readouterr().out
    folder = Path("runs") / name / "version_0"
    found = json.loads((folder / "tightness.json").read_text())
    assert (folder / "tightness.png").read_bytes().startswith(b"\x89PNG")
    assert [row["samples"] for row in found["rows"]] == [2**i for i in range(7)]
    assert found["examples"] == 40
    assert "log p(x) − L_N" in printed
    bounds = [row["bound"] for row in found["rows"]]
    assert bounds == sorted(bounds)
    assert (found["log_p"] is None) == (name == "burda_vae")
    if found["log_p"]:
        assert bounds[-1] < found["log_p"]["value"] + 3 * found["rows"][-1]["gap_stderr"]


def test_the_toy_model_writes_its_figures_and_has_no_images_to_draw(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--config", ROOT / "configs" / "exponential_posterior.yaml", *QUIET]
    assert run("fit", *arguments, "--trainer.max_steps", "20", "--trainer.val_check_interval", "10") == 0
    folder = Path("runs/exponential_posterior/version_0")
    drawn = {path.stem for path in (folder / "figures").iterdir()}
    assert drawn == {"posterior", "kl", "theta", "gap", "training_bound"}
    assert run("sample", *arguments, "--ckpt_path", "last") == 2
    assert "sample draws images, got ExponentialPosterior" in capsys.readouterr().err
