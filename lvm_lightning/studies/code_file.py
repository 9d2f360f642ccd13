"""A file of images that a model has compressed: it says what wrote it, and nothing is read of one that is damaged."""

import hashlib
import json
import struct
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from lvm_lightning.support import UserError, replacing
from lvm_lightning.support.bits import Words

MAGIC, VERSION = b"LVMC", 1
"""What a file begins with. The version stands for all that coding and decoding must agree on."""
HEAD = struct.Struct("<4sBI")
"""Magic, version, and the length of the header."""
DIGEST = hashlib.sha256().digest_size


@dataclass(frozen=True)
class Header:
    """What a file says of itself.

    Attributes:
        weights: SHA-256 of the model's names and values.
        shape: of an image.
        count: number of images.
        samples: points for each image.
        seed: of all noise.
        start: words of noise that the stack started with.
        images: SHA-256 of the images' pixels, a byte each.
    """

    weights: str
    shape: tuple[int, ...]
    count: int
    samples: int
    seed: int
    start: int
    images: str


def digest_of_images(x: Tensor) -> str:
    """SHA-256 of binary images, a byte a pixel."""
    return hashlib.sha256(x.to("cpu").numpy().astype(np.uint8).tobytes()).hexdigest()


def write_code(path: Path, header: Header, words: Words) -> int:
    """Write a file in one step; returns the number of bytes that are no words."""
    said = json.dumps(asdict(header), separators=(",", ":")).encode()
    content = HEAD.pack(MAGIC, VERSION, len(said)) + said + words.astype("<u4").tobytes()
    with replacing(path) as file:
        file.write(content + hashlib.sha256(content).digest())
    return HEAD.size + len(said) + DIGEST


def read_code(path: Path) -> tuple[Header, Words]:
    """Read a file.

    Raises:
        UserError: if it is not there, is no such file, of another version, or damaged.
    """
    try:
        whole = path.read_bytes()
    except OSError as error:
        raise UserError(f"FILE: must be a file that 'compress' wrote, got {path} ({error.strerror})") from error
    if not whole.startswith(MAGIC) or len(whole) < HEAD.size + DIGEST:
        raise UserError(f"FILE: must be a file that 'compress' wrote, got {path}, which is none")
    _, version, length = HEAD.unpack_from(whole)
    if version != VERSION:
        raise UserError(f"FILE: must have version {VERSION}, got {version} in {path}; compress the images again")
    content, digest = whole[:-DIGEST], whole[-DIGEST:]
    if hashlib.sha256(content).digest() != digest:
        raise UserError(f"FILE: {path} is damaged or not whole (its checksum is another); get it again")
    words = np.frombuffer(content[HEAD.size + length :], dtype="<u4").astype(np.uint32)
    return _header(json.loads(content[HEAD.size : HEAD.size + length])), words


def _header(said: dict[str, Any]) -> Header:
    return Header(**said | {"shape": tuple(said["shape"])})
