"""A user's mistake, told in one line."""

import os
import re

PROGRAM = "lvm-lightning"


class UserError(Exception):
    """A mistake that one line explains: the argument, the rule, the value received and the cure."""


class NonFiniteError(Exception):
    """A quantity that must be finite is not: where, why, and what is kept."""


def one_line(message: str) -> str:
    """A message in one line: no line breaks, and of jsonargparse's account of a union only what can be acted on."""
    flat = re.sub(r"\s+", " ", message).strip()
    union = re.search(r"Does not validate against any of the Union subtypes.*?Errors: - (.*?) Given value type:", flat)
    if union is None:
        return flat
    expected = [e for e in union[1].split(" - ") if "<class 'NoneType'>" not in e]
    ours = [e for e in expected if re.match(r"[a-z_.]+: must ", e)]
    if ours:  # they name the value themselves
        return ours[0]
    given = flat[union.end() :].rpartition("Given value: ")[2]
    received = "" if given.startswith("Namespace(") else f"; got {given}"
    return flat[: union.start()].removesuffix("- ") + ", or ".join(expected) + received


def debugging() -> bool:
    """Whether the user asked for tracebacks, with ``LVM_DEBUG=1``."""
    return os.environ.get("LVM_DEBUG", "") not in ("", "0")
