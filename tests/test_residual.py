"""Residual networks: shapes, the start as a shallow network, and what they refuse."""

import copy
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from lvm_lightning.densities import PixelwiseGaussian
from lvm_lightning.modules import GaussianVAE
from lvm_lightning.modules.optimizing import start_output_bias
from lvm_lightning.networks import (
    MLP,
    ConvDecoder,
    ResidualConvDecoder,
    ResidualConvEncoder,
    ResidualMLP,
    residual,
)
from lvm_lightning.networks.activations import Activation
from lvm_lightning.networks.residual import Block, FilterMatrix
from tests.small import batch_of, images


@pytest.mark.parametrize("blocks", [0, 1, 3])
@pytest.mark.parametrize(("side", "channels"), [(28, [4, 8, 16]), (8, [4, 6]), (12, [3, 4, 5]), (5, [4])])
def test_images_of_any_size_that_halves_go_in_and_come_out(side: int, channels: list[int], blocks: int) -> None:
    encoder = ResidualConvEncoder(side**2, 7, channels, blocks)
    decoder = ResidualConvDecoder(3, 2 * side**2, channels, blocks, parameters_per_pixel=2)
    assert encoder(torch.zeros(6, side**2)).shape == (6, 7)
    assert decoder(torch.zeros(2, 5, 3)).shape == (2, 5, 2 * side**2)
    assert sum(isinstance(m, Block) for m in encoder.modules()) == blocks * len(channels)
    assert sum(isinstance(m, Block) for m in decoder.modules()) == blocks * len(channels)


@pytest.mark.parametrize(
    "options", [{"kernel_size": 3, "padding": 1}, {"kernel_size": (2, 3), "stride": 2, "bias": False}]
)
def test_filters_as_rows_are_the_same_convolution(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    expected = nn.Conv2d(3, 5, **options)
    torch.manual_seed(0)
    found = FilterMatrix(3, 5, **options)
    assert found.weight.shape == (5, 3 * math.prod(expected.kernel_size))
    h = torch.randn(2, 3, 8, 8, requires_grad=True)
    torch.testing.assert_close(found(h), expected(h))
    of_rows, of_h = torch.autograd.grad(found(h).square().sum(), [found.weight, h])
    of_filters, expected_of_h = torch.autograd.grad(expected(h).square().sum(), [expected.weight, h])
    torch.testing.assert_close(of_rows, of_filters.permute(0, 2, 3, 1).flatten(1))
    torch.testing.assert_close(of_h, expected_of_h)
    other = FilterMatrix(3, 5, **options)
    for weights in (expected.state_dict(), found.state_dict()):  # of before, and of now
        other.load_state_dict(weights)
        assert torch.equal(other(h), found(h))


def test_decoding_without_a_gradient_is_decoding_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = ResidualConvDecoder(5, 64, [2, 3]).double()
    z = torch.randn(3, 4, 5, dtype=torch.float64)
    whole, seen = decoder(z), list[int]()
    decoder.layers[0].register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    monkeypatch.setitem(residual.PIECE, "cpu", 5)
    with torch.no_grad():
        torch.testing.assert_close(decoder(z), whole.detach(), rtol=1e-12, atol=1e-12)
    assert seen == [5, 5, 2]


def test_an_optimiser_of_matrices_trains_convolutions() -> None:
    """Muon takes what has two dimensions: all but biases and the 2 × 2 steps up, which Adam trains."""
    for network in (ResidualConvEncoder(64, 4, [2, 3]), ResidualConvDecoder(5, 64, [2, 3])):
        layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        assert all(m.weight.ndim == 2 for m in layers)


NETWORKS: dict[str, Callable[[Activation], tuple[nn.Module, int]]] = {
    "ResidualMLP": lambda a: (ResidualMLP(5, 4, width=6, blocks=2, activation=a), 5),
    "ResidualConvEncoder": lambda a: (ResidualConvEncoder(64, 4, [2, 3], activation=a), 64),
    "ResidualConvDecoder": lambda a: (ResidualConvDecoder(5, 64, [2, 3], activation=a), 5),
}


@pytest.mark.parametrize("activation", get_args(Activation))
@pytest.mark.parametrize("name", NETWORKS)
def test_the_gradient_is_that_of_finite_differences(name: str, activation: Activation) -> None:
    """Activations write over their input, and a block's input is needed again."""
    torch.manual_seed(1)
    network, width = NETWORKS[name](activation)
    network.double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    x = torch.randn(3, width, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(network, (x,))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_deep_network_starts_as_the_one_without_its_blocks(name: str) -> None:
    network, width = NETWORKS[name]("SiLU")
    shallow = copy.deepcopy(network)
    for parent in shallow.modules():
        for child, module in list(parent.named_children()):
            if isinstance(module, Block):
                setattr(parent, child, nn.Identity())
    x = torch.randn(4, width)
    assert torch.equal(network(x), shallow(x))
    blocks = [m for m in network.modules() if isinstance(m, Block)]
    assert blocks
    network(x).square().sum().backward()
    last = [list(block.parameters())[-2].grad for block in blocks]
    assert all(grad is not None and float(grad.norm()) > 0 for grad in last)  # and does not stay so


def test_a_blocks_input_is_left_as_it_was() -> None:
    h = torch.randn(3, 6) * 50
    before = h.clone()
    Block([nn.Linear(6, 6), nn.Linear(6, 6)], "ReLU")(h)
    assert torch.equal(h, before)


def test_a_pixel_stays_at_its_place() -> None:
    """Pixel (i, j) is number side · i + j: what the decoder's last convolution says of it depends on its neighbours."""
    decoder = ResidualConvDecoder(2, 64, [3, 4])
    picture = decoder.layers[:-1](torch.randn(1, 2))
    assert picture.shape == (1, 1, 8, 8)
    torch.testing.assert_close(nn.Flatten()(picture).view(8, 8), picture[0, 0])
    x = torch.zeros(1, 64)
    x[0, 8 * 3 + 5] = 1
    assert ResidualConvEncoder(64, 2, [3, 4])[0](x)[0, 0, 3, 5] == 1


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "a side that halves once": (
        lambda: ResidualConvEncoder(36, 4),
        "is a multiple of 4, got 36 pixels; give",
    ),
    "no square": (lambda: ResidualConvDecoder(2, 12, [4, 4]), "side is a multiple of 2, got 12 pixels"),
    "no level": (lambda: ResidualConvEncoder(64, 4, []), "0 levels of channels need"),
    "half a pixel": (
        lambda: ResidualConvDecoder(2, 65, [4], parameters_per_pixel=2),
        "^parameters_per_pixel: must divide the 65 outputs, got 2",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_in_one_line(case: str) -> None:
    make, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        make()


def test_the_output_bias_starts_from_the_pixels_means() -> None:
    """With a decoder whose last weights are 0, every image has the means of the training images."""
    network = ResidualConvDecoder(3, 16, [2])
    means = torch.linspace(0.1, 0.9, 16)
    start_output_bias(network, "pixel_means", SimpleNamespace(pixel_mean=lambda: means), torch.logit)
    with torch.no_grad():
        list(network.layers.children())[-2].weight.zero_()  # type: ignore[operator]
        torch.testing.assert_close(network(torch.randn(5, 3)).sigmoid(), means.expand(5, 16))


def test_a_model_of_them_trains_in_bfloat16_with_two_numbers_a_pixel() -> None:
    def encoder(fan_in: int, fan_out: int) -> ResidualConvEncoder:
        return ResidualConvEncoder(fan_in, fan_out, [2, 3])

    def decoder(fan_in: int, fan_out: int) -> ResidualConvDecoder:
        return ResidualConvDecoder(fan_in, fan_out, [2, 3], parameters_per_pixel=2)

    model = GaussianVAE(3, data_dim=16, inner_samples=4, encoder=encoder, decoder=decoder, likelihood=PixelwiseGaussian)
    x: Tensor = images(5)[:, :1].expand(5, 16).clone()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model.training_step(batch_of(x), 0)
    output["loss"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize("network", [MLP, ResidualMLP, ConvDecoder, ResidualConvDecoder])
def test_a_decoder_takes_no_points_and_one(network: Callable[[int, int], nn.Module], graph: bool) -> None:
    """A process may have no row of a last batch."""
    decoder = network(5, 784)
    with torch.set_grad_enabled(graph):
        assert decoder(torch.zeros(3, 0, 5)).shape == (3, 0, 784)
        assert decoder(torch.zeros(5)).shape == (784,)
