"""Lattices that become denser where a posterior is, against Gaussian posteriors in closed form."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lvm_lightning.evaluation.quadrature import GridQuadrature
from lvm_lightning.evaluation.refining import Lattice

SPACING = 0.1
SCALES = [(0.5, 0.5), (0.05, 0.05), (0.02, 0.02), (0.02, 0.2), (0.3, 0.03)]
"""Standard deviations of the likelihood in z, of 5 to a fifth of the grid's spacing, round and not."""


def gaussian(scales: tuple[float, ...], angle: float) -> Callable[[Tensor, Tensor], Tensor]:
    """log N(x; z, R diag s² Rᵀ), z ``(*S, B, K)``, x ``(B, K)`` → ``(*S, B)``."""
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])[
        : len(scales), : len(scales)
    ]
    turn = turn if len(scales) == 2 else torch.ones(1, 1)
    s = torch.tensor(scales)

    def log_lik(z: Tensor, x: Tensor) -> Tensor:
        return (-0.5 * ((x - z) @ turn / s).square() - s.log() - 0.5 * math.log(2 * math.pi)).sum(-1)

    return log_lik


def exact(x: Tensor, scales: tuple[float, ...], angle: float) -> Tensor:
    c, s = math.cos(angle), math.sin(angle)
    turn = torch.tensor([[c, -s], [s, c]]).double() if len(scales) == 2 else torch.ones(1, 1).double()
    covariance = turn @ torch.diag(torch.tensor(scales).double() ** 2) @ turn.T + torch.eye(len(scales)).double()
    normal = torch.distributions.MultivariateNormal(torch.zeros(len(scales)).double(), covariance)
    log_p: Tensor = normal.log_prob(x.double())
    return log_p


def decode(z: Tensor) -> Tensor:
    return z


@pytest.mark.parametrize(("scales", "angle"), [*itertools.product(SCALES, (0.0, 0.5)), ((0.02,), 0.0), ((0.3,), 0.0)])
def test_sharp_posteriors_are_measured_to_the_tolerance(scales: tuple[float, ...], angle: float) -> None:
    x = torch.randn(200, len(scales), generator=torch.Generator().manual_seed(0))
    log_lik = gaussian(scales, angle)
    value, error = GridQuadrature(decode, log_lik, len(scales), spacing=SPACING).measure(x)
    assert float(error.max()) < 2 * 3e-3
    off = (value - exact(x, scales, angle)).abs()
    # of a posterior that lies just between two rows of points all cosets can say the same, and be wrong
    assert float((off < error + 1e-4).double().mean()) >= 0.98
    assert float(off.max()) < 0.05
    assert float(off.mean()) < 1e-3
    if min(scales) < 0.5 * SPACING:
        coarse, stated = GridQuadrature(decode, log_lik, len(scales), spacing=SPACING, tolerance=math.inf).measure(x)
        assert float((coarse - exact(x, scales, angle)).abs().mean()) > 10 * float(off.mean())
        assert float(stated.mean()) > 0.05


def test_several_modes_of_different_width_are_all_found() -> None:
    narrow, wide = gaussian((0.03, 0.03), 0.0), gaussian((0.3, 0.3), 0.0)
    x = torch.randn(100, 2, generator=torch.Generator().manual_seed(0))

    def log_lik(z: Tensor, x: Tensor) -> Tensor:
        return torch.logaddexp(narrow(z, x), wide(z, -x)) - math.log(2)

    value, error = GridQuadrature(decode, log_lik, 2, spacing=SPACING).measure(x)
    of_each = torch.stack([exact(x, (0.03, 0.03), 0.0), exact(-x, (0.3, 0.3), 0.0)])
    assert ((value - (of_each.logsumexp(0) - math.log(2))).abs() < error + 1e-3).all()


def test_an_image_costs_the_others_nothing() -> None:
    """Sharp and wide ones together are what each is alone."""
    scales = torch.tensor([0.02, 0.5] * 20).unsqueeze(-1)
    x = torch.cat([scales, torch.randn(40, 2, generator=torch.Generator().manual_seed(0))], -1)

    def log_lik(z: Tensor, x: Tensor) -> Tensor:
        s, centre = x[:, :1], x[:, 1:]
        return (-0.5 * ((centre - z) / s).square() - s.log() - 0.5 * math.log(2 * math.pi)).sum(-1)

    quadrature = GridQuadrature(decode, log_lik, 2, spacing=SPACING)
    together = torch.stack(quadrature.measure(x))
    alone = torch.cat([torch.stack(quadrature.measure(part)) for part in x.split(7)], -1)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dim", [1, 2])
def test_a_denser_lattice_has_the_points_and_the_centres_of_the_cells(dim: int) -> None:
    index = torch.tensor(list(itertools.product(range(-3, 4), repeat=dim)))
    lattice = Lattice(
        0.5 * torch.eye(dim).double(), torch.zeros(len(index)).long(), index, torch.zeros(len(index)).double()
    )
    points = lattice.index.double() @ lattice.basis
    denser = lattice.denser()
    torch.testing.assert_close(denser.index.double() @ denser.basis, points, atol=1e-12, rtol=0)
    seen: list[Tensor] = []

    def log_joint(z: Tensor, which: Tensor, image: Tensor) -> Tensor:
        seen.append(z)
        return torch.zeros(len(image)).double()

    new = denser.centres(log_joint)
    halves = (new.index.double() @ new.basis) / 0.5 % 1
    torch.testing.assert_close(halves, torch.full_like(halves, 0.5), atol=1e-12, rtol=0)
    assert len(new.index.unique(dim=0)) == len(new.index) == 8**dim  # of the cells that these points touch
    both = Lattice.joined([denser, new])
    assert sum(len(part.image) for part in both.cosets()) == len(both.image)
    volume = float(torch.linalg.det(both.basis).abs())
    assert volume == pytest.approx(0.5**dim / 2)
