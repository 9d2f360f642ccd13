"""Tables as text: rows of any length in a log, and on a screen rows as wide as it is, with every number whole."""

import re
import shutil
import sys
from collections.abc import Collection, Sequence
from io import StringIO
from os import environ
from typing import NamedTuple

GAP = 2
"""Spaces between two columns."""
GLUE = "\ue000"
"""Stands for a space that no line may be broken at while lines are broken: rich knows no such space."""

WORD = 10
"""Letters of a word that stay together on any screen."""


class Screen(NamedTuple):
    """Where a table is shown.

    Attributes:
        width: characters of a line; None where a line may be of any length.
        styled: whether the heading is bold.
    """

    width: int | None = None
    styled: bool = False

    @classmethod
    def here(cls) -> "Screen":
        """The terminal's, where standard output is one; the same for all files and pipes. No style with NO_COLOR."""
        if not sys.stdout.isatty():
            return LOG
        return cls(shutil.get_terminal_size().columns, not environ.get("NO_COLOR"))

    def holds(self, rows: Sequence[Sequence[str]]) -> bool:
        """Whether rows need not be broken."""
        return self.width is None or _total(_natural(rows)) <= self.width


LOG = Screen()
"""A file or a pipe: a line for each row, so that it can be searched for."""


def aligned(rows: Sequence[Sequence[str]], screen: Screen = LOG, common: Collection[str] = ()) -> str:
    """Rows of as many cells each as text in columns; the first is the heading.

    On a narrow screen cells are broken between words, never inside of a number and its error; where even that does not
    fit, lines are longer than the screen.

    Args:
        rows: the heading, then the others.
        screen: where it is shown.
        common: columns that a narrow screen does not show, but tells in a line below, if all rows agree.
    """
    if screen.holds(rows):
        return _drawn(rows, _natural(rows), screen.styled)
    columns = list(zip(*rows, strict=True))
    told = [column for column in columns if column[0] in common and len(rows) > 2 and len(set(column[1:])) == 1]
    shown = list(zip(*(column for column in columns if column not in told), strict=True))
    body = [[re.sub(r" ± ", f"{GLUE}±{GLUE}", cell) for cell in row] for row in shown[1:]]
    glued = [shown[0], *body]
    text = _drawn(glued, _narrowed(glued, screen.width or 0), screen.styled).replace(GLUE, " ")
    below = "; ".join(f"{name}: {value}" for name, value, *_ in told)
    return f"{text}\n\nall rows: {below}" if told else text


def _natural(rows: Sequence[Sequence[str]]) -> list[int]:
    """The widths of the columns where no cell is broken."""
    from rich.cells import cell_len

    return [max(map(cell_len, column)) for column in zip(*rows, strict=True)]


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + GAP * (len(widths) - 1)


def _narrowed(rows: Sequence[Sequence[str]], width: int) -> list[int]:
    """Widths of the columns that fit, the widest made narrower first.

    None is narrower than its longest word, unless that does not fit; and none in any case than its longest number.
    """
    words = [[word for cell in column for word in cell.split()] for column in zip(*rows, strict=True)]
    widths = _natural(rows)
    for breaks in (False, True):
        least = [max((_least(word, breaks) for word in column), default=0) for column in words]
        while _total(widths) > width and widths != least:
            wide = [i for i, narrowest in enumerate(least) if widths[i] > narrowest]
            widths[max(wide, key=lambda i: widths[i])] -= 1
    return widths


def _least(word: str, breaks: bool) -> int:
    """The width that a word needs, where long words without a digit are broken or not."""
    return min(len(word), WORD) if breaks and not any(map(str.isdigit, word)) else len(word)


def _drawn(rows: Sequence[Sequence[str]], widths: Sequence[int], styled: bool) -> str:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=SIMPLE, show_edge=False, pad_edge=False, padding=(0, GAP - 1, 0, 0), header_style="bold")
    for name, width in zip(rows[0], widths, strict=True):
        grid.add_column(Text(name), width=width, overflow="fold")
    for row in rows[1:]:
        grid.add_row(*map(Text, row))
    text = StringIO()
    console = Console(file=text, width=_total(widths) + GAP, force_terminal=styled, legacy_windows=False)
    console.print(grid)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())
