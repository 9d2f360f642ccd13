"""The configs that come with the package."""

import itertools
import re
import shutil
import textwrap
from pathlib import Path

from lvm_lightning.studies.free import FreeStudy
from lvm_lightning.support import PROGRAM, UserError

CONFIGS = Path(__file__).parent.parent / "configs"
NARROW, WIDTH = 60, 120
"""Characters of a line at least and at most, whatever the terminal's width is."""
LINES = 2
"""Lines that a config is told in: the list of all fits on a screen."""


def names_of_configs() -> list[str]:
    """Names for ``--config``."""
    return sorted(path.stem for path in CONFIGS.glob("*.yaml"))


class Configs(FreeStudy):
    """List the configs that come with the package, or show some.

    Args:
        *names: configs to show; without any, all are listed with what they are.

    Raises:
        UserError: if there is none of that name.
    """

    def __init__(self, *names: str) -> None:
        known = names_of_configs()
        for name in names:
            if name not in known:
                raise UserError(f"names: must be of {', '.join(known)}, got {name}")
        self.names = names

    def run(self) -> str:
        """The list, or the files."""
        if self.names:
            return "\n".join((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8") for name in self.names)
        known = names_of_configs()
        margin = max(map(len, known)) + 2
        width, indent = min(WIDTH, max(NARROW, shutil.get_terminal_size().columns)), " " * margin
        lines = textwrap.TextWrapper(width, subsequent_indent=indent, max_lines=LINES, placeholder=" …")
        told = [lines.fill(f"{name:{margin}}{about(name)}") for name in known]
        return "\n".join([*told, f"\n'{PROGRAM} configs NAME' shows one whole,\n'{PROGRAM} fit --config NAME' runs it"])


def about(name: str) -> str:
    """The first sentence of a config's comment, behind the line that says how it is run."""
    text = (CONFIGS / f"{name}.yaml").read_text(encoding="utf-8")
    comment = itertools.takewhile(lambda line: line.startswith("#"), text.splitlines()[2:])
    return re.split(r"\. (?=[A-Z])", " ".join(line.lstrip("# ") for line in comment))[0].rstrip(".") + "."
