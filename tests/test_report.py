"""A page for a run: what it holds, from the run's files alone, and that it needs nothing else."""

import base64
import copy
import csv
import dataclasses
import json
import re
import shutil
import zlib
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

import lvm_lightning
from lvm_lightning.densities import Gaussian
from lvm_lightning.evaluation.report import Quantity, with_error
from lvm_lightning.modules import GaussianVAE, PriorIWAE
from lvm_lightning.networks import ConvDecoder, ResidualMLP
from lvm_lightning.studies import Report
from lvm_lightning.studies.explorer import EXTENT, SIDE, interactive, lacks, proposals
from lvm_lightning.studies.run_files import OF_A_QUANTITY, POINTS, differing, read_run, thinned
from lvm_lightning.support.errors import UserError
from tests.command import SMALL_FIT
from tests.conftest import Run, commands_in
from tests.small import D, SmallImages
from tests.test_diagnosis import written_run

FOLDER = Path("runs") / "prior_iwae" / "version_0"


@pytest.fixture(scope="module")
def tested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder in which a small run was trained and tested."""
    folder = tmp_path_factory.mktemp("report")
    commands_in(folder, [*SMALL_FIT, "--test_after_fit", "true"])
    return folder / FOLDER


def data_of(page: str) -> dict[str, Any]:
    """What the scripts of a page draw."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return dict(json.loads(found[1]))


def test_a_page_holds_numbers_curves_pictures_and_where_they_come_from(tested: Path) -> None:
    page = (tested / "report.html").read_text()
    text = unescape(page).replace("\u00a0", " ")
    for q in json.loads((tested / "evaluation.json").read_text())["quantities"]:
        assert q["name"] in text
        assert with_error(q["value"], q["stderr"]).replace("-", "−") in text
    assert (tested / "config.yaml").read_text() in text
    assert f"lvm-lightning fit --config {FOLDER}/config.yaml" in text
    (train, val) = data_of(page)["curves"]
    with (tested / "training_bound.csv").open(newline="") as file:
        kept = [[float(step), float(bound)] for step, bound in [*csv.reader(file)][1:]]
    assert train["points"] == kept
    assert (train["tag"], val["tag"]) == ("train/bound", "val/bound")
    assert [step for step, _ in val["points"]] == [5, 10, 15, 20, 25, 30]
    assert len(re.findall(r'<img src="data:image/png;base64,', page)) == len([*(tested / "figures").glob("*.png")]) - 1
    assert len(page.encode()) < 1_000_000


def test_a_page_asks_for_nothing_outside(tested: Path) -> None:
    page = (tested / "report.html").read_text()
    assert all(source.startswith("data:") for source in re.findall(r'\s(?:src|href)="?([^"\s>]*)', page))
    assert not re.findall(r"@import|url\(|fetch\(|XMLHttpRequest", page)


def test_a_run_without_checkpoint_and_test_has_a_page(tested: Path, tmp_path: Path) -> None:
    left = tmp_path / "run"
    shutil.copytree(tested, left, ignore=shutil.ignore_patterns("checkpoints", "evaluation*", "report.html", "figures"))
    assert "report.html" in Report(left).run()
    page = (left / "report.html").read_text()
    assert "This folder has no test." in page
    assert "No explorer: this folder has no checkpoint." in page
    assert len(data_of(page)["curves"]) == 2


def test_the_page_holds_weights_in_16_bits_and_a_grid_in_bytes(tested: Path, tmp_path: Path) -> None:
    Report(tested, output=tmp_path).run()
    page = (tmp_path / "report.html").read_text()
    held, module = data_of(page)["explorer"], lvm_lightning.load(tested)
    assert data_of((tested / "report.html").read_text())["explorer"] == held  # that of the test
    assert '<section id="explorer"' in page
    linear = [layer for layer in module.model.decoder.children() if isinstance(layer, nn.Linear)]
    for layer, kept in zip(linear, held["layers"], strict=True):
        levels, scale = unpacked(kept["weights"], "<i2").reshape(layer.weight.shape), unpacked(kept["scale"], "<f4")
        assert np.abs(levels * scale[:, None] - layer.weight.detach().numpy()).max() <= 0.51 * scale.max()
        assert np.array_equal(unpacked(kept["bias"], "<f4"), layer.bias.detach().numpy())
    assert [kept["activation"] for kept in held["layers"]] == ["", "SiLU"]
    differences = np.frombuffer(zlib.decompress(base64.b64decode(held["table"]["levels"])), np.uint8)
    levels = differences.reshape(SIDE, SIDE, -1).cumsum(0).cumsum(1) % 256
    low, step = (unpacked(held["table"][name], "<f4") for name in ("low", "step"))
    axis = torch.linspace(-EXTENT, EXTENT, SIDE)
    with torch.no_grad():
        logits = module.model.decode(torch.cartesian_prod(axis, axis)).view(SIDE, SIDE, -1).numpy()
    assert np.abs(low + step * levels - logits).max() <= 0.51 * step.max()


def unpacked(text: str, kind: str) -> npt.NDArray[Any]:
    """An array of a page."""
    return np.frombuffer(base64.b64decode(text), kind)


def test_a_model_that_cannot_be_explored_is_told_why() -> None:
    assert lacks(PriorIWAE(data_dim=12)) == ""
    assert "a standard normal prior with K ≥ 2, got StandardNormal with K = 1" in lacks(PriorIWAE(1, data_dim=12))
    assert lacks(PriorIWAE(decoder=ResidualMLP, data_dim=12)) == ""
    told = "an MLP or a ResidualMLP as decoder, got ConvDecoder"
    assert lacks(PriorIWAE(decoder=ConvDecoder)) == told
    grey = GaussianVAE(latent_dim=2, likelihood=Gaussian, data_dim=12)
    assert lacks(grey) == "a Bernoulli likelihood, got Gaussian"
    assert proposals(PriorIWAE(data_dim=12), torch.zeros(2, 12)) is None


def test_a_test_without_a_data_module_has_a_page_too() -> None:
    assert interactive(lambda: PriorIWAE(data_dim=12), lambda: None).notes == ("No explorer: it needs a data module.",)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("family", [PriorIWAE, GaussianVAE])
@pytest.mark.parametrize("latent_dim", [2, 3])
def test_models_of_any_precision_are_explored(family: type, latent_dim: int, dtype: torch.dtype) -> None:
    data = SmallImages()
    data.setup()
    single = family(latent_dim=latent_dim, data_dim=D)
    other = copy.deepcopy(single).to(dtype)
    one, two = (interactive(lambda m=module: m, lambda: data).data["explorer"] for module in (single, other))  # type: ignore[misc]
    assert one.keys() == two.keys()
    assert one["images"] == two["images"]
    off = 0.02 if dtype == torch.bfloat16 else 1e-6
    if latent_dim == 2:
        theirs, sums = (unpacked(of["table"]["partition"], "<f4") for of in (one, two))
        np.testing.assert_allclose(sums, theirs, rtol=off)
    if family is GaussianVAE:
        np.testing.assert_allclose(np.array(two["proposals"]), np.array(one["proposals"]), rtol=off, atol=off)


def test_what_is_wrong_with_a_model_costs_the_explorer_alone(tested: Path, tmp_path: Path) -> None:
    shutil.copytree(tested, tmp_path / "run")
    for checkpoint in (tmp_path / "run" / "checkpoints").iterdir():
        checkpoint.write_bytes(b"nothing")
    Report(tmp_path / "run").run()
    assert re.search(r"No explorer: [^<]*(best|last)\.ckpt", (tmp_path / "run" / "report.html").read_text())


def test_a_csv_logger_serves_as_well(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("seed_everything: 0\n")
    (tmp_path / "metrics.csv").write_text("epoch,step,train/bound,val/bound\n0,4,-5.5,\n0,9,,-4.5\n")
    assert read_run(tmp_path).curves == {"train/bound": [(4, -5.5)], "val/bound": [(9, -4.5)]}


def test_a_page_asks_for_all_that_a_test_says_of_a_number() -> None:
    """The page is made without the rest of the package, and so has the names once more."""
    assert tuple(field.name for field in dataclasses.fields(Quantity)) == OF_A_QUANTITY


def test_several_runs_stand_side_by_side(tmp_path: Path) -> None:
    images = torch.randn(100, dtype=torch.float64)
    first, second = written_run(tmp_path / "a", images), written_run(tmp_path / "b", images + 2)
    for folder, rate in ((first, 0.1), (second, 0.2)):
        (folder / "config.yaml").write_text(f"model: {{lr: {rate}}}\nseed_everything: 0\n")
    assert f"written to {first / 'comparison.html'}" == Report(first, second).run()
    page = unescape((first / "comparison.html").read_text()).replace("\u00a0", " ")
    assert re.search(r"<td>\+2(\.\d+)?( ± \S+)? paired", page)
    assert "<tr><td>model.lr</td><td>0.1</td><td>0.2</td></tr>" in page
    assert "seed_everything</td>" not in page
    other = written_run(tmp_path / "c", images, digest="another")
    Report(first, other, output=tmp_path / "out").run()
    assert "Not compared: the runs must be about the same data" in (tmp_path / "out" / "comparison.html").read_text()


def test_text_of_a_run_is_no_html(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("name: </script><script>alert(1)</script>\n")
    (tmp_path / "metrics.csv").write_text("step,val/bound\n0,-1\n")
    Report(tmp_path).run()
    assert "alert(1)</script>" not in (tmp_path / "report.html").read_text()


def test_many_steps_are_thinned_to_means() -> None:
    points = thinned([(float(i), float(i % 2)) for i in range(1, 4 * POINTS + 1)])
    assert len(points) == POINTS
    assert points[0] == (4, 0.5)
    assert thinned([]) == []


def test_settings_that_are_the_same_are_left_out() -> None:
    assert differing([{"a": {"b": 1, "c": [2]}}, {"a": {"b": 1, "c": [3]}, "d": {}}]) == [
        ["a.c", "[2]", "[3]"],
        ["d", "—", "{}"],
    ]


def test_a_damaged_file_of_the_run_costs_the_page_of_a_test_and_not_the_test(
    tested: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tested.parents[2], tmp_path / "copy")
    (tmp_path / "copy" / FOLDER / "training_bound.csv").write_text("step,bound\n1,many\n")
    commands_in(tmp_path / "copy", ["test", FOLDER, "--trainer.enable_progress_bar", "false"])
    assert "warning: no report.html: RUN: a file in" in (printed := capsys.readouterr().out)
    assert printed.strip().endswith("evaluation.json")


def test_mistakes_are_one_line(tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("report") == 2
    assert "RUN: must be the folder of a run, got none" in capsys.readouterr().err
    assert run("report", "nowhere") == 2
    assert "RUN: must be the folder of a run, got nowhere, without config.yaml" in capsys.readouterr().err
    for name, content, told in (
        ("evaluation.json", '{"quantities": [{"name": "ELBO"}], "provenance": {}}', "KeyError: 'value'"),
        ("config.yaml", "a: [", "ParserError"),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(UserError, match=f"a file in .* cannot be read .{told}"):
            Report(tmp_path).run()
