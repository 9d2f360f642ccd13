"""Names that stay the same whatever J, N and S are: TensorBoard's tags of a test, and the rows of a comparison."""

import re
from collections.abc import Iterable
from typing import NamedTuple


class Same(NamedTuple):
    """Quantities that answer one question.

    Attributes:
        label: what they are called together.
        pattern: of their names.
    """

    label: str
    pattern: str


SAME = {
    "log_px": Same("log p(x)", r"log p\(x\)( by \w+| ≥ L_\d+ \(fitted proposals\))?"),
    "log_px_error": Same("error of log p(x)", r"error of .*"),
    "iw_bound": Same("log p(x) ≥ L_S", r"log p\(x\) ≥ L_\d+"),
    "bound": Same("bound", r"bound( \(.*\))?"),
    "gap": Same("log p(x) − bound", r"log p\(x\) − bound|KL\(p\(z\) ‖ p\(z\|x\)\)"),
    "elbo": Same("ELBO", "ELBO"),
    "elbo_gap": Same("log p(x) − ELBO", r"log p\(x\) − ELBO.*"),
    "reconstruction": Same("E_q log p(x|z)", r"E_q log p\(x\|z\)"),
    "kl": Same("KL(q(z|x) ‖ p(z))", r"KL\(q\(z\|x\) ‖ p\(z\)\)"),
    "grey_levels": Same("log P(256 grey levels)", r"log P\(256 grey levels\) .*"),
}
"""Tag → what it stands for."""


def tags_of(names: Iterable[str]) -> dict[str, str]:
    """A tag for each quantity of a test, all different; where two answer one question, the first is the better one."""
    found: dict[str, str] = {}
    for name in names:
        tag = next((tag for tag, same in SAME.items() if re.fullmatch(same.pattern, name)), _plain(name))
        found[name] = _plain(name) if tag in found.values() else tag
    return found


def label_of(tag: str, names: Iterable[str]) -> str:
    """What the quantities of a tag are called in several tests: by their name where they share it."""
    first, *others = dict.fromkeys(names)
    if not others:
        return first
    return SAME[tag].label if tag in SAME else first.partition(" (")[0]


def detail_of(name: str, label: str) -> str:
    """What a name says beyond the label: ``bound (J=1, N=8)`` is ``J=1, N=8`` of ``bound``."""
    rest = name.removeprefix(label).strip()
    return rest[1:-1] if rest.startswith("(") and rest.endswith(")") and rest.count("(") == 1 else rest


def _plain(name: str) -> str:
    """Its letters and digits, without J and N."""
    return re.sub(r"[^a-z0-9]+", "_", re.sub(r"\(J=.*?\)", "", name).replace("θ", "theta").lower()).strip("_")
