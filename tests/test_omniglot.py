"""OMNIGLOT from a file laid out by hand, under the configs of MNIST; FashionMNIST too."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat

from lvm_lightning.data import Omniglot
from lvm_lightning.data.mnist import DataFileError
from lvm_lightning.data.omniglot import FILE, VALIDATION
from tests.test_data import idx_folder

N, TEST = VALIDATION + 300, VALIDATION + 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images that say which they are: row 0 of image i is i in binary; pixel (27, 0) is half grey."""
    path: Path = tmp_path_factory.mktemp("omniglot")
    arrays = {}
    for images, labels, count in (("data", "target", N), ("testdata", "testtarget", TEST)):
        upright = np.zeros((count, 28, 28))
        upright[:, 0, :12] = (np.arange(count)[:, None] >> np.arange(12)) & 1
        upright[:, 27, 0] = 0.5
        arrays[images] = upright.swapaxes(1, 2).reshape(count, -1).T  # column by column, as the file has them
        arrays[labels] = np.eye(50)[:, np.arange(count) % 50]
    savemat(path / FILE, arrays)
    return path


def number_of(images: torch.Tensor) -> torch.Tensor:
    return ((images.view(-1, 28, 28)[:, 0, :12] > 0) * 2 ** torch.arange(12)).sum(-1)


def test_every_image_is_in_one_split_upright_and_with_its_label(folder: Path) -> None:
    data = Omniglot(str(folder), binarisation="none")
    data.setup("fit")
    numbers = {split: number_of(found.images) for split, found in data.splits.items()}
    assert [len(numbers[split]) for split in ("train", "val", "test")] == [300, VALIDATION, TEST]
    assert torch.equal(torch.cat([numbers["train"], numbers["val"]]).sort()[0], torch.arange(N))
    assert torch.equal(numbers["test"], torch.arange(TEST))
    for split, found in data.splits.items():
        assert torch.equal(found.labels.long(), numbers[split] % 50)
        assert bool((found.images.view(-1, 28, 28)[:, 27, 0] == 128).all())
    other = Omniglot(str(folder), binarisation="none", seed=1)
    other.setup("fit")
    assert not torch.equal(number_of(other.splits["val"].images), numbers["val"])


def test_half_grey_is_drawn_once_or_afresh(folder: Path) -> None:
    data = Omniglot(str(folder))
    data.setup("fit")
    share = data.splits["train"].images.view(-1, 28, 28)[:, 27, 0].double().mean()
    assert abs(float(share) - 128 / 255) < 4 * 0.5 / 300**0.5
    assert data.describe().about["source"] == "omniglot"


@pytest.mark.parametrize("config", ["prior_iwae", "burda_vae"])
@pytest.mark.parametrize("source", ["omniglot", "FashionMNIST"])
def test_a_config_of_mnist_takes_it_by_one_override(
    config: str, source: str, folder: Path, tmp_path: Path, run: Callable[..., int]
) -> None:
    idx_folder(tmp_path / "files" / "FashionMNIST" / "raw", 10_300, 20)
    where = ["--data", "Omniglot", "--data.folder", folder]
    if source == "FashionMNIST":
        where = ["--data.source", source, "--data.folder", tmp_path / "files"]
    small = [
        "--trainer.max_steps",
        2,
        "--trainer.log_every_n_steps",
        1,
        "--trainer.val_check_interval",
        1,
        "--data.batch_size",
        150,
    ]
    quiet = ["--trainer.enable_progress_bar", "false", "--pictures.side", 2, "--trainer.limit_val_batches", 1]
    assert run("fit", "--config", config, *where, *small, *quiet) == 0
    (made,) = (tmp_path / "runs" / config).iterdir()
    assert (made / "checkpoints" / "last.ckpt").is_file()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, r"chardata.mat: found no such file; put chardata.mat into a folder and name it as data.folder"),
        (b"no mat", r"chardata.mat: not a readable file"),
        (
            {"data": np.zeros((784, 5))},
            r"must hold data \(784, n\) and target \(alphabets, n\), got \(784, 5\) and \(\)",
        ),
        ({"data": np.zeros((100, 5000)), "target": np.zeros((50, 5000))}, r"got \(100, 5000\) and \(50, 5000\)"),
    ],
)
def test_another_file_is_one_line(content: object, said: str, tmp_path: Path) -> None:
    if isinstance(content, bytes):
        (tmp_path / FILE).write_bytes(content)
    elif isinstance(content, dict):
        savemat(tmp_path / FILE, content)
    with pytest.raises(DataFileError, match=said):
        Omniglot(str(tmp_path)).setup("fit")
