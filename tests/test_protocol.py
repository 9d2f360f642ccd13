"""What data say of themselves, and data that say nothing."""

import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lvm_lightning.data import ExponentialObservations, StaticMNIST
from lvm_lightning.data.loader import Batch
from lvm_lightning.data.protocol import (
    Description,
    described,
    evenly_spaced,
    examples,
    pixel_mean,
    require,
    require_values,
)
from lvm_lightning.evaluation import EvaluationSettings
from lvm_lightning.modules import GaussianVAE, PriorIWAE
from lvm_lightning.networks import MLP
from lvm_lightning.support.values import BINARY, REALS, UNIT, Support
from tests.conftest import ROOT, Run, arrays
from tests.digits import Digits, SilentDigits
from tests.small import SmallImages, small_trainer

PLAIN = pytest.mark.filterwarnings("ignore:.*does not have many workers")
NAMES = {"model": "PriorIWAE", "likelihood": "Bernoulli"}


def small(family: type[PriorIWAE] | type[GaussianVAE], **options: Any) -> PriorIWAE | GaussianVAE:
    return family(latent_dim=2, inner_samples=4, data_dim=64, decoder=lambda k, d: MLP(k, d, hidden=[8]), **options)


# Supports


def test_a_support_holds_what_lies_in_it() -> None:
    wide = Support(-1, 1)
    inside = {(a, b) for a in (BINARY, UNIT, wide, REALS) for b in (BINARY, UNIT, wide, REALS) if a.holds(b)}
    assert inside == {
        *((a, a) for a in (BINARY, UNIT, wide, REALS)),
        *((UNIT, BINARY), (wide, BINARY), (REALS, BINARY), (wide, UNIT), (REALS, UNIT), (REALS, wide)),
    }
    x = torch.tensor([-1.5, -1.0, 0.0, 0.5, 1.0, 2.0])
    assert BINARY.outside(x).tolist() == [-1.5, -1.0, 0.5, 2.0]
    assert wide.outside(x).tolist() == [-1.5, 2.0]
    assert len(REALS.outside(x)) == 0
    assert [str(s) for s in (BINARY, wide, REALS)] == ["{0, 1}", "[-1, 1]", "the real line"]


# Batches


@pytest.mark.parametrize("shape", [(3, 4), (3, 2, 2), (3, 1, 2, 2)])
@pytest.mark.parametrize("form", ["tensor", "list", "pair", "pair of names", "three"])
def test_a_batch_of_any_loader(shape: tuple[int, ...], form: str) -> None:
    x, label = torch.arange(12, dtype=torch.uint8).view(shape), torch.tensor([4, 5, 6])
    forms = {
        "tensor": x,
        "list": [x],
        "pair": (x, label),
        "pair of names": [x, ("a", "b", "c")],
        "three": (x, label, x),
    }
    batch = Batch.of(forms[form], rank=1, world_size=2)
    assert torch.equal(batch.x, torch.arange(12.0).view(3, 4))
    assert batch.label.tolist() == ([4, 5, 6] if form in ("pair", "three") else [0, 0, 0])
    assert (batch.start, batch.total) == (3, 6)


def test_a_batch_keeps_its_precision_and_a_batch_is_one_already() -> None:
    x = torch.ones(3, dtype=torch.float64)
    assert (Batch.of(x).x.shape, Batch.of(x).x.dtype) == ((3, 1), torch.float64)
    batch = Batch(x.view(3, 1), torch.zeros(3), 2, 9)
    assert Batch.of(batch, rank=1, world_size=4) is batch


@pytest.mark.parametrize(
    ("batch", "name"), [({"x": torch.ones(2)}, "dict"), ([], "list"), (["a"], "str"), (torch.tensor(1.0), "Tensor")]
)
def test_another_batch_is_refused_in_one_line(batch: object, name: str) -> None:
    with pytest.raises(ValueError, match=rf"^batch: must be a tensor \(B, …\) or .*, got {name} for x; give the .*$"):
        Batch.of(batch)


# Descriptions


def test_the_packaged_data_describe_themselves() -> None:
    data = SmallImages(binarisation="none", pixel_range="-1..1", seed=3)
    said = data.describe()
    assert (said.shape, said.pixels, said.support, said.scale) == ((4, 3), 12, Support(-1, 1), (-1, 1))
    assert said.labelled
    assert said.about == {}  # there is no digest of what has not been read
    data.setup()
    about = {"source": "MNIST", "binarisation": "none", "seed": 3, "threshold": 0.5, "dequantise": False}
    about |= {"pixel_range": "[-1, 1]", "eval_batch_size": 1000, "digest": data.digest()}
    assert data.describe().about == about
    said = ExponentialObservations(values=[1.0, 3.0]).describe()
    assert (said.shape, said.pixels, said.support) == (None, None, REALS)
    assert {**said.about, "digest": ""} == {"source": "observations", "n": 2, "mean": 2.0, "digest": ""}


def test_data_that_say_nothing_are_drawn_square_or_in_a_row() -> None:
    assert described(None, 64) == Description((8, 8), REALS)
    assert described(SilentDigits(), 60).shape == (1, 60)
    assert described(None, None).shape is None
    assert described(Digits(), 64).about["source"] == "digits"


@pytest.mark.parametrize(
    ("data", "support", "pixels", "message"),
    [
        (StaticMNIST(), BINARY, 10, "data_dim: must be the 784 pixels of an image, got 10; set it to 784"),
        (StaticMNIST(), REALS, None, "data: PriorIWAE models observations, got StaticMNIST; give the data module"),
        (ExponentialObservations(), REALS, 784, "data: PriorIWAE models images, got ExponentialObservations; give"),
        (
            StaticMNIST(binarisation="none"),
            BINARY,
            784,
            "data: a Bernoulli .* binary images, got grey ones; set",
        ),
        (
            *(StaticMNIST(binarisation="none", pixel_range="-1..1"), UNIT, 784),
            r"data: a Bernoulli likelihood needs values in \[0, 1\], got values in \[-1, 1\]; bring the data to",
        ),
    ],
)
def test_what_a_model_does_not_take_is_refused(
    data: pl.LightningDataModule, support: Support, pixels: int | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        require(data, support, pixels, **NAMES)


def test_what_a_model_takes_passes() -> None:
    require(None, BINARY, 784, **NAMES)
    require(SilentDigits(), BINARY, 784, **NAMES)
    require(StaticMNIST(), UNIT, 784, **NAMES)
    require(ExponentialObservations(), REALS, None, **NAMES)
    require_values(torch.full((2, 64), 0.5), UNIT, 64, likelihood="ContinuousBernoulli")
    with pytest.raises(ValueError, match=r"needs values in \[0, 1\], got the value 1.5; bring the data to \[0, 1\]"):
        require_values(torch.full((2, 64), 1.5), UNIT, 64, likelihood="ContinuousBernoulli")
    with pytest.raises(ValueError, match="data_dim: must be the 64 pixels of an image, got 784; set it to 64"):
        require_values(torch.ones(2, 64), UNIT, 784, likelihood="ContinuousBernoulli")


def test_pixel_means_are_asked_for_in_one_line() -> None:
    data = Digits()
    data.setup()
    assert pixel_mean(data, "output_bias: 'logit'", "set it to 'zero'").shape == (64,)
    for without, name in [(None, "none"), (SilentDigits(), "SilentDigits")]:
        message = rf"^output_bias: 'logit' needs a data module with pixel_mean\(\), got {name}; set it to 'zero'$"
        with pytest.raises(ValueError, match=message):
            pixel_mean(without, "output_bias: 'logit'", "set it to 'zero'")


def test_examples_are_evenly_spaced_rows_of_any_loader() -> None:
    data = SilentDigits()
    data.setup()
    every = data.set.tensors[0].float().flatten(1)
    assert torch.equal(examples(data, "test", 10), every[evenly_spaced(96, 10)])
    assert examples(ExponentialObservations(n=3), "test", 5).shape == (5, 3)


# A plain Lightning trainer, and the command


@PLAIN
@pytest.mark.parametrize("family", [PriorIWAE, GaussianVAE])
@pytest.mark.parametrize("labels", [False, True])
def test_plain_loaders_train_and_test_with_a_plain_trainer(
    family: type[PriorIWAE] | type[GaussianVAE], labels: bool, tmp_path: Path
) -> None:
    images = torch.randint(2, (96, 8, 8), generator=torch.Generator().manual_seed(0)).float()
    several = TensorDataset(images, torch.arange(96)) if labels else images
    loader: DataLoader[Any] = DataLoader(several, batch_size=32)  # type: ignore[arg-type]
    model = small(family, output_bias="zero")
    model.settings = EvaluationSettings(samples=50)
    trainer = small_trainer(tmp_path, max_steps=3)
    trainer.fit(model, loader, loader)
    trainer.test(model, loader, verbose=False)
    assert model.evaluation[0].images == 96
    batches = trainer.predict(model, loader)
    assert batches is not None
    assert torch.cat([part["label"] for part in batches]).tolist() == (list(range(96)) if labels else [0] * 96)  # type: ignore[call-overload]


@PLAIN
def test_plain_loaders_of_another_size_or_value_are_refused(tmp_path: Path) -> None:
    for images, message in [
        (torch.ones(8, 5, 5), "data_dim: must be the 25 pixels of an image, got 64; set it to 25"),
        (torch.full((8, 8, 8), 3), "a Bernoulli likelihood needs binary images, got the value 3"),
    ]:
        loader: DataLoader[Tensor] = DataLoader(images, batch_size=4)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=message):
            small_trainer(tmp_path, max_steps=1).fit(small(PriorIWAE, output_bias="zero"), loader, loader)


@PLAIN
@pytest.mark.parametrize("data", [Digits, SilentDigits])
def test_a_plain_batch_gives_the_numbers_of_a_batch_of_ours(data: type[SilentDigits], tmp_path: Path) -> None:
    module = data()
    module.setup()
    images, labels = module.set.tensors
    ours = [
        Batch(x.flatten(1).float(), label, 0, len(x))
        for x, label in zip(images.split(40), labels.split(40), strict=True)
    ]
    found = []
    for loader in (module.val_dataloader(), DataLoader(ours, batch_size=None)):  # type: ignore[arg-type]
        pl.seed_everything(1, verbose=False)
        found.append(small_trainer(tmp_path).validate(small(GaussianVAE), loader, verbose=False))
    assert found[0] == found[1]


@PLAIN
@pytest.mark.parametrize("data", ["SilentDigits", "Digits"])
def test_the_command_takes_a_data_module_of_a_users_own(
    data: str, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["--model.data_dim", 64, "--model.decoder.hidden", "[8]", "--model.inner_samples", 4]
    quiet = ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]
    arguments = ["--config", ROOT / "configs" / "prior_iwae.yaml", "--data", f"tests.digits.{data}", *few, *quiet]
    arguments += ["--trainer.log_every_n_steps", 2]
    steps = ["--trainer.max_steps", 4, "--trainer.val_check_interval", 2]
    if data == "SilentDigits":
        assert run("fit", *arguments, *steps) != 0
        message = "needs a data module with pixel_mean(), got SilentDigits; set output_bias to 'zero'"
        assert message in capsys.readouterr().err.splitlines()[-1]
        arguments += ["--model.output_bias", "zero"]
    assert run("fit", *arguments, *steps) == 0
    arguments += ["--ckpt_path", "last"]
    for subcommand in ("test", "predict"):
        assert run(subcommand, *arguments) == 0
    assert run("sample", *arguments, "--count", 4, "--output", "new") == 0
    assert arrays("new/samples.npz")["x"].shape == (4, 8, 8)
    assert run("tightness", *arguments, "--images", 10, "--largest", 8, "--output", "new") == 0
    about = json.loads(Path("new/tightness.json").read_text())["provenance"]["data"]
    assert about == ({} if data == "SilentDigits" else {"source": "digits", "digest": "0"})
