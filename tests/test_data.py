"""The data that never goes missing: the packed file, the binarisation, the batches, the .amat files."""

import functools
import gzip
import hashlib
import http.server
import itertools
import runpy
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import Tensor

from lvm_lightning.data import StaticMNIST, mnist
from lvm_lightning.data.loader import Batch, BatchLoader, ImageSet
from lvm_lightning.data.mnist import (
    DataFileError,
    bernoulli_pixels,
    load_amat,
    load_mnist,
    packaged_file,
    philox,
    random_bytes,
)
from lvm_lightning.support.files import replacing
from lvm_lightning.support.values import BINARY, UNIT, Support
from tests.command import SERVER
from tests.conftest import ROOT, assert_within

Grey = tuple[ImageSet, ImageSet]
DIGEST_OF_SEED_0 = "7348a9e0009acdb8bb4c74b26d0e4342ee0f58c6a5d1594bcb69e7dcdb3f7f7a"


@pytest.fixture(scope="module")
def grey() -> Grey:
    return load_mnist()


@pytest.fixture(scope="module")
def static() -> StaticMNIST:
    data = StaticMNIST()
    data.setup()
    return data


# The packed file


def test_packed_mnist_is_whole(grey: Grey) -> None:
    assert packaged_file().stat().st_size <= 10_000_000
    assert grey[0].images.shape == (60_000, 784)
    assert grey[1].images.shape == (10_000, 784)
    assert grey[0].labels.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert grey[1].labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def test_packed_mnist_is_the_idx_files(grey: Grey, shared_data: Path) -> None:
    for name, header, packed in [
        ("train-images-idx3-ubyte", 16, grey[0].images),
        ("t10k-images-idx3-ubyte", 16, grey[1].images),
        ("train-labels-idx1-ubyte", 8, grey[0].labels),
        ("t10k-labels-idx1-ubyte", 8, grey[1].labels),
    ]:
        content = gzip.decompress((shared_data / "MNIST" / "raw" / f"{name}.gz").read_bytes())
        assert content[header:] == packed.numpy().tobytes()


@pytest.mark.parametrize("damage", ["truncated", "changed"])
def test_damaged_file_is_named(tmp_path: Path, damage: str) -> None:
    content = bytearray(packaged_file().read_bytes())
    if damage == "truncated":
        del content[5_000_000:]
    else:
        content[1_000] ^= 1
    path = tmp_path / "mnist.xz"
    path.write_bytes(content)
    with pytest.raises(DataFileError, match=r"mnist\.xz: the file must have SHA-256 .*, got .*install"):
        load_mnist(path)


def idx(path: Path, values: np.ndarray[Any, Any]) -> None:
    header = struct.pack(f">{1 + values.ndim}i", 2048 + values.ndim, *values.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header + values.tobytes())


def idx_folder(raw: Path, train: int, test: int) -> None:
    rng = np.random.default_rng(0)
    for name, n in [("train", train), ("t10k", test)]:
        idx(raw / f"{name}-images-idx3-ubyte", rng.integers(0, 256, (n, 28, 28), dtype=np.uint8))
        idx(raw / f"{name}-labels-idx1-ubyte", rng.integers(0, 10, n, dtype=np.uint8))


def test_packing_is_reversible_and_names_a_missing_file(tmp_path: Path) -> None:
    import lzma

    pack_mnist = runpy.run_path(str(ROOT / "scripts" / "pack_mnist.py"))["pack_mnist"]
    idx_folder(tmp_path, 3, 2)
    pack_mnist(tmp_path, tmp_path / "packed.xz")
    content = lzma.decompress((tmp_path / "packed.xz").read_bytes())
    first = (tmp_path / "train-images-idx3-ubyte").read_bytes()[16:]
    assert content[: 3 * 784] == first
    assert len(content) == 5 * 785
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match="t10k-labels-idx1-ubyte"):
        pack_mnist(tmp_path, tmp_path / "packed.xz")


# Binarisation


def test_bits_are_the_same_everywhere(static: StaticMNIST) -> None:
    assert static.digest() == DIGEST_OF_SEED_0


def test_random_bytes_are_the_streams_words_from_the_least_significant_byte() -> None:
    first, second = (int(word) for word in philox(5, 1).random_raw(2))
    assert random_bytes(philox(5, 1), 11).tobytes() == (first.to_bytes(8, "little") + second.to_bytes(8, "little"))[:11]


@pytest.mark.parametrize("v", [1, 77, 128, 254])
def test_a_pixel_is_on_with_probability_v_over_255(v: int) -> None:
    n = 1_000_000
    on = bernoulli_pixels(torch.full((n,), v, dtype=torch.uint8), philox(v, 0))
    p = v / 255
    assert abs(float(on.double().mean()) - p) < 3 * (p * (1 - p) / n) ** 0.5


def test_black_and_white_pixels_are_certain() -> None:
    v = torch.tensor([0, 255], dtype=torch.uint8).repeat(500_000)
    assert torch.equal(bernoulli_pixels(v, philox(0, 0)), (v == 255).to(torch.uint8))


def test_splits_are_canonical(static: StaticMNIST, grey: Grey) -> None:
    assert {name: len(split.images) for name, split in static.splits.items()} == {
        "train": 50_000,
        "val": 10_000,
        "test": 10_000,
    }
    assert torch.equal(static.splits["train"].labels, grey[0].labels[:50_000])
    assert torch.equal(static.splits["val"].labels, grey[0].labels[50_000:])
    for name, intensities in [
        ("train", grey[0].images[:50_000]),
        ("val", grey[0].images[50_000:]),
        ("test", grey[1].images),
    ]:
        images = static.splits[name].images
        assert images.unique().tolist() == [0, 1]
        # Sum over pixels and images against its expectation; black and white pixels follow exactly.
        p = intensities.double() / 255
        deviation = (images.double() - p).sum() / (p * (1 - p)).sum().sqrt()
        assert abs(float(deviation)) < 3
        assert (images[intensities == 0] == 0).all()
        assert (images[intensities == 255] == 1).all()


def test_another_seed_is_another_draw_and_the_pixel_means_are_the_training_images(static: StaticMNIST) -> None:
    other = StaticMNIST(seed=1)
    other.setup()
    assert other.digest() != static.digest()
    torch.testing.assert_close(static.pixel_mean(), static.splits["train"].images.float().mean(0))


def test_dynamic_binarisation_is_fresh_in_training_alone(static: StaticMNIST, grey: Grey) -> None:
    data = StaticMNIST(binarisation="dynamic", batch_size=100)
    data.setup()
    for split in ("val", "test"):
        assert torch.equal(data.splits[split].images, static.splits[split].images)
    loader = data.train_dataloader()

    def first_batch(epoch: int) -> Batch:
        loader.sampler.set_epoch(epoch)
        return next(iter(loader))

    first, again, later = first_batch(0), first_batch(0), first_batch(1)
    assert set(first.x.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(first.x, again.x)
    assert not torch.equal(first.x, later.x)
    rows = loader.sampler
    rows.set_epoch(0)
    v = grey[0].images[rows.order()[:100]]
    assert torch.equal(first.x[v == 255], torch.ones(int((v == 255).sum())))
    torch.testing.assert_close(data.pixel_mean(), (grey[0].images[:50_000].double() / 255).mean(0).float())
    frozen = static.splits["train"].images[rows.order()[:100]]
    assert not torch.equal(first.x, frozen.float())


def test_threshold_and_grey_values(grey: Grey) -> None:
    data = StaticMNIST(binarisation="threshold", threshold=0.25, eval_batch_size=10)
    data.setup()
    assert torch.equal(data.splits["test"].images, (grey[1].images / 255 > 0.25).to(torch.uint8))
    assert data.describe().support == BINARY
    data = StaticMNIST(binarisation="none", eval_batch_size=10)
    data.setup()
    torch.testing.assert_close(next(iter(data.test_dataloader())).x, grey[1].images[:10] / 255)
    assert data.describe().support == UNIT


def test_pixel_ranges_are_affine(grey: Grey) -> None:
    data = StaticMNIST(binarisation="none", pixel_range="-1..1", eval_batch_size=10, batch_size=10)
    data.setup()
    x = next(iter(data.test_dataloader())).x
    torch.testing.assert_close(x, grey[1].images[:10] / 127.5 - 1)
    assert (float(x.min()), float(x.max())) == (-1.0, 1.0)
    torch.testing.assert_close(data.pixel_mean(), (grey[0].images[:50_000].double() / 127.5 - 1).mean(0).float())
    assert (data.describe().support, data.describe().bin_width) == (Support(-1, 1), None)


@pytest.mark.parametrize("pixel_range", ["0..1", "-1..1"])
def test_dequantised_grey_levels_lie_uniformly_in_their_bins(grey: Grey, pixel_range: Any) -> None:
    data = StaticMNIST(binarisation="none", dequantise=True, pixel_range=pixel_range, batch_size=100)
    data.setup()
    low, high = data.describe().scale
    loader = data.train_dataloader()
    loader.sampler.set_epoch(0)
    v = grey[0].images[loader.sampler.order()[:100]]
    first, again = (next(iter(loader)).x for _ in range(2))
    assert torch.equal(first, again)
    for x, levels in [(first, v), (next(iter(data.test_dataloader())).x, grey[1].images[:1000])]:
        u = (x.double() - low) / (high - low) * 256 - levels
        assert -1e-4 < float(u.min()) < 0.001
        assert 0.999 < float(u.max()) < 1 + 1e-4
        for moment, mean in [(u, 1 / 2), (u.square(), 1 / 3)]:
            assert_within(moment.flatten(), mean, errors=4)
    assert data.describe().bin_width == (high - low) / 256
    loader.sampler.set_epoch(1)
    later = next(iter(loader)).x
    assert not torch.equal(first, later)
    expected = low + (high - low) * ((grey[0].images[:50_000].double().mean(0) + 0.5) / 256)
    torch.testing.assert_close(data.pixel_mean(), expected.float())


def test_validation_and_test_keep_their_noise() -> None:
    digests = []
    for seed in (0, 0, 1):
        data = StaticMNIST(binarisation="none", dequantise=True, seed=seed)
        data.setup()
        digests.append(data.digest())
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("options", [{"dequantise": True}, {"pixel_range": "-1..1"}])
def test_ranges_and_noise_are_for_grey_values(options: dict[str, Any]) -> None:
    with pytest.raises(
        ValueError, match=r"data.\w+: serves grey values, got .* for static images; set data.binarisation"
    ):
        StaticMNIST(**options)


# Batches


def batches(rank: int, world_size: int, n: int = 103, batch_size: int = 20, **options: Any) -> list[Batch]:
    images = torch.arange(n, dtype=torch.uint8).unsqueeze(1)
    data = ImageSet(images, torch.arange(n, dtype=torch.uint8))
    return list(BatchLoader(data, batch_size, rank=rank, world_size=world_size, **options))


def rows(loaded: list[Batch]) -> Tensor:
    return torch.cat([batch.x for batch in loaded]).flatten()


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_evaluation_counts_every_image_once(world_size: int) -> None:
    shares = [batches(rank, world_size) for rank in range(world_size)]
    assert {len(share) for share in shares} == {6}
    everything = torch.cat([rows(share) for share in shares])
    assert torch.equal(everything.sort().values, torch.arange(103.0))


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_share_one_global_batch(world_size: int) -> None:
    whole = batches(0, 1, shuffle_seed=0)
    shares = [batches(rank, world_size, shuffle_seed=0) for rank in range(world_size)]
    for number, batch in enumerate(whole):
        parts = [share[number] for share in shares]
        assert torch.equal(torch.cat([part.x for part in parts]), batch.x)
        assert torch.equal(torch.cat([part.label for part in parts]), batch.label)
        assert [part.start for part in parts] == [r * 20 // world_size for r in range(world_size)]
        assert {part.total for part in parts} == {20}


@pytest.mark.parametrize("cuts", [(0, 13), (0, 5, 13), (0, 4, 4, 9, 13), (0, 1, 12, 13)])
def test_groups_of_a_batch_are_the_same_in_any_number_of_processes(cuts: tuple[int, ...]) -> None:
    x, label = torch.arange(26.0).view(13, 2), torch.arange(13, dtype=torch.uint8)
    found: dict[int, list[Batch]] = {}
    for start, end in itertools.pairwise(cuts):
        mine = Batch(x[start:end], label[start:end], start, 13)
        for first, group in mine.groups(4):
            if len(group.x):
                found.setdefault(first, []).append(group)
    assert list(found) == [0, 4, 8, 12]
    for first, parts in found.items():
        assert {part.total for part in parts} == {min(4, 13 - first)}
        assert [part.start for part in parts] == [int(part.label[0]) - first for part in parts]
        assert torch.equal(torch.cat([part.x for part in parts]), x[first : first + 4])


@pytest.mark.parametrize(("start", "total"), [(0, 1), (1, 1), (4, 4), (4, 9)])
def test_a_process_without_a_row_has_a_group_without_one(start: int, total: int) -> None:
    ((_, group),) = Batch(torch.empty(0, 2), torch.empty(0, dtype=torch.uint8), start, total).groups(4)
    assert (len(group.x), len(group.label), group.total > 0) == (0, 0, True)


def test_epochs_are_permutations_of_seed_and_epoch() -> None:
    data = ImageSet(torch.arange(100, dtype=torch.uint8).unsqueeze(1), torch.zeros(100, dtype=torch.uint8))
    loader = BatchLoader(data, 10, shuffle_seed=0)

    def epoch(number: int) -> Tensor:
        loader.sampler.set_epoch(number)
        return rows(list(loader))

    assert torch.equal(epoch(0), epoch(0))
    assert not torch.equal(epoch(0), epoch(1))
    assert torch.equal(epoch(1).sort().values, torch.arange(100.0))
    assert not torch.equal(epoch(0), rows(list(BatchLoader(data, 10, shuffle_seed=1))))


def test_training_drops_a_ragged_batch() -> None:
    assert [len(batch.x) for batch in batches(0, 1, shuffle_seed=0)] == [20] * 5


def test_batches_that_cannot_be_cut_are_refused() -> None:
    with pytest.raises(ValueError, match=r"data.batch_size: must be a multiple of the 3 processes .* got 20"):
        batches(0, 3, shuffle_seed=0)
    with pytest.raises(ValueError, match=r"data.batch_size: must be at most the 103 training images, got 200"):
        batches(0, 1, batch_size=200, shuffle_seed=0)


def test_a_split_is_kept_and_cut_on_the_device_unless_noise_is_drawn() -> None:
    first = batches(0, 1, device="meta")[0]
    noisy = batches(0, 1, device="meta", transform=lambda grey, *_: grey)[0]
    assert (first.x.device.type, first.label.device.type, noisy.x.device.type) == ("meta", "meta", "cpu")
    assert first.x.dtype == torch.float32
    assert noisy.to("meta").x.device.type == "meta"


def test_labels_come_along(static: StaticMNIST, grey: Grey) -> None:
    batch = next(iter(static.val_dataloader()))
    assert torch.equal(batch.label, grey[0].labels[50_000:51_000])
    assert batch.x.dtype == torch.float32


# Other sources


@pytest.fixture
def small_amat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of .amat files with a few rows: one plain, two zipped."""
    monkeypatch.setattr(mnist, "AMAT_ROWS", {"train": 30, "valid": 6, "test": 6})
    rng = np.random.default_rng(0)
    for name, n in mnist.AMAT_ROWS.items():
        text = "".join(" ".join(map(str, row)) + "\n" for row in rng.integers(0, 2, (n, 784)))
        path = tmp_path / f"binarized_mnist_{name}.amat"
        if name == "train":
            path.write_text(text)
        else:
            path.with_name(path.name + ".gz").write_bytes(gzip.compress(text.encode()))
    return tmp_path


def test_amat_files_are_read_plain_and_zipped(small_amat: Path) -> None:
    folder = small_amat
    expected = np.loadtxt(folder / "binarized_mnist_train.amat", dtype=np.uint8)
    assert np.array_equal(load_amat(folder, "train").numpy(), expected)
    data = StaticMNIST(source="larochelle_murray", folder=str(folder), batch_size=10)
    data.setup()
    assert [len(data.splits[s].images) for s in ("train", "val", "test")] == [30, 6, 6]
    assert next(iter(data.train_dataloader())).x.shape == (10, 784)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:-500], "must hold 30 lines of 784 bits, got .* truncated"),
        (lambda text: text.replace(b"\n", b" ", 1), "must hold 30 lines of 784 bits, got 29 lines"),
        (lambda text: text.replace(b"1", b"2", 1), "must hold only zeros and ones, got '2' in line 1"),
        (lambda text: text + text[-1568:], "must hold 30 lines of 784 bits, got 31 lines"),
    ],
)
def test_wrong_amat_files_are_refused(small_amat: Path, change: Any, message: str) -> None:
    path = small_amat / "binarized_mnist_train.amat"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DataFileError, match=f"binarized_mnist_train.amat: {message}"):
        load_amat(path.parent, "train")


def test_missing_and_damaged_amat_files_say_what_to_do(small_amat: Path) -> None:
    folder = small_amat
    zipped = folder / "binarized_mnist_test.amat.gz"
    zipped.write_bytes(zipped.read_bytes()[:100])
    with pytest.raises(DataFileError, match=r"test.amat.gz: not a readable file .* damaged"):
        load_amat(folder, "test")
    zipped.unlink()
    with pytest.raises(
        DataFileError, match=r"found neither this file nor .*\.gz; put Larochelle & Murray's .* data.folder"
    ):
        load_amat(folder, "test")


def test_the_literatures_copy(shared_data: Path, grey: Grey) -> None:
    bits = load_amat(shared_data / "binarized_mnist", "test")
    assert bits.shape == (10_000, 784)
    # It is a draw from the same test images in another order: the pixel means agree within sampling error.
    p = grey[1].images.double() / 255
    deviation = (bits.double() - p).sum() / (p * (1 - p)).sum().sqrt()
    assert abs(float(deviation)) < 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "data.folder: must name the folder .* got none"),
        ({"folder": ".", "binarisation": "dynamic"}, "data.binarisation: must be static .* got dynamic"),
    ],
)
def test_the_literatures_copy_needs_its_folder_and_its_bits(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StaticMNIST(source="larochelle_murray", **options)


def test_torchvision_sets_by_name(tmp_path: Path) -> None:
    """FashionMNIST's files, made here: torchvision finds them and downloads nothing."""
    idx_folder(tmp_path / "FashionMNIST" / "raw", 10_050, 20)
    data = StaticMNIST(source="FashionMNIST", folder=str(tmp_path), batch_size=10)
    data.prepare_data()
    data.setup()
    assert {name: len(split.images) for name, split in data.splits.items()} == {"train": 50, "val": 10_000, "test": 20}
    assert data.splits["test"].labels.max() < 10


def test_a_data_module_is_what_lightning_takes(static: StaticMNIST) -> None:
    assert isinstance(static, pl.LightningDataModule)
    assert len(static.train_dataloader()) == 195
    assert len(static.test_dataloader()) == 10


NAMES = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """FashionMNIST's four files, small, on a mirror of their own: what torchvision's class must know of it."""
    folder = tmp_path / "mirror"
    idx_folder(folder / "files", 10_050, 20)
    resources = []
    for name in NAMES:
        packed = gzip.compress((folder / "files" / name).read_bytes(), compresslevel=1)
        (folder / f"{name}.gz").write_bytes(packed)
        resources.append((f"{name}.gz", hashlib.md5(packed).hexdigest()))
    handler = functools.partial(QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("localhost", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield {"mirrors": [f"http://localhost:{server.server_port}/"], "resources": resources}
        server.shutdown()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


def prepare(attributes: dict[str, Any], root: str, start: float) -> None:
    """Download from that mirror, in a process of its own, at an agreed moment."""
    from torchvision.datasets import FashionMNIST

    for name, value in attributes.items():
        setattr(FashionMNIST, name, value)
    time.sleep(max(0.0, start - time.time()))
    data = StaticMNIST(source="FashionMNIST", folder=root, batch_size=10)
    data.prepare_data()
    data.setup()
    assert len(data.splits["train"].images) == 50


def test_processes_that_prepare_at_the_same_time_download_once(tmp_path: Path, mirror: dict[str, Any]) -> None:
    root, start = tmp_path / "data", time.time() + 1
    processes = [SERVER.Process(target=prepare, args=(mirror, str(root), start)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0, 0]
    for name in NAMES:
        assert (root / "FashionMNIST" / "raw" / name).read_bytes() == (tmp_path / "mirror/files" / name).read_bytes()
    assert sorted(path.name for path in root.iterdir()) == [".FashionMNIST.lock", "FashionMNIST"]


def test_a_mirror_that_fails_leaves_nothing_and_says_what_to_do(
    tmp_path: Path, mirror: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.datasets import FashionMNIST

    (tmp_path / "mirror" / f"{NAMES[-1]}.gz").write_bytes(b"another file")
    for name, value in mirror.items():
        monkeypatch.setattr(FashionMNIST, name, value)
    data = StaticMNIST(source="FashionMNIST", folder=str(tmp_path / "data"))
    with pytest.raises(DataFileError, match=r"(?s)FashionMNIST could not be downloaded .*; with its files in .*/raw"):
        data.prepare_data()
    assert [path.name for path in (tmp_path / "data").iterdir()] == [".FashionMNIST.lock"]


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    with replacing(path) as file:
        file.write(b"first")

    def write_half() -> None:
        with replacing(path, durable=True) as file:
            file.write(b"sec")
            file.flush()
            assert path.read_bytes() == b"first"
            raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        write_half()
    assert path.read_bytes() == b"first"
    with replacing(path, durable=True) as file:
        file.write(b"second")
    assert path.read_bytes() == b"second"
    assert [p.name for p in path.parent.iterdir()] == ["file"]
