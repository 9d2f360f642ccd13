"""What an argument must be, in words, from its type: the rule, the value that was given, and the nearest known name."""

import difflib
import inspect
import math
import sys
from collections.abc import Iterable
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from jsonargparse import Namespace

from lvm_lightning.command.older import new_name
from lvm_lightning.support.argtypes import RULES

A_CLASS = " class or its import path"
CLASS = ("class_path", "init_args", "dict_kwargs")
"""What a class may be given by."""
DIGITS = 4300
"""From so many on, Python reads no number."""
ROOM = 80
"""Letters of a value that a message shows."""


def is_no_value(given: Any, hint: Any) -> bool:
    """Whether something is null where a value must be, or a number that is none."""
    if given is None:
        return hint is not Any and type(None) not in get_args(hint)
    numbers = given if isinstance(given, list | tuple) else [given]
    return any(isinstance(number, float) and not math.isfinite(number) for number in numbers)


def rule_of(hint: Any, value: Any) -> str:
    """``must be …, got …`` of a type and the value that is not of it."""
    value = getattr(value, "val", value)  # what is given for a key below comes with the key
    rules, given, digits = list(dict.fromkeys(_rules(hint))), _told(value), str(value)
    if digits.isdecimal() and len(digits) < DIGITS and int(digits) >= 2**63 and "a text" not in rules:
        return f"must be below 2**63, got {given}"
    if value in (math.inf, -math.inf):
        return f"must be a finite number, got {given}"
    near = nearest(given, [*rules, *(_class_names() if any(rule.endswith(A_CLASS) for rule in rules) else ())])
    new = new_name(given)
    cure = near if new == given else f"; it is now {new}"
    return f"must be {' or '.join(rules)}, got {given}{cure}" if rules else f"must not be {given}"


def _told(value: Any) -> str:
    """What was given, in so many words as a line has room for; of a class its path, or the word that none has."""
    if isinstance(value, dict | Namespace):
        words = vars(value) if isinstance(value, Namespace) else value
        strange = [str(word) for word in words if word not in CLASS]
        value = f"{strange[0]} in the place of {' or '.join(CLASS)}" if strange else words.get("class_path", value)
    given = str(value)
    return given if len(given) <= ROOM else f"{given[:ROOM]} …"


def _rules(hint: Any) -> list[str]:
    """What a type asks for, in words."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is tuple and ... not in inner:
        return [f"a list of {len(inner)}, each {' or '.join(dict.fromkeys(rule for e in inner for rule in _rules(e)))}"]
    if origin is Literal:
        return [str(word) for word in inner]
    if origin in (Union, UnionType):
        return [rule for alternative in inner for rule in _rules(alternative)]
    if hint in RULES:
        return [RULES[hint]]
    if inspect.isclass(origin or hint) and issubclass(origin or hint, Iterable) and hint is not str:
        elements = [rule for element in inner[:1] for rule in _rules(element)]
        return elements if any(A_CLASS in rule for rule in elements) else [", each ".join(["a list", *elements[:1]])]
    return [] if hint in (Any, type(None)) else [f"a {_class_of(hint)}{A_CLASS}"]


def _class_of(hint: Any) -> str:
    """Name of the class that a type asks for, or that a callable returns."""
    while get_args(hint):
        hint = get_args(hint)[-1]
    return getattr(hint, "__name__", str(hint))


def nearest(word: str, known: Iterable[str]) -> str:
    """``; did you mean …?``, or nothing where nothing is near."""
    close = difflib.get_close_matches(word, sorted(set(known)), n=1)
    return f"; did you mean {close[0]}?" if close and close[0] != word else ""


def _class_names() -> set[str]:
    """Names of the classes that a config may mean by their bare name."""
    rooms = ("lvm_lightning.", "torch.optim", "lightning.pytorch.callbacks", "lightning.pytorch.loggers")
    modules = [module for name, module in list(sys.modules.items()) if name.startswith(rooms)]
    return {name for module in modules for name, _ in inspect.getmembers(module, inspect.isclass)}
