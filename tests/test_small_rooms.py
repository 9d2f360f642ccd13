"""Networks, seeds, quantities and pictures."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lvm_lightning.evaluation.quantity import Quantity, table, write_json
from lvm_lightning.figures import image_grid, latent_grid, render, save_png, training_curve
from lvm_lightning.figures.grids import tile
from lvm_lightning.networks import MLP
from lvm_lightning.randomness import PURPOSES, generator_for


def test_mlp_is_linear_layers_with_activations_between_them() -> None:
    network = MLP(2, 784, hidden=(5, 6), activation="Tanh")
    assert [type(layer) for layer in network] == [nn.Linear, nn.Tanh, nn.Linear, nn.Tanh, nn.Linear]
    assert network(torch.zeros(3, 1, 2)).shape == (3, 1, 784)
    assert [type(layer) for layer in MLP(2, 3, hidden=())] == [nn.Linear]


def test_the_default_decoder_is_the_sources() -> None:
    linear = [layer for layer in MLP(2, 784) if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == [
        (2, 512),
        (512, 512),
        (512, 512),
        (512, 784),
    ]


def test_noise_is_a_function_of_seed_purpose_and_step_and_of_each_of_them() -> None:
    def draw(seed: int, purpose: str, step: int) -> float:
        assert purpose in PURPOSES
        return float(torch.rand((), generator=generator_for(seed, purpose, step)))

    settings = list(itertools.product((0, 1, 2**64 - 1), PURPOSES, (0, 1, 10**6)))
    values = [draw(*setting) for setting in settings]
    assert values == [draw(*setting) for setting in settings]
    assert len(set(values)) == len(settings)


VALUES = torch.tensor([1.0, 2.0, 4.0, 5.0])


def quantity(values: torch.Tensor = VALUES) -> Quantity:
    return Quantity.mean_of("a bound", values, kind="lower bound", split="test", samples=1280)


def test_a_quantity_is_a_mean_with_its_standard_error() -> None:
    q = quantity()
    assert (q.value, q.images) == (3.0, 4)
    assert q.stderr == pytest.approx(np.std(VALUES.numpy(), ddof=1) / 2)
    assert math.isnan(quantity(VALUES[:1]).stderr)


def test_a_quantity_is_summed_in_float64() -> None:
    values = torch.full((100_000,), 140.1)
    assert quantity(values).value == pytest.approx(float(values[0]), abs=1e-9)


@pytest.mark.parametrize("values", [torch.zeros(0), torch.tensor([1.0, math.nan]), torch.tensor([-math.inf])])
def test_a_quantity_of_nothing_or_of_nan_is_refused(values: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"a bound: needs finite values of at least one image, got"):
        quantity(values)


def test_a_table_has_a_line_for_each_quantity() -> None:
    heading, _, line = table([quantity()]).splitlines()
    assert " ".join(heading.split()) == "quantity value ± standard error unit kind split samples images"
    assert " ".join(line.split()) == "a bound 3.00 ± 0.91 nats per image lower bound test 1,280 4"


def test_json_holds_what_the_quantity_holds(tmp_path: Path) -> None:
    write_json([quantity()], tmp_path / "evaluation.json")
    (loaded,) = json.loads((tmp_path / "evaluation.json").read_text())
    assert Quantity(**loaded) == quantity()
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation.json"]


def test_on_pixels_are_dark_on_white() -> None:
    images = torch.zeros(3, 4, 5)
    images[1] = 1
    picture = tile(images, columns=2)
    assert picture.shape == (2 * 4 + 3 * 2, 2 * 5 + 3 * 2)
    assert (picture[2:6, 2:7] == 1).all()
    assert (picture[2:6, 9:14] == 0).all()
    assert picture.sum() == picture.numel() - 20


def test_figures_become_png_files(tmp_path: Path) -> None:
    images = torch.rand(9, 4, 5)
    for name, figure in {
        "grid": image_grid(images, "images"),
        "latent": latent_grid(images, 3.0, "latent"),
        "curve": training_curve([-200.0 + i for i in range(60)], "curve"),
        "short": training_curve([-200.0], "one step"),
    }.items():
        pixels = render(figure)
        assert pixels.ndim == 3
        assert pixels.std() > 0
        save_png(pixels, tmp_path / "figures" / f"{name}.png")
    assert len(list((tmp_path / "figures").glob("*.png"))) == 4


def test_latent_grid_has_z1_to_the_right_and_z2_up() -> None:
    (axes,) = latent_grid(torch.rand(9, 4, 5), 3.0, "latent").axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["-3.0", "0.0", "3.0"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["3.0", "0.0", "-3.0"]
    assert axes.yaxis_inverted()  # rows of an image run downwards: the first row is the largest z2
