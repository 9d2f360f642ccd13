"""Networks, seeds, quantities and pictures."""

import itertools
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from jsonargparse import ArgumentError, ArgumentParser
from torch import nn

from lvm_lightning.callbacks import BoundProgressBar
from lvm_lightning.evaluation import Measured, Quantity, table
from lvm_lightning.evaluation.report import (
    FinishedBatches,
    Provenance,
    digest_of_weights,
    with_error,
    write_report,
)
from lvm_lightning.figures.curves import new_figure, training_curve
from lvm_lightning.figures.latents import latent_scatter, principal_axes, separating_axes, unit_activity
from lvm_lightning.figures.pictures import (
    Vector,
    darkness,
    image_grid,
    latent_grid,
    reconstruction_grid,
    render,
    save_figure,
    save_png,
    tile,
)
from lvm_lightning.modules import provenance as about
from lvm_lightning.modules.provenance import versions
from lvm_lightning.networks import MLP, ConvDecoder, ConvEncoder
from lvm_lightning.support import argtypes
from lvm_lightning.support.randomness import PURPOSES, Rows, dropout, generator_for


class Strict:
    """Takes a number of a restricted type."""

    def __init__(self, rate: argtypes.NonNegativeFloat = 0.5, sizes: Sequence[argtypes.PositiveInt] = (1,)) -> None:
        self.rate, self.sizes = rate, sizes


class Free(Strict):
    """Takes any."""

    def __init__(self, rate: float = 0.5, sizes: Sequence[int] = (1,)) -> None:
        super().__init__(rate, sizes)


def test_a_number_that_another_class_takes_over_is_a_plain_one() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--of", type=Strict)
    strict = ["--of", f"{__name__}.Strict", "--of.rate", "0.25", "--of.sizes", "[3, 4]"]
    for arguments in (strict, [*strict, "--of", f"{__name__}.Free"]):
        parsed = parser.parse_args(arguments)
        assert yaml.safe_load(parser.dump(parsed))["of"]["init_args"] == {"rate": 0.25, "sizes": [3, 4]}
        of = parser.instantiate(parsed).of
        assert [type(number) for number in (of.rate, *of.sizes)] == [float, int, int]


ALLOWED_AND_REFUSED: dict[str, tuple[list[float], list[Any]]] = {
    "PositiveInt": ([1, 3.0], [0, 1.5, True]),
    "NonNegativeInt": ([0], [-1]),
    "Repeats": ([0, 2], [1, -1]),
    "OrUnlimited": ([-1, 0], [-2]),
    "ClosedUnitInterval": ([0, 1], [-0.1, 1.1]),
    "PositiveFloat": ([0.1], [0]),
    "NonNegativeFloat": ([0], [-0.1, "much"]),
}


def test_each_restricted_type_is_tried() -> None:
    made_here = {kind.__name__ for kind in argtypes.RULES if getattr(kind, "_restrictions", None)}
    assert made_here == set(ALLOWED_AND_REFUSED)


@pytest.mark.parametrize("name", ALLOWED_AND_REFUSED)
def test_a_restricted_type_allows_what_it_says_and_gives_a_plain_number(name: str) -> None:
    kind, (allowed, refused) = getattr(argtypes, name), ALLOWED_AND_REFUSED[name]
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--number", type=kind)
    for number in allowed:
        found = parser.parse_object({"number": number}).number
        assert found == number
        assert type(found) is (int if issubclass(kind, int) else float)
    for number in refused:
        with pytest.raises(ArgumentError):
            parser.parse_object({"number": number})


def test_mlp_is_linear_layers_with_activations_between_them() -> None:
    network = MLP(2, 784, hidden=(5, 6), activation="LeakyReLU")
    assert [type(layer) for layer in network] == [nn.Linear, nn.LeakyReLU, nn.Linear, nn.LeakyReLU, nn.Linear]
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


def shapes(layers: nn.Sequential, x: torch.Tensor, kinds: tuple[type[nn.Module], ...]) -> list[tuple[int, ...]]:
    """Channels and side of the image behind each layer of the given kinds."""
    found = []
    for layer in layers:
        x = layer(x)
        if isinstance(layer, kinds):
            found.append(tuple(x.shape[1:3]))
    return found


def test_the_convolutional_encoder_has_the_systems_shapes() -> None:
    encoder = ConvEncoder(784, 64)
    assert encoder(torch.zeros(3, 784)).shape == (3, 64)
    assert shapes(encoder, torch.zeros(3, 784), (nn.Conv2d, nn.MaxPool2d)) == [
        *[(8, 26), (8, 24), (8, 12)],
        *[(16, 10), (16, 8), (16, 4)],
        *[(32, 3), (32, 2), (32, 1)],
    ]
    assert sum(isinstance(layer, nn.LeakyReLU) for layer in encoder) == 6
    linear = encoder[-1]
    assert isinstance(linear, nn.Linear)
    assert (linear.in_features, linear.out_features) == (32, 64)


def test_the_convolutional_decoder_has_the_systems_shapes() -> None:
    decoder = ConvDecoder(32, 784)
    assert shapes(decoder.layers, torch.zeros(3, 32, 1, 1), (nn.Conv2d, nn.Upsample)) == [
        *[(32, 1), (32, 2), (16, 4), (16, 6), (16, 12)],
        *[(8, 14), (8, 14), (8, 28), (1, 28)],
    ]
    assert sum(isinstance(layer, nn.LeakyReLU) for layer in decoder.layers) == 5
    assert decoder(torch.zeros(4, 2, 3, 32)).shape == (4, 2, 3, 784)
    assert ConvDecoder(2, 2 * 784)(torch.zeros(5, 1, 2)).shape == (5, 1, 1568)


def test_a_decoded_pixel_stays_at_its_place_in_the_row() -> None:
    """(*, K) is decoded point by point, and pixel (i, j) is number 28 i + j."""
    decoder = ConvDecoder(2, 784)
    z = torch.randn(3, 4, 2)
    one = decoder.layers[:-1](z[1, 2].view(1, 2, 1, 1))
    torch.testing.assert_close(decoder(z)[1, 2].view(28, 28), one[0, 0])
    x = torch.zeros(1, 784)
    x[0, 28 * 3 + 5] = 1
    assert ConvEncoder(784, 2)[0](x)[0, 0, 3, 5] == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [(lambda: ConvEncoder(12, 4), "got 12; use MLP"), (lambda: ConvDecoder(4, 12), "got 12 outputs")],
)
def test_convolutions_serve_28_by_28_images(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"serves images of 784 pixels, {message}"):
        make()


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


def test_decimals_follow_the_standard_error() -> None:
    for spread, expected in [(1.0, "3.00 ± 0.91"), (1e-2, "3.0000 ± 0.0091"), (1e-9, "3 ± 9.1e-10")]:
        values = 3 + spread * (VALUES.double() - 3)
        assert expected in table([quantity(values)])
    exact = Quantity("log p(x)", -7.88061, 0.0, "nats", "exact", "test", 0, 1)
    assert " -7.88061  " in table([exact])
    assert "±" not in table([exact]).splitlines()[-1]
    assert with_error(1.5e130, 0.0) == "1.5e+130"
    assert with_error(2.0, math.nan) == with_error(2, 0) == "2"
    assert with_error(-1e40, 1e38) == "-1e+40 ± 1.0e+38"
    assert with_error(7.43928071e-06, 9.8e-07) == "7.44e-06 ± 9.8e-07"
    assert with_error(-130.123456789, 2e-7) == "-130.1234568 ± 2.0e-07"
    assert quantity(torch.full((5,), -7.880609)).stderr == 0  # not their rounding


def provenance(**changes: Any) -> Provenance:
    settings: dict[str, Any] = {"seed": 0, "data": {"digest": "a"}, "configuration": "b", "weights": "c"}
    return Provenance(**({**settings, "device": "cpu", "versions": versions()} | changes))


def test_a_report_holds_the_quantities_and_what_they_are_about(tmp_path: Path) -> None:
    write_report(tmp_path / "run" / "evaluation.json", [quantity()], provenance())
    content = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert Quantity(**content["quantities"][0]) == quantity()
    assert Provenance(**content["provenance"]) == provenance()
    assert content["provenance"]["versions"]["torch"] == torch.__version__.split("+")[0]
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["evaluation.json"]


def test_a_key_changes_with_what_the_numbers_depend_on() -> None:
    assert provenance().key == provenance(device="cuda", versions={}).key
    for change in ({"seed": 1}, {"data": {"digest": "b"}}, {"configuration": "x"}, {"weights": "x"}):
        assert provenance(**change).key != provenance().key


def test_a_digest_of_weights_sees_names_and_values() -> None:
    state = {"a": torch.zeros(2), "b": torch.ones(())}
    assert digest_of_weights(state) == digest_of_weights(dict(reversed(state.items())))
    assert digest_of_weights(state) != digest_of_weights({"a": torch.zeros(2), "c": torch.ones(())})
    assert digest_of_weights(state) != digest_of_weights({"a": torch.tensor([0.0, 1e-9]), "b": torch.ones(())})


def test_finished_batches_are_recalled_by_the_same_evaluation_alone(tmp_path: Path) -> None:
    first = FinishedBatches(tmp_path / "part", "key")
    assert first.recall("batch0") is None
    first.keep("batch0", [Measured("a bound", VALUES, "lower bound", 1280)])
    again = FinishedBatches(tmp_path / "part", "key")
    recalled = again.recall("batch0")
    assert recalled is not None
    assert torch.equal(recalled[0].values, VALUES)
    assert again.recalled == 1
    assert FinishedBatches(tmp_path / "part", "other").recall("batch0") is None
    (tmp_path / "part" / "batch0.npz").write_bytes(b"cut off")
    assert again.recall("batch0") is None
    again.clear()
    assert not (tmp_path / "part").exists()


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
        "latent": latent_grid(images, [-3.0, 0.0, 3.0], "latent"),
        "curve": training_curve([-200.0 + i for i in range(60)], "curve"),
        "short": training_curve([-200.0], "one step"),
        "reconstructions": reconstruction_grid(images, images, "reconstructions"),
        "scatter": latent_scatter(torch.randn(50, 5), torch.arange(50) % 10, "means"),
        "plane": latent_scatter(torch.randn(50, 2), torch.zeros(50, dtype=torch.int64), "means"),
        "line": latent_scatter(torch.randn(50, 1), torch.arange(50) % 10, "means"),
        "units": unit_activity(torch.rand(7), torch.tensor([0.0, 1e-3, 0.02, 0.5, 1.0, 1.0, 0.9]), 0.01),
    }.items():
        pixels = render(figure)
        assert pixels.ndim == 3
        assert pixels.std() > 0
        save_png(pixels, tmp_path / "figures" / f"{name}.png")
    assert len(list((tmp_path / "figures").glob("*.png"))) == 9


def test_latent_grid_has_z1_to_the_right_and_z2_up() -> None:
    (axes,) = latent_grid(torch.rand(9, 4, 5), [-3.0, 0.0, 3.0], "latent").axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["−3.0", "0.0", "3.0"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["3.0", "0.0", "−3.0"]
    assert axes.yaxis_inverted()  # rows of an image run downwards: the first row is the largest z2


def test_darkness_brings_a_pixel_range_to_0_1() -> None:
    x = torch.tensor([-3.0, -1.0, 0.0, 1.0, 2.0])
    assert darkness(x, (-1.0, 1.0)).tolist() == [0.0, 0.0, 0.5, 1.0, 1.0]


def test_reconstructions_stand_under_their_inputs_and_pairs_apart() -> None:
    inputs, reconstructions = torch.zeros(8, 4, 5), torch.ones(8, 4, 5)
    (axes,) = reconstruction_grid(inputs, reconstructions, "title", columns=4).axes
    picture = torch.as_tensor(np.asarray(axes.images[0].get_array()))
    assert picture.shape == (2 * (4 + 1 + 4) + 3 * 6, 4 * 5 + 5 * 6)
    assert (picture[6:11, 6:11] == 1).all()  # an input: zeros are white
    assert (picture[11:15, 6:11] == 0).all()
    assert (picture[15:21] == 1).all()  # six pixels to the next pair


def test_principal_axes_are_the_directions_of_largest_variance() -> None:
    points = torch.randn(5000, 3, dtype=torch.float64) * torch.tensor([1.0, 5.0, 2.0])
    coordinates, share = principal_axes(points + 7)
    for axis, column in enumerate([1, 2]):
        correlation = torch.corrcoef(torch.stack([coordinates[:, axis], points[:, column]]))[0, 1]
        assert abs(float(correlation)) > 0.99
    torch.testing.assert_close(share, torch.tensor([25.0, 4.0, 1.0], dtype=torch.float64) / 30, atol=0.02, rtol=0)


def test_a_scatter_names_digits_and_axes() -> None:
    (axes,) = latent_scatter(torch.randn(50, 5), torch.arange(50) % 10, "Means").axes
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [str(d) for d in range(10)]
    assert "discriminant axis 1" in axes.get_xlabel()
    (unlabelled,) = latent_scatter(torch.randn(50, 2), torch.zeros(50), "Means").axes
    assert unlabelled.get_legend() is None
    assert unlabelled.get_xlabel() == "z₁"
    (alike,) = latent_scatter(torch.randn(50, 5), torch.zeros(50), "Means").axes
    assert "principal axis 1" in alike.get_xlabel()


def test_separating_axes_find_classes_that_principal_axes_hide() -> None:
    label = torch.arange(600) % 3
    points = torch.randn(600, 5, dtype=torch.float64)
    points[:, 0] *= 100  # the widest direction tells nothing of the classes
    points[:, 3] += 6 * (label == 1)
    points[:, 4] += 6 * (label == 2)
    found = separating_axes(points, label)
    means = torch.stack([found[label == each].mean(0) for each in range(3)])
    spread = torch.cat([found[label == each] - means[each] for each in range(3)]).std(0)
    torch.testing.assert_close(spread, torch.ones(2, dtype=torch.float64), atol=0.02, rtol=0)
    assert torch.pdist(means).min() > 5


def test_each_pixel_of_an_image_is_a_whole_number_of_pixels() -> None:
    image = torch.rand(4, 7, 5).round()
    for figure in (image_grid(image, "a title"), latent_grid(image, [-1.0, 1.0], "a title\nin lines")):
        pixels, (axes,) = render(figure)[..., 0], figure.axes
        data = np.asarray(axes.images[0].get_array())
        scale = round(axes.bbox.width / data.shape[1])
        left, top = round(axes.bbox.x0), len(pixels) - round(axes.bbox.y1)
        shown = pixels[top : top + scale * data.shape[0], left : left + scale * data.shape[1]]
        same = shown == np.kron(255 * data, np.ones((scale, scale)))
        assert same[scale:-scale, scale:-scale].all()  # a tick may reach into the white frame


def test_ticks_are_plain_numbers() -> None:
    figure = training_curve([-100.0 - 1e-4 * i for i in range(3000)], "title", validation={1500: -100.1, 3000: -100.2})
    render(figure)
    (axes,) = figure.axes
    assert "2,000" in [label.get_text() for label in axes.get_xticklabels()]
    ticks = [label.get_text() for label in axes.get_yticklabels()]
    assert all(re.fullmatch(r"−\d+(\.\d+)?", tick) for tick in ticks), ticks
    assert "validation" in [text.get_text() for text in axes.get_legend().get_texts()]  # type: ignore[union-attr]


@pytest.mark.parametrize(("end", "named"), [(2000, ["1", "10", "100", "1,000"]), (8, ["1", "2", "5"])])
def test_logarithmic_ticks_are_plain_numbers_that_do_not_overlap(end: int, named: list[str]) -> None:
    figure, (axes,) = new_figure(5, 4)
    axes.plot([1, end], [1, 2])
    axes.set(xscale="log", xlim=(1, end))
    render(figure)
    ticks = [*axes.xaxis.get_major_ticks(), *axes.xaxis.get_minor_ticks()]
    shown = [tick.label1.get_text() for tick in ticks if 1 <= tick.get_loc() <= end]
    assert sorted(filter(None, shown), key=lambda text: float(text.replace(",", ""))) == named


@pytest.mark.parametrize("vector", ["svg", "pdf"])
def test_a_vector_graphic_lies_beside_the_png(vector: Vector, tmp_path: Path) -> None:
    save_figure(image_grid(torch.rand(9, 4, 5), "a title"), tmp_path / "one.png", vector)
    assert {path.name for path in tmp_path.iterdir()} == {"one.png", f"one.{vector}"}
    assert (tmp_path / f"one.{vector}").read_bytes()[:5] == {"svg": b"<?xml", "pdf": b"%PDF-"}[vector]


def test_units_are_counted_above_the_threshold() -> None:
    left, right = unit_activity(torch.tensor([0.1, 2.0, 1.0]), torch.tensor([0.001, 1.0, 0.5]), 0.01).axes
    assert "3.10 nats in all" in left.get_title()
    assert "2 of 3 units active" in right.get_title()
    heights = [bar.get_height() for bar in left.patches]  # type: ignore[attr-defined]
    assert heights == pytest.approx([2.0, 1.0, 0.1])


def test_the_progress_bar_draws_by_the_clock_and_the_last_state_in_any_case() -> None:
    bar = BoundProgressBar(seconds=1000)
    assert [bar._should_update(step, 4) for step in (1, 2, 3, 4)] == [True, False, False, True]
    eager = BoundProgressBar(seconds=0)
    assert all(eager._should_update(step, 4) for step in (1, 2, 3, 4))


def test_a_package_that_runs_from_its_sources_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(about, "PACKAGES", ("torch", "lvm-lightning-from-its-sources"))
    found = versions()
    assert found.pop("python")
    assert found == {"torch": torch.__version__.split("+")[0], "lvm-lightning-from-its-sources": "not installed"}


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_dropout_keeps_the_mean_and_its_rows(share: float) -> None:
    """Each number of 20,000 by 4 standard errors; rows of a batch are those of the whole."""
    x, rows = torch.tensor([[1.0, -2.0, 0.0]]).expand(20_000, 3), Rows(0, 20_000)
    whole = dropout(x, share, torch.Generator().manual_seed(0), rows)
    stderr = x[0].abs() * (share / (1 - share) / len(x)) ** 0.5
    assert ((whole.mean(0) - x[0]).abs() <= 4 * stderr).all()
    assert float((whole == 0)[:, 0].double().mean()) == pytest.approx(share, abs=4 * (0.25 / len(x)) ** 0.5)
    part = dropout(x[:50], share, torch.Generator().manual_seed(0), Rows(300, 20_000))
    assert torch.equal(part, whole[300:350])
