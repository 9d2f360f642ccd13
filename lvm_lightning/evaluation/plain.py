"""Numbers as text, plain values as JSON, and their digests: what needs no tensors."""

import hashlib
import json
import math
from pathlib import Path

from lvm_lightning.support.files import replacing


def with_error(value: float, stderr: float, sign: str = "") -> str:
    """``value ± standard error``; a sign of ``+`` shows that of a positive value too.

    As many decimals as show two digits of the error, from two to six. What has none, or none that is known, has no ±.
    """
    if not stderr > 0:
        return f"{value:{sign}.6g}"
    if stderr < 1e-6 or max(abs(value), stderr) > 1e9:  # rows of zeros, or of digits that mean nothing
        places = math.floor(math.log10(abs(value) or 1)) - math.floor(math.log10(stderr)) + 2
        return f"{value:{sign}.{min(10, max(2, places))}g} ± {stderr:.1e}"
    digits = min(6, max(2, 1 - math.floor(math.log10(stderr))))
    return f"{value:{sign}.{digits}f} ± {stderr:.{digits}f}"


def digest_of(content: object) -> str:
    """SHA-256 of plain values, whatever the order of a mapping's keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def write_json(path: Path, content: object) -> None:
    """Write JSON with null for what is no number; the file is replaced in one step."""
    plain = json.loads(json.dumps(content), parse_constant=lambda _: None)
    with replacing(path) as file:
        file.write((json.dumps(plain, indent=2) + "\n").encode())
