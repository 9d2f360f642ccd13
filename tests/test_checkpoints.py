"""A checkpoint is what was written, to the bit, or it is refused."""

import contextlib
import io
import random
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from lvm_lightning.command.checkpoints import SafeCheckpointIO, read_checkpoint, require_same_model
from lvm_lightning.modules import PriorIWAE
from lvm_lightning.networks import MLP
from lvm_lightning.support import UserError

FLIPS = 200


def content(path: Path, weight: float = 0.5) -> bytes:
    """A small checkpoint, written to the path."""
    state = {"model.decoder.0.weight": torch.full((40, 30), weight), "model.decoder.0.bias": torch.zeros(40)}
    SafeCheckpointIO().save_checkpoint({"state_dict": state, "hyper_parameters": {"bound": 1}}, path)
    return path.read_bytes()


def flipped(whole: bytes, bit: int) -> bytes:
    return whole[: bit // 8] + bytes([whole[bit // 8] ^ 1 << bit % 8]) + whole[bit // 8 + 1 :]


def unsealed() -> bytes:
    """As torch alone writes it, and as older versions of the package did."""
    file = io.BytesIO()
    torch.save({"state_dict": {"model.decoder.0.weight": torch.ones(2000)}}, file)
    return file.getvalue()


@pytest.mark.parametrize("by", ["us", "torch"])
def test_no_flipped_bit_is_believed(by: str, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    whole = content(path) if by == "us" else unsealed()
    path.write_bytes(whole)
    weight = read_checkpoint(path)["state_dict"]["model.decoder.0.weight"]
    draw, bits = random.Random(0), 8 * len(whole)
    places = [draw.randrange(bits) for _ in range(FLIPS)]
    if by == "us":
        places += range(bits - 8 * 110, bits, 7)  # the seal itself, and the record before it
    for bit in places:
        path.write_bytes(flipped(whole, bit))
        if by == "us":
            with pytest.raises(UserError, match=re.escape(str(path))):
                read_checkpoint(path)
            continue
        with contextlib.suppress(UserError):  # read at all: the bit lies between two records, and nothing is made of it
            assert torch.equal(read_checkpoint(path)["state_dict"]["model.decoder.0.weight"], weight)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_checkpoint_is_refused(share: float, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    whole = content(path)
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(UserError, match=r"is not a readable checkpoint|is damaged"):
        read_checkpoint(path)


def test_a_weight_that_is_no_number_is_refused(tmp_path: Path) -> None:
    content(tmp_path / "last.ckpt", weight=float("nan"))
    with pytest.raises(UserError, match=r"every weight must be a number, got nan in model.decoder.0.weight of .*last"):
        read_checkpoint(tmp_path / "last.ckpt")


def test_torch_and_lightning_read_a_sealed_one(tmp_path: Path) -> None:
    module = PriorIWAE(decoder=lambda i, o: MLP(i, o, hidden=(4,)), data_dim=6)
    path = tmp_path / "last.ckpt"
    SafeCheckpointIO().save_checkpoint({"state_dict": module.state_dict()}, path)
    for name, weight in torch.load(path, weights_only=True)["state_dict"].items():
        assert torch.equal(weight, module.state_dict()[name])


@pytest.mark.parametrize("subcommand", ["fit", "test"])
def test_an_argument_that_came_later_has_its_default(subcommand: str) -> None:
    """A checkpoint of before goes with a configuration that leaves the argument as it is, and with no other."""
    name, given = "lvm_lightning.modules.GaussianVAE", {"latent_dim": 3, "bound": "iw_elbo"}
    of_before = {"_class_path": name, **given}
    cases: list[tuple[dict[str, Any], str]] = [
        ({"encoder_dropout": 0.0, "roulette": 0.0, "estimator": "pathwise"}, ""),
        ({"encoder_dropout": 0.1}, r"model.encoder_dropout: the checkpoint was trained with 0.0, the .* says 0.1"),
        ({"unheard_of": 1}, r"model.unheard_of: the checkpoint was trained with None, the configuration says 1"),
    ]
    for init_args, message in cases:
        now = {"class_path": name, "init_args": {**given, **init_args}}
        with pytest.raises(UserError, match=message) if message else contextlib.nullcontext():
            require_same_model(Path("last.ckpt"), {"hyper_parameters": of_before}, now, subcommand)
