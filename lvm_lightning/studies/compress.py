"""Test images in a file whose length is the model's bound."""

import bz2
import gzip
import io
import lzma
import math
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lvm_lightning.evaluation import NATS, Kind, Quantity
from lvm_lightning.evaluation.coding import Code, MixtureCode
from lvm_lightning.evaluation.report import digest_of_weights
from lvm_lightning.objectives import iw_elbo
from lvm_lightning.studies.base import Study, Subject
from lvm_lightning.studies.code_file import Header, digest_of_images, write_code
from lvm_lightning.studies.codes import Written, code_of, in_float64, mixture_points, read, samples_of, write
from lvm_lightning.support import PositiveInt
from lvm_lightning.support.bits import WORD, BitStack

ALL = 2**31
"""More images than there are."""
BITS, NATS_PER_IMAGE = "bits a pixel", "nats per image"
CODERS = "the coder's: rounding, local bits back"
ESTIMATE: Kind = "stochastic estimate"
OTHERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda packed: gzip.compress(packed, 9),
    "bzip2": lambda packed: bz2.compress(packed, 9),
    "LZMA": lambda packed: lzma.compress(packed, lzma.FORMAT_ALONE, preset=9 | lzma.PRESET_EXTREME),
    "XZ": lambda packed: lzma.compress(packed, lzma.FORMAT_XZ, preset=9 | lzma.PRESET_EXTREME),
}
"""Other programs' ways to shrink bytes."""
TOGETHER = 250
"""Images whose bound is computed together."""


class Compress(Study):
    """Write test images into a file that is as short as the model's bound says, without loss.

    An image takes −log₂ of its probability in bits. A model without an encoder is a mixture of N points, whose code
    has the length −log p_N(x) (bits-back coding with a known posterior); a VAE's has that of its ELBO, an IWAE's of its
    L_N (coupled samples). The file is read again before it is written. Writes ``images.lvmc`` and ``compression.json``:
    bits a pixel, the bound they should match, what lies between, and what gzip, bzip2, LZMA, XZ and PNG take.

    Args:
        images: number of test images, evenly spaced; all by default.
        samples: number N of points for each image; by default that of the bound that the model was trained on.
    """

    def __init__(self, images: PositiveInt | None = None, samples: PositiveInt | None = None) -> None:
        self.images, self.samples = images, samples

    def run(self, subject: Subject) -> str:
        """Write the file and the table.

        Raises:
            UserError: if the model has no code.
            RuntimeError: if what was written cannot be read; nothing is left then.
        """
        module, shape = subject.module, subject.module.data.shape
        x = subject.rows("test", self.images or ALL).cpu()
        N, weights = samples_of(module, self.samples), digest_of_weights(module.state_dict())
        with in_float64(module):
            code = code_of(module, N, subject.seed)
            with subject.bar("compress", total=len(x)) as bar:
                written = write(code, x.double(), subject.seed, bar.update)
            with subject.bar("read again", total=len(x)) as bar:
                stack = BitStack(written.words, sealed=True)
                found = read(code, stack, len(x), bar.update)
        if not (torch.equal(found, x.double()) and stack.is_back_at(written.start)):
            raise RuntimeError("compress: what was written cannot be read again; nothing is left of it")
        header = Header(
            weights, shape or (x.shape[1],), len(x), N, subject.seed, len(written.start), digest_of_images(x)
        )
        path = subject.folder / "images.lvmc"
        others = write_code(path, header, written.words)
        lengths = [*_rate(subject, code, x, written), *_whole(x, path.stat().st_size)]
        told = f"{len(x):,} images written to {path}: {path.stat().st_size:,} bytes, {others} of them no code"
        return f"{subject.write('compression.json', lengths)}\n{told}"


def _rate(subject: Subject, code: Code, x: Tensor, written: Written) -> list[Quantity]:
    """Bits a pixel, the bound that they should match, and what lies between, in nats per image."""
    N, bits, per_image = code.samples, WORD * (len(written.words) - len(written.start)), math.log(2) / len(x)
    name, bound = _log_mixture(subject, x, N) if isinstance(code, MixtureCode) else _bound(subject, x, N)
    in_bits, between = bound / (-math.log(2) * x.shape[1]), bound - written.log_p
    rounding = bits * per_image + float(written.log_p.mean())
    return [
        _constant("rate (initial bits apart)", bits / x.numel(), x, N, BITS),
        subject.quantity(f"−{name}, which it should match", in_bits, "upper bound", N, unit=BITS),
        subject.quantity(name, bound, "lower bound", N),
        subject.quantity(f"cells, rounding and draws: {name} − the code's", between, ESTIMATE, N, unit=NATS),
        _constant(CODERS, rounding, x, N, NATS_PER_IMAGE),
        _constant("initial bits", WORD * len(written.start) * per_image, x, N, NATS_PER_IMAGE),
    ]


def _bound(subject: Subject, x: Tensor, N: int) -> tuple[str, Tensor]:
    """L_N of the images ``(n,)``, with draws of its own."""
    parts = subject.parts(x.to(subject.module.device), TOGETHER, "coding", "bound")
    found = [iw_elbo(subject.log_weights(part, N, noise).double()) for part, noise in parts]
    return f"L_{N}", torch.cat(found).cpu()


def _log_mixture(subject: Subject, x: Tensor, N: int) -> tuple[str, Tensor]:
    """log p_N(x) of the images ``(n,)``: of the code's points, in the precision of all evaluation."""
    module, x = subject.module, x.to(subject.module.device)
    with torch.inference_mode():
        decoded = module.model.decode(mixture_points(module, N, subject.seed).to(x)).unsqueeze(1)
        log_lik = [module.model.likelihood.log_prob(decoded, part) for part in x.split(TOGETHER)]
    return "log p_N(x)", torch.cat([iw_elbo(each.double()) for each in log_lik]).cpu()


def _whole(x: Tensor, size: int) -> list[Quantity]:
    """Bits a pixel of whole files: ours, and those of other programs for the same images, eight pixels a byte."""
    packed = np.packbits(x.numpy().astype(np.uint8)).tobytes()
    sizes = {"this one": size} | {name: len(shrink(packed)) for name, shrink in OTHERS.items()} | {"PNG": _png(x)}
    return [_constant(f"whole file: {name}", 8 * each / x.numel(), x, 0, BITS) for name, each in sizes.items()]


def _png(x: Tensor) -> int:
    """Bytes of one PNG with a bit a pixel, each image a row."""
    file = io.BytesIO()
    Image.fromarray(x.numpy().astype(bool)).save(file, "png", optimize=True)
    return file.tell()


def _constant(name: str, value: float, x: Tensor, samples: int, unit: str) -> Quantity:
    """A number of all images together, which has no error over them."""
    return Quantity(name, value, 0.0, unit, "exact", "test", samples, len(x))
