"""Compress and decompress as a user calls them: every kind of model, damaged files, and what is refused."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import lvm_lightning
from lvm_lightning.studies.code_file import Header, read_code, write_code
from lvm_lightning.studies.compress import CODERS
from lvm_lightning.studies.decompress import decoded
from lvm_lightning.support import UserError
from lvm_lightning.support.bits import noise_words
from tests.command import SMALL_FIT, command
from tests.conftest import ROOT, Run, arrays, commands_in
from tests.small import SmallImages

HEADER = Header("weights", (4, 3), 103, 2, 0, 3, "images")
SMALL = [
    *SMALL_FIT[3:11],
    *SMALL_FIT[15:],
    *["--model.decoder.hidden", "[8]", "--trainer.max_steps", 12, "--trainer.val_check_interval", 12],
]
"""Any config as a run of a second."""
ENCODER = ["--model.encoder.hidden", "[8]", "--model.latent_dim", 3]
MODELS: dict[str, list[object]] = {
    "prior_iwae": ["--model.inner_samples", 40],
    "latent_mixture": ["--model.components", 30, "--model.latent_dim", 2],
    "burda_vae": ENCODER,
    "burda_iwae_5": ENCODER,
    "flow_prior": [*ENCODER, "--model.prior.hidden", "[8]"],
}


def fit(name: str) -> list[object]:
    return ["fit", "--config", ROOT / "configs" / f"{name}.yaml", *SMALL, *MODELS.get(name, ENCODER)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of each model, and what it compressed."""
    folder = tmp_path_factory.mktemp("runs")
    for name in MODELS:
        commands_in(folder, fit(name), ["compress", f"runs/{name}/version_0"])
    return folder / "runs"


def held_out() -> torch.Tensor:
    data = SmallImages()
    data.setup()
    return torch.cat([batch.x for batch in data.test_dataloader()])


@pytest.mark.parametrize("name", MODELS)
def test_images_come_back_and_the_rate_is_the_bound(name: str, runs: Path, run: Run) -> None:
    folder = runs / name / "version_0"
    assert run("decompress", folder / "images.lvmc", "--output", "back") == 0
    x = arrays("back/images.npz")["x"]
    assert x.shape == (103, 4, 3)
    assert x.dtype == np.uint8
    assert (x.reshape(103, -1) == held_out().numpy()).all()
    found = {q["name"]: q for q in json.loads((folder / "compression.json").read_text())["quantities"]}
    rate = found["rate (initial bits apart)"]
    nats = rate["value"] * 12 * math.log(2)
    (bound,) = [q for q in found.values() if q["kind"] == "lower bound"]
    assert rate["samples"] == {"prior_iwae": 40, "latent_mixture": 30, "burda_iwae_5": 5}.get(name, 1)
    assert found[CODERS]["value"] == pytest.approx(0, abs=0.3)  # a word for a hundred small images
    between = next(q for n, q in found.items() if n.startswith("cells"))
    assert nats == pytest.approx(between["value"] - bound["value"] + found[CODERS]["value"], abs=1e-9)
    assert abs(between["value"]) <= (2e-3 if name in ("prior_iwae", "latent_mixture") else 4 * between["stderr"])
    size = (folder / "images.lvmc").stat().st_size
    assert found["whole file: this one"]["value"] == pytest.approx(8 * size / (103 * 12))


def test_settings_choose_images_and_samples(runs: Path, run: Run) -> None:
    """Evenly spaced images, N, a seed; and a file that is moved is read with --run."""
    folder = runs / "burda_vae" / "version_0"
    assert run("compress", folder, "--images", 20, "--samples", 3, "--seed", 4, "--output", "some") == 0
    header, words = read_code(Path("some/images.lvmc"))
    assert (header.count, header.samples, header.seed, header.shape) == (20, 3, 4, (4, 3))
    assert len(words) > header.start
    assert run("decompress", "some/images.lvmc", "--run", folder) == 0
    chosen = torch.linspace(0, 102, 20).round().long()
    assert (arrays("some/images.npz")["x"].reshape(20, -1) == held_out()[chosen].numpy()).all()


def test_other_numbers_than_the_writers_are_no_images(runs: Path) -> None:
    """As on a machine that computes otherwise: here with another decoder, whose digest nobody looks at."""
    for name in ("prior_iwae", "latent_mixture", "burda_iwae_5"):
        folder = runs / name / "version_0"
        module, (header, words) = lvm_lightning.load(folder), read_code(folder / "images.lvmc")
        found = decoded(module, header, words)
        assert found is not None
        assert torch.equal(found, held_out().double())
        with torch.no_grad():
            next(iter(module.model.decoder.parameters())).add_(0.3)
        assert decoded(module, header, words) is None


def test_a_mixture_keeps_its_points(runs: Path, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("compress", runs / "latent_mixture" / "version_0", "--samples", 7, "--output", "new") == 2
    assert "samples: must be the 30 points that the model has, got 7; leave it out" in capsys.readouterr().err


def test_a_damaged_file_is_refused_in_a_line(tmp_path: Path) -> None:
    """200 of them: bits turned, ends cut off, bytes put in. None is taken for the file."""
    path, words = tmp_path / "images.lvmc", noise_words(400, 0, 0)
    write_code(path, HEADER, words)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    header, found = read_code(path)
    assert header == HEADER
    assert (found == words).all()
    for number in range(200):
        damaged, at = bytearray(whole), int(rng.integers(len(whole)))
        if number % 4 == 0:
            damaged = damaged[:at]
        elif number % 4 == 1:
            damaged.insert(at, int(rng.integers(256)))
        else:
            damaged[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"^FILE: ") as told:
            read_code(path)
        assert "\n" not in str(told.value)


def test_what_cannot_be_read_is_refused_and_nothing_is_written(runs: Path, tmp_path: Path) -> None:
    files = {name: runs / name / "version_0" / "images.lvmc" for name in ("burda_vae", "burda_iwae_5")}
    newer = bytearray(files["burda_vae"].read_bytes())
    newer[4] = 9
    (tmp_path / "newer.lvmc").write_bytes(newer)
    shutil.copy(files["burda_vae"], tmp_path / "cut.lvmc")
    with (tmp_path / "cut.lvmc").open("r+b") as file:
        file.truncate(300)
    (tmp_path / "empty.lvmc").touch()
    of = ["--run", files["burda_vae"].parent]
    refused: list[tuple[list[object], str]] = [
        ([], "FILE: must be one, got none"),
        ([*files.values()], "FILE: must be one, got 2 files"),
        ([tmp_path / "no.lvmc"], "no.lvmc (No such file or directory)"),
        ([tmp_path], "(Is a directory)"),
        ([tmp_path / "empty.lvmc", *of], "which is none"),
        ([tmp_path / "newer.lvmc", *of], "must have version 1, got 9"),
        ([tmp_path / "cut.lvmc", *of], "is damaged or not whole"),
        ([files["burda_iwae_5"], *of, "--output", tmp_path / "new"], "--run: must be the model that wrote"),
    ]
    for words, told in refused:
        done = command(tmp_path, "decompress", *words)
        assert done.status == 2, done.err
        assert done.err.startswith("lvm-lightning: error: ")
        assert len(done.err.splitlines()) == 1
        assert told in done.err
    assert not [*tmp_path.rglob("*.npz")]
    assert not [*runs.rglob("images.npz")]


@pytest.mark.parametrize(
    ("name", "more", "told"),
    [
        ("iaf_vae", ["--model.posterior.hidden", "[8]"], "got FlowProposal and StandardNormal"),
        ("burda_vae", ["--model.prior", "VampPrior"], "got DiagonalGaussian and VampPrior"),
        (
            "burda_vae",
            ["--model.likelihood", "Gaussian"],
            "a code needs binary images and a Bernoulli likelihood, got GaussianVAE with Gaussian",
        ),
    ],
)
def test_a_model_without_a_code_is_refused(
    name: str, more: list[object], told: str, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*fit(name), *more, "--trainer.max_steps", 2) == 0
    capsys.readouterr()
    assert run("compress", f"runs/{name}/version_0") == 2
    assert told in capsys.readouterr().err
    assert not [*Path().rglob("*.lvmc")]


def test_the_toy_has_no_images(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("fit", "--config", "exponential_posterior", "--trainer.max_steps", 2) == 0
    assert run("compress", "runs/exponential_posterior/version_0") == 2
    assert "a code needs binary images" in capsys.readouterr().err
