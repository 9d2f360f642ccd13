"""Codes: what is pushed comes back, and its length is minus the logarithm of its probability."""

import math
from collections.abc import Iterator
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor

from lvm_lightning.densities import FlowPrior, NoisePrior, StandardNormal, normal_grid
from lvm_lightning.evaluation import coding
from lvm_lightning.evaluation.bits_back import BitsBack
from lvm_lightning.evaluation.cells import UNITS, Gaussians, Grid
from lvm_lightning.evaluation.coding import BernoulliPixels, Code, MixtureCode, blocks, rounded
from lvm_lightning.evaluation.latent_codes import EqualMass, LocalBitsBack, latent_code_of
from lvm_lightning.modules import GaussianVAE
from lvm_lightning.objectives import iw_elbo
from lvm_lightning.support.bits import WORD, BitStack, ExhaustedError, Words, noise_words
from tests.conftest import assert_within

D = 12
ENOUGH = noise_words(4000, 0, 9)


@pytest.fixture(autouse=True)
def _no_graph() -> Iterator[None]:
    with torch.no_grad():
        yield


def images(n: int) -> Tensor:
    pattern = torch.randint(2, (3, D))
    return (pattern[torch.randint(3, (n,))] ^ (torch.rand(n, D) < 0.1)).double()


def vae(K: int = 2, flow: bool = False, widen: float = 0.2) -> GaussianVAE:
    """A model whose encoder and decoder say something, and whose prior does where it is a flow."""
    module = GaussianVAE(latent_dim=K, data_dim=D, prior=FlowPrior if flow else StandardNormal).double().eval()
    for parameter in (*module.model.decoder.parameters(), *module.model.prior.parameters()):
        parameter.mul_(1.5)
    head = [p for p in module.encoder.parameters() if p.ndim == 1][-1]
    head[K:] += widen
    return module


def code_of(module: GaussianVAE, N: int) -> BitsBack:
    latents = latent_code_of(module.model.prior)
    assert latents is not None
    return BitsBack(module.model, module.propose, BernoulliPixels(), latents, N, 0)


def mixture(N: int) -> MixtureCode:
    return MixtureCode(rounded(3 * torch.randn(N, D)))


def pushed(code: Code, x: Tensor, start: Words = ENOUGH) -> tuple[BitStack, Tensor]:
    stack = BitStack(start)
    parts = x.split([*blocks(len(x), code.borrowed)])
    return stack, torch.cat([code.push(stack, part, number) for number, part in enumerate(parts)])


def popped(code: Code, stack: BitStack, count: int) -> Tensor:
    sizes = [*enumerate(blocks(count, code.borrowed))]
    return torch.cat([code.pop(stack, size, number) for number, size in reversed(sizes)][::-1])


def test_a_stack_gives_back_what_it_took_in_the_bits_that_probabilities_say() -> None:
    rng = np.random.default_rng(0)
    sizes, p, weights = rng.integers(1, 5000, 3000), rng.random(3000), rng.random((500, 9)) ** 4
    values, bits = rng.integers(0, sizes), (rng.random(3000) < p).astype(np.int64)
    normalised = weights / weights.sum(1, keepdims=True)
    choices = np.array([rng.choice(9, p=each) for each in normalised])
    stack = BitStack(ENOUGH)
    before = stack.bits
    stack.push_uniform(values, sizes)
    stack.push_bits(bits, p)
    stack.push_choices(choices, weights)
    expected = np.log2(sizes).sum() - np.log2(np.where(bits, p, 1 - p)).sum()
    expected -= np.log2(normalised[np.arange(500), choices]).sum()
    assert stack.bits - before == pytest.approx(expected, abs=WORD + expected * 2e-4)
    stack = BitStack(stack.words, sealed=True)
    assert (stack.pop_choices(weights) == choices).all()
    assert (stack.pop_bits(p) == bits).all()
    assert not stack.is_back_at(ENOUGH)
    assert (stack.pop_uniform(sizes) == values).all()
    assert stack.is_back_at(ENOUGH)
    assert not stack.is_back_at(ENOUGH[1:])


def test_noise_comes_out_as_the_probabilities_say() -> None:
    stack = BitStack(noise_words(200_000, 1, 0))
    choices = torch.from_numpy(stack.pop_choices(np.tile([1.0, 2.0, 5.0], (100_000, 1))))
    for value, p in enumerate([0.125, 0.25, 0.625]):
        assert_within((choices == value).double(), p, errors=4)
    assert_within(torch.from_numpy(stack.pop_bits(np.full(100_000, 0.3))).double(), 0.3, errors=4)
    with pytest.raises(ExhaustedError):
        stack.pop_uniform(np.full(10**6, 1000))
    with pytest.raises(ExhaustedError):
        BitStack(noise_words(1, 1, 0)).pop_choices(np.ones((1, 9)))


def test_noise_is_of_its_seed_and_stream() -> None:
    assert [*noise_words(3, 5, 7)] == [*noise_words(4, 5, 7)[:3]]
    assert (noise_words(9, 5, 7) != noise_words(9, 6, 7)).any()
    assert (noise_words(9, 5, 7) != noise_words(9, 5, 8)).any()


@pytest.mark.parametrize("borrowed", [0, 7, 64, 1100])
@pytest.mark.parametrize("count", [1, 2, 33, 34, 5000])
def test_blocks_are_of_all_images_and_find_their_bits(count: int, borrowed: int) -> None:
    sizes = [*blocks(count, borrowed)]
    assert sum(sizes) == count
    assert sizes[0] == 1
    assert sizes[:-1] == sorted(sizes[:-1])
    assert max(sizes) == 64 or count < 5000
    assert all(size == 1 or size * borrowed <= coding.BROUGHT * sum(sizes[:n]) for n, size in enumerate(sizes))


@pytest.mark.parametrize("N", [1, 2, 300])
def test_a_mixture_takes_its_log_probability_and_nothing_more(N: int) -> None:
    code, x = mixture(N), images(700)
    log_lik = torch.distributions.Bernoulli(logits=code.logits.unsqueeze(1)).log_prob(x).sum(-1)
    stack, log_p = pushed(code, x)
    assert torch.allclose(log_p, iw_elbo(log_lik), atol=1e-5)
    assert stack.bits - WORD * len(ENOUGH) == pytest.approx(-float(log_p.sum()) / math.log(2), abs=WORD)
    assert torch.equal(popped(code, BitStack(stack.words, sealed=True), 700), x)
    assert torch.equal(popped(code, stack, 700), x)
    assert stack.is_back_at(ENOUGH)


@pytest.mark.parametrize("flow", [False, True])
@pytest.mark.parametrize("N", [1, 4])
@pytest.mark.parametrize("K", [1, 2, 5])
def test_bits_back_gives_back_every_image(K: int, N: int, flow: bool) -> None:
    code, x = code_of(vae(K, flow, widen=-1.5), N), images(90)
    stack, log_p = pushed(code, x)
    excess = stack.bits - WORD * len(ENOUGH) + float(log_p.sum()) / math.log(2)
    assert abs(excess) <= 10  # bits for all images
    stack = BitStack(stack.words, sealed=True)
    assert torch.equal(popped(code, stack, 90), x)
    assert stack.is_back_at(ENOUGH)


@pytest.mark.parametrize("N", [1, 2, 16])
def test_the_length_is_the_bound_of_as_many_samples(N: int) -> None:
    """L_N by the evaluation's own draws; the difference of an image's two values has the noise of both."""
    module, x = vae(3), images(300)
    _, log_p = pushed(code_of(module, N), x)
    log_w = module.model.log_weights(x, module.propose(x), 10 * N, torch.Generator().manual_seed(1))
    bound = iw_elbo(log_w.view(10, N, -1).transpose(0, 1)).mean(0)
    assert_within(log_p - bound, 0.0, errors=3.5)


@pytest.mark.parametrize("flow", [False, True])
def test_the_length_comes_to_log_p(flow: bool) -> None:
    """K = 2: a code's mean length lies above −log p(x), and comes to it as N grows, with a flow too."""
    module, x = vae(2, flow), images(200)
    log_p = exact(module, x)
    lacking = [log_p - pushed(code_of(module, N), x)[1] for N in (1, 8, 64)]
    means = [float(each.mean()) for each in lacking]
    assert means[0] > means[1] > means[2]
    assert_within(lacking[2], 0.0, errors=4)


def exact(module: GaussianVAE, x: Tensor) -> Tensor:
    """log p(x) by quadrature over the prior's noise."""
    noise, log_weight = normal_grid(2)
    z = cast(NoisePrior, module.model.prior).transform(noise)
    return (module.model.log_likelihood(x, z.unsqueeze(1)) + log_weight.unsqueeze(1)).logsumexp(0)


GRIDS = {"equal mass": EqualMass().grid, "equal width": LocalBitsBack(FlowPrior(2).double()).grid}


def test_a_flow_codes_cells_in_as_many_bits_as_its_density_says() -> None:
    """Local bits back loses less than a hundredth of a nat a dimension; and cells far out come back as well."""
    prior = cast(FlowPrior, vae(5, flow=True).model.prior)
    code, z = LocalBitsBack(prior), prior.sample(3000, torch.Generator().manual_seed(0))
    number = np.searchsorted(code.grid.edges, z.numpy()) - 1
    assert (code.centres(number) - z).abs().max() <= code.WIDTH
    stack = BitStack(ENOUGH)
    for part in np.split(number, 30):
        code.push(stack, part)
    nats = (stack.bits - WORD * len(ENOUGH)) * math.log(2)
    assert nats / 3000 == pytest.approx(-float(code.log_mass(code.centres(number)).mean()), abs=0.05)
    found = [code.pop(stack, (100, 5)) for _ in range(30)]
    assert (np.concatenate(found[::-1]) == number).all()
    assert stack.is_back_at(ENOUGH)
    far = np.random.default_rng(0).integers(0, len(code.grid.centres), (50, 5))
    code.push(stack, far)
    assert (code.pop(stack, (50, 5)) == far).all()
    assert stack.is_back_at(ENOUGH)


@pytest.mark.parametrize("name", GRIDS)
def test_the_cells_share_a_gaussians_units(name: str) -> None:
    """Each unit belongs to one cell; together the cells have all; a cell has its mass to a unit."""
    grid = GRIDS[name]
    start, size = grid.units(np.arange(len(grid.centres)), np.array([0.7]), np.array([0.3]))
    assert start[0] == 0
    assert (start[1:] == start[:-1] + size[:-1]).all()
    assert start[-1] + size[-1] == 2**UNITS
    below = torch.distributions.Normal(0.7, 0.3).cdf(torch.from_numpy(grid.edges[1:-1]))
    mass = below.diff(prepend=torch.zeros(1), append=torch.ones(1)).numpy()
    assert np.abs(size / 2**UNITS - mass).max() <= 2.0**-UNITS
    assert (np.diff(grid.centres) > 0).all()
    assert ((grid.edges[:-1] < grid.centres) & (grid.centres < grid.edges[1:])).all()


@pytest.mark.parametrize("grid", GRIDS.values(), ids=[*GRIDS])
@pytest.mark.parametrize("sigma", [2.0**-16, 0.01, 1.0, 30.0])
@pytest.mark.parametrize("mean", [-9.0, -0.3, 4.0])
def test_any_unit_has_its_cell_and_the_cell_is_found_again(mean: float, sigma: float, grid: Grid) -> None:
    """Also far out and where cells are much wider or narrower than a Gaussian; two dimensions that depend."""
    rng = np.random.default_rng(0)
    factor = np.tile(np.array([[sigma, 0.0], [-0.8 * sigma, 0.6 * sigma]]), (20, 1, 1))
    q = Gaussians(np.tile([mean, 0.5], (20, 1)), factor)
    units = rng.integers(0, 2**UNITS, (50, 20, 2))
    units[0], units[1] = 0, 2**UNITS - 1
    cells = grid.cells(q, units)
    assert ((cells.start <= units) & (units < cells.start + cells.size)).all()
    assert cells.number.min() >= 0
    assert cells.number.max() < len(grid.centres)
    alone = cells.of(np.full(20, 7))
    again = grid.cells_of(q, alone.number)
    assert (again.start == alone.start).all()
    assert (again.size == alone.size).all()


def test_what_decides_a_code_does_not_depend_on_what_is_computed_together() -> None:
    """Logits, weights and cells of one image at a time, of all, and in another order, by one thread or two."""
    module, x = vae(4, flow=True), images(70)
    code = code_of(module, 3)
    units = np.random.default_rng(0).integers(0, 2**UNITS, (3, 70, 4))
    grid, centres = code.latents.grid, code.latents.centres
    cells = grid.cells(code.gaussians(x), units)
    parameters, log_w = code.parameters(centres(cells.number)), code.log_weights(x, cells)
    threads = torch.get_num_threads()
    for rows in (torch.arange(70).split(1), torch.randperm(70).split(33)):
        torch.set_num_threads(2)
        try:
            for some in rows:
                here = grid.cells(code.gaussians(x[some]), units[:, some.numpy()])
                assert (here.number == cells.number[:, some.numpy()]).all()
                assert torch.equal(code.parameters(centres(here.number)), parameters[:, some])
                assert torch.equal(code.log_weights(x[some], here), log_w[:, some])
        finally:
            torch.set_num_threads(threads)
    mixed, order = mixture(500), torch.randperm(500)
    reordered = MixtureCode(mixed.logits[order])
    assert torch.equal(reordered.log_likelihoods(x), mixed.log_likelihoods(x)[:, order])


def test_rounding_costs_next_to_nothing() -> None:
    """784 pixels of any probability, logits between two steps: Σ KL is below 2e-7 nats a pixel."""
    logits = torch.linspace(-12, 12, 784, dtype=torch.float64) + 0.3 * coding.STEP
    p = torch.distributions.Bernoulli(logits=logits)
    q = torch.distributions.Bernoulli(logits=BernoulliPixels().parameters_of(logits))
    assert 0 < float(torch.distributions.kl_divergence(p, q).mean()) < 2e-7
