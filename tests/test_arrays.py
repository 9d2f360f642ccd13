"""Images of one's own: files and folders against what they hold, their splits, and a run from nothing to log p(x)."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lvm_lightning.data import ArrayImages
from lvm_lightning.data.mnist import load_mnist
from lvm_lightning.data.protocol import describe
from tests.conftest import Run, assert_within


def digits(n: int = 300) -> Any:
    """MNIST as the 8 × 8 images of 17 levels that scikit-learn's digits are, ``(n, 8, 8)``."""
    grey = load_mnist()[0].images[:n].view(n, 28, 28)[:, 2:26, 2:26].float()
    return (torch.nn.functional.avg_pool2d(grey, 3) * 16 / 255).round().numpy()


def data(path: Path, **options: Any) -> ArrayImages:
    module = ArrayImages(str(path), **options)
    module.setup()
    return module


def everything(module: ArrayImages) -> torch.Tensor:
    return torch.cat([module.splits[split].images for split in ("train", "val", "test")])


@pytest.fixture
def npy(tmp_path: Path) -> Path:
    np.save(tmp_path / "digits.npy", digits())
    return tmp_path / "digits.npy"


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("kind", [np.uint8, np.int64, np.float32, np.float64])
def test_values_are_shares_of_the_highest(flat: bool, kind: type, tmp_path: Path) -> None:
    images = digits().reshape(300, -1) if flat else digits()
    np.save(tmp_path / "a.npy", images.astype(kind))
    module = data(tmp_path / "a.npy", highest=16, binarisation="none")
    x = torch.cat([batch.x for batch in module.val_dataloader()])
    order = torch.cdist(x, torch.from_numpy(digits().reshape(300, -1) / 16).float()).min(1)
    assert float(order.values.max()) <= 64**0.5 * 0.5 / 255 + 1e-6
    assert (module.image_shape, x.shape) == ((8, 8), (30, 64))
    said = describe(module)
    assert said is not None
    assert (said.shape, said.labelled, said.about["source"]) == ((8, 8), False, "a.npy")
    torch.testing.assert_close(module.pixel_mean(), module.splits["train"].images.float().mean(0) / 255)


@pytest.mark.parametrize("kind", [bool, np.uint8, np.float32])
@pytest.mark.parametrize("binarisation", ["static", "dynamic", "threshold"])
def test_bits_stay_what_they_are(kind: type, binarisation: Any, tmp_path: Path) -> None:
    bits = (digits() > 8).astype(kind)
    np.save(tmp_path / "a.npy", bits)
    module = data(tmp_path / "a.npy", binarisation=binarisation, batch_size=60)
    x = torch.cat(
        [b.x for loader in (module.train_dataloader, module.val_dataloader, module.test_dataloader) for b in loader()]
    )
    assert sorted(map(tuple, x.int().tolist())) == sorted(map(tuple, bits.reshape(300, -1).astype(int).tolist()))


def test_a_grey_pixel_is_on_as_often_as_it_is_light(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.full((4000, 1, 3), [0.2, 0.5, 1.0]))
    on = everything(data(tmp_path / "a.npy")).float()
    assert_within(on[:, 0], 51 / 255)
    assert_within(on[:, 1], 128 / 255)
    assert bool(on[:, 2].all())
    assert not torch.equal(on, everything(data(tmp_path / "a.npy", seed=1)).float())


def test_splits_cover_the_images_once_in_an_order_of_the_seed(npy: Path) -> None:
    first, again, other = (data(npy, highest=16, binarisation="none", seed=seed) for seed in (0, 0, 1))
    assert {split: len(s.images) for split, s in first.splits.items()} == {"train": 240, "val": 30, "test": 30}
    assert first.digest() == again.digest() != other.digest()
    rows = [sorted(map(tuple, everything(module).tolist())) for module in (first, other)]
    assert rows[0] == rows[1]
    assert len(data(npy, highest=16, val_share=0.5, test_share=0.25).splits["train"].images) == 75


def test_named_splits_stay_apart_and_what_is_missing_is_cut_from_training(tmp_path: Path) -> None:
    x, labels = digits(), np.arange(300) % 10
    parts = {"train": x[:200], "test": x[200:], "train_labels": labels[:200], "test_labels": labels[200:]}
    np.savez(tmp_path / "a.npz", **parts)
    module = data(tmp_path / "a.npz", highest=16, binarisation="none")
    assert {split: len(s.images) for split, s in module.splits.items()} == {"train": 180, "val": 20, "test": 100}
    assert torch.equal(module.splits["test"].labels, torch.from_numpy(labels[200:]).to(torch.uint8))
    assert torch.equal(
        module.splits["test"].images.view(100, 8, 8), torch.from_numpy(np.rint(x[200:] * 255 / 16)).byte()
    )
    assert module.labelled
    np.savez(tmp_path / "b.npz", images=x, labels=labels)
    module = data(tmp_path / "b.npz", highest=16, binarisation="none")
    pairs = {tuple(row) for s in module.splits.values() for row in torch.cat([s.images, s.labels[:, None]], 1).tolist()}
    expected = np.concatenate([np.rint(x.reshape(300, -1) * 255 / 16), labels[:, None]], 1).astype(int)
    assert pairs == set(map(tuple, expected.tolist()))


@pytest.mark.parametrize("split_folders", [False, True])
def test_pictures_in_a_folder(split_folders: bool, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (40, 6, 5), dtype=np.uint8)
    for i, image in enumerate(images):
        folder = tmp_path / "p" / (("test" if i < 10 else "train") if split_folders else "")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{i:02}.png")
    (tmp_path / "p" / "notes.txt").write_text("no picture")
    module = data(tmp_path / "p", binarisation="none")
    assert module.image_shape == (6, 5)
    assert sorted(map(tuple, everything(module).tolist())) == sorted(map(tuple, images.reshape(40, -1).tolist()))
    if split_folders:
        assert np.array_equal(module.splits["test"].images, images[:10].reshape(10, -1))


def test_colours_become_grey(tmp_path: Path) -> None:
    for i in range(20):
        Image.new("RGB", (4, 4), (i, i, i)).save(tmp_path / f"{i:02}.png")
    assert sorted(everything(data(tmp_path, binarisation="none"))[:, 0].tolist()) == list(range(20))


BAD: dict[str, tuple[Any, dict[str, Any], str]] = {
    "absent": (None, {}, "must be a .npy or .npz file, or a folder of pictures, got .*a.npy, which is not there"),
    "text": (b"not an array", {}, r"cannot be read: .*a.npy"),
    "colours": (np.zeros((5, 4, 4, 3)), {}, r"must be grey images .*, got float64 of shape \(5, 4, 4, 3\)"),
    "words": (np.array([["a", "b"]]), {}, "must be grey images"),
    "none": (np.zeros((0, 4, 4)), {}, "must be grey images"),
    "above": (np.full((20, 4), 16.0), {}, "must hold values from 0 to 1, got 0 to 16; set data.highest"),
    "below": (np.full((20, 4), -1), {}, "must hold values from 0 to 1, got -1 to 0"),
    "no number": (np.full((20, 4), np.nan), {}, "must hold values from 0 to 1, got nan to nan"),
    "too few": (np.zeros((3, 4)), {}, "must leave images for each split, got 0 of 3 for val; change the shares"),
    "shares": (np.zeros((50, 4)), {"val_share": 0.6, "test_share": 0.5}, "must leave images for each split, got -5"),
    "objects": (np.array([{"a": 1}], dtype=object), {}, "cannot be read: .*a.npy"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_image_is_refused(case: str, tmp_path: Path) -> None:
    content, options, message = BAD[case]
    path = tmp_path / "a.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content, allow_pickle=True)
    with pytest.raises(ValueError, match=f"^data.path: .*{message}"):
        data(path, **options)


def test_archives_and_folders_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "names.npz", pictures=np.zeros((9, 4)))
    np.savez(tmp_path / "labels.npz", images=np.zeros((9, 4)), labels=np.zeros(8))
    np.savez(tmp_path / "sizes.npz", train=np.zeros((9, 4)), test=np.zeros((9, 6)))
    (tmp_path / "empty").mkdir()
    (tmp_path / "sizes").mkdir()
    for side in (3, 4):
        Image.new("L", (side, side)).save(tmp_path / "sizes" / f"{side}.png")
    for name, message in {
        "names.npz": "must hold arrays by the name of images, or train, val and test",
        "labels.npz": r"must have a label for each image, got \(8,\) for 9 of images",
        "sizes.npz": r"must hold images of one size, got \(1, 6\) and \(2, 2\)",
        "empty": "must hold pictures .*, got .*empty, which has none",
        "sizes": r"must hold pictures of one size, got .*4.png: \(4, 4\), not \(3, 3\)",
    }.items():
        with pytest.raises(ValueError, match=f"^data.path: {message}"):
            data(tmp_path / name)


def test_from_nothing_to_log_p(npy: Path, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    own = ["--data", "ArrayImages", "--data.path", "digits.npy", "--data.highest", 16, "--data.batch_size", 50]
    small = ["--model.decoder.hidden", "[16]", "--model.lr_scheduler", "null", "--trainer.max_steps", 40]
    quiet = ["--trainer.enable_progress_bar", "false", "--trainer.log_every_n_steps", 2, "--evaluation.spacing", 0.2]
    arguments = ["fit", "--config", "prior_iwae", *own, *small, *quiet]
    assert run(*arguments) == 2
    assert re.search("data_dim: must be the 64 pixels of an image, got 784; set it to 64", capsys.readouterr().err)
    assert run(*arguments, "--model.data_dim", 64, "--test_after_fit", "true") == 0
    folder = Path("runs/prior_iwae/version_0")
    first = json.loads((folder / "evaluation.json").read_text())
    quantities = {q["name"]: q["value"] for q in first["quantities"]}
    assert quantities["log p(x) by quadrature"] > quantities["image-independent Bernoulli"]
    assert first["provenance"]["data"]["source"] == "digits.npy"
    assert run("test", folder) == 0
    assert run("sample", folder, "--count", 4, "--output", "new") == 0
