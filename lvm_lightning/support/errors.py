"""A user's mistake, told in one line."""

import os

PROGRAM = "lvm-lightning"


class UserError(Exception):
    """A mistake that one line explains: the argument, the rule, the value received and the cure."""


class NonFiniteError(Exception):
    """A quantity that must be finite is not: where, why, and what is kept."""


def one_line(message: str) -> str:
    """A message without line breaks."""
    return " ".join(message.split())


def debugging() -> bool:
    """Whether the user asked for tracebacks, with ``LVM_DEBUG=1``."""
    return os.environ.get("LVM_DEBUG", "") not in ("", "0")
