"""How far something long has come, and how long it still takes: a bar in a terminal, few lines in a log."""

import io
import sys
import time
from collections.abc import Mapping
from typing import Any

from tqdm import tqdm

SECONDS = 10.0
"""Least time between two lines of a log."""
SHARE = 0.1
"""Least part of the way between them."""
IN_A_TERMINAL = (
    "{desc}: {percentage:3.0f}%|{bar}| {n:,}/{total:,} [{elapsed}, {remaining} left{postfix}, {rate_noinv_fmt}]"
)
IN_A_LOG = "{desc}: {percentage:.0f} %, {n:,} of {total:,}, {elapsed} gone, {remaining} left{postfix}"
WITHOUT_AN_END = "{desc}: {n:,} [{elapsed}{postfix}, {rate_noinv_fmt}]"


class Bar(tqdm):  # type: ignore[misc]
    """tqdm's bar in a terminal; elsewhere a line for each tenth of the way, and one in ten seconds at most.

    Where the end is not known, a line comes each time the way has doubled. What a bar would erase when it ends
    (``leave=False``) leaves no last line. The time left is the way left at the mean speed since the start.

    Args:
        *args: tqdm's.
        **kwargs: tqdm's; ``file`` is standard error by default.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        file = kwargs.pop("file", None) or sys.stderr
        self.in_terminal = file.isatty()
        self._told, self._told_at = kwargs.get("initial", 0), time.monotonic()
        super().__init__(*args, **{"file": file, "dynamic_ncols": True, "smoothing": 0, "unit": ""} | kwargs)

    @property
    def format_dict(self) -> Mapping[str, Any]:
        """What a line is made of."""
        shape = WITHOUT_AN_END if not self.total else IN_A_TERMINAL if self.in_terminal else IN_A_LOG
        known = {**super().format_dict, "bar_format": shape, "prefix": self.desc.removesuffix(": ")}
        return known if self.in_terminal else known | {"ncols": None}

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        """Draw the bar; in a log, write a line if one is due."""
        if self.in_terminal:
            return bool(super().display(msg, pos))
        way = SHARE * self.total if self.total else max(1, self._told)
        if msg is None and self.n - self._told >= way and time.monotonic() - self._told_at >= SECONDS:
            self._tell()
        return True

    def clear(self, nolock: bool = False) -> None:
        """Make room for a line of something else; the bar comes back below it. A log has room."""
        if self.in_terminal:
            super().clear(nolock)

    def close(self) -> None:
        """End it, with a last line where it leaves one."""
        if not (self.disable or self.in_terminal):
            if self.leave and (self.n != self._told or self.n == self.initial):
                self._tell()
            self.fp = io.StringIO()  # tqdm ends its own line there
        super().close()

    def _tell(self) -> None:
        self._told, self._told_at = self.n, time.monotonic()
        self.fp.write(f"{self}\n")
        self.fp.flush()
