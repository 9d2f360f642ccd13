"""Images from a file that a model has compressed."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import lvm_lightning
from lvm_lightning.evaluation.report import digest_of_weights
from lvm_lightning.modules.base import LatentVariableModule
from lvm_lightning.studies.code_file import Header, digest_of_images, read_code
from lvm_lightning.studies.codes import code_of, in_float64, read, start_of
from lvm_lightning.studies.free import FreeStudy
from lvm_lightning.support import PROGRAM, UserError, write_arrays
from lvm_lightning.support.bits import BitStack, ExhaustedError, Words
from lvm_lightning.support.progress import Bar


class Decompress(FreeStudy):
    """Read the images of a file that 'compress' wrote, with the model that wrote it.

    Writes ``images.npz`` with ``x`` ``(count, H, W)``, uint8, beside the file. Nothing is written if the file is
    damaged or of another model.

    Args:
        file: the file.
        run: folder of the model's run, or a checkpoint; by default the folder that the file lies in.
        output: folder to write to instead.
    """

    def __init__(self, *file: Path, run: Path | None = None, output: Path | None = None) -> None:
        self.files, self.of, self.output = [Path(path) for path in file], run, output

    def run(self) -> str:
        """Read it.

        Raises:
            UserError: if it is no such file, damaged, or of another model.
        """
        if len(self.files) != 1:
            given = f"{len(self.files)} files" if self.files else "none"
            raise UserError(
                f"FILE: must be one, got {given}; as in '{PROGRAM} decompress runs/NAME/version_0/images.lvmc'"
            )
        path, (header, words) = self.files[0], read_code(self.files[0])
        of = self.of or path.parent
        module = lvm_lightning.load(of)
        if digest_of_weights(module.state_dict()) != header.weights:
            raise UserError(
                f"--run: must be the model that wrote {path}, got {of}, whose weights are others; name its "
                "run or checkpoint"
            )
        x = decoded(module, header, words)
        if x is None:
            raise UserError(
                f"FILE: {path} decodes to other images than were written; this machine or these versions compute other "
                "numbers, use those that wrote it"
            )
        target = (self.output or path.parent) / "images.npz"
        write_arrays(target, {"x": x.view(-1, *header.shape).to(torch.uint8).numpy().astype(np.uint8)})
        return f"{header.count:,} images written to {target}"


def decoded(module: LatentVariableModule, header: Header, words: Words) -> Tensor | None:
    """The images ``(count, D)``, or None where they are not those that were written."""
    stack = BitStack(words, sealed=True)
    try:
        with in_float64(module), Bar(desc="decompress", total=header.count, leave=False) as bar:
            x = read(code_of(module, header.samples, header.seed), stack, header.count, bar.update)
    except (ExhaustedError, ValueError):  # other numbers lead astray
        return None
    same = stack.is_back_at(start_of(header.start, header.seed)) and digest_of_images(x) == header.images
    return x if same else None
