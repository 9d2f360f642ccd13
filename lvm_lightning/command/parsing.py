"""The parser of the command line, and a mistake in it told in one line: the key, the rule, the value and the cure."""

import difflib
import inspect
import itertools
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml
from lightning.pytorch.cli import LightningArgumentParser

from lvm_lightning.support.errors import PROGRAM, UserError, debugging, one_line

A_CLASS = "a class or its import path"
_NAMES = {"int": "a whole number", "float": "a number", "bool": "true or false", "collections.abc.Sequence": "a list"}
_OPEN, _CLOSE = "⟦", "⟧"
"""Around what the parser of a class says: the parsers above it wrap it in accounts of everything else they tried."""


class Parser(LightningArgumentParser):
    """A parser whose errors are one line with the nearest known name, and exit with status 2.

    A key must be written out: an abbreviation would change its meaning with the next argument that begins like it.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Report the mistake and exit; with ``LVM_DEBUG=1``, with its traceback."""
        parser = getattr(ex, "subcommand_parser", None) or self
        told = tell(message, [action.dest for action in parser._actions])
        if not self.exit_on_error:  # the parser of a class; the parser that asked it knows the rest of the key
            super().error(f"{_OPEN}{told}{_CLOSE}", ex)
        if debugging() and ex is not None:
            raise ex
        command = parser.prog.replace(" [options]", "")
        print(f"{PROGRAM}: error: {told}; '{command} --help' lists the arguments", file=sys.stderr)
        sys.exit(2)


def require_groups(arguments: Sequence[str], groups: Sequence[str]) -> None:
    """Refuse a config in which a group of settings is something else: jsonargparse would pass over it in silence.

    Args:
        arguments: the command's.
        groups: names of the groups.

    Raises:
        UserError: naming the file and the group.
    """
    named = [value for name, value in itertools.pairwise(arguments) if name in ("--config", "-c")]
    named += [argument.removeprefix("--config=") for argument in arguments if argument.startswith("--config=")]
    for path in filter(Path.is_file, map(Path, named)):
        try:
            content = yaml.safe_load(path.read_text())
        except (yaml.YAMLError, UnicodeDecodeError, OSError):
            continue  # the parser tells it better
        for group in groups if isinstance(content, dict) else ():
            if not isinstance(content.get(group), dict | None):
                raise UserError(f"{group}: must be settings by name in {path}, got {content[group]!r}")


def tell(message: str, known: Iterable[str]) -> str:
    """A parser's message as ``key: rule, got value; did you mean …``.

    Args:
        message: jsonargparse's account, perhaps around that of an inner parser.
        known: the keys of the parser that speaks.
    """
    key = re.match(r'\s*Parser key "([^"]+)":', message)
    inner = re.search(f"{_OPEN}(.*?){_CLOSE}", message, re.DOTALL)
    told = inner[1] if inner else _rule(one_line(message[key.end() :] if key else message), list(known))
    if key is None:
        return told
    return f"{key[1]}.{told}" if inner else f"{key[1]}: {told}"


def _rule(text: str, known: list[str]) -> str:
    """One sentence of jsonargparse's as a rule and the value received."""
    text = text.replace(' in "<unicode string>",', "")
    unknown = re.search(r"(?:Option|option|arguments:) '?(?:--)?([\w.+-]+)", text)
    if unknown and re.match(r"Option|Subcommand|Group|unrecognized", text):
        return f"{unknown[1]}: no such argument{_nearest_key(unknown[1], known)}"
    choice = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", text)
    if choice:
        near = nearest(choice[1], re.findall(r"[a-z]+", choice[2]))
        return f"{text.split(':')[0]}: must be one of {choice[2]}, got {choice[1]!r}{near}"
    required = re.match(r"the following arguments are required: (.*)", text)
    if required:
        return f"{required[1]}: required, got none; give a --config, such as configs/prior_iwae.yaml"
    return _types(text)


def _types(text: str) -> str:
    """``must be … or …, got …`` of the types that were expected."""
    text = re.sub(r"\. Got value: ", "; got ", text)
    head, _, value = text.rpartition("; got ")
    if not head:  # a restricted number alone names the value first
        number = r"^Not of type \w+: (?:.*: )?(.*?)(?: does not conform.*| not an integer)?$"
        head, value = text, re.sub(number + r"|^.*import path string: ([^\s,;]+).*$", r"\1\2", text)
    rules = [rule for alternative in head.split(", or ") for rule in _rules_of(alternative)]
    if not rules:
        return text
    names = [rule for rule in rules if rule.isidentifier()]
    near = nearest(value, [*names, *(_class_names() if A_CLASS in rules else ())])
    return f"must be {' or '.join(dict.fromkeys(rules))}, got {value}{near}"


def _rules_of(alternative: str) -> list[str]:
    """What one of the expected types asks for."""
    if "Literal[" in alternative:
        return [quoted or bare for quoted, bare in re.findall(r"'([^']+)'|\b(\d+)\b", alternative)]
    if (restriction := re.search(r"restriction (v.*)", alternative)) is not None:
        return [re.sub("v(==)?", "", restriction[1])]
    if "not an integer" in alternative:
        return [_NAMES["int"]]
    if "for int()" in alternative or "could not convert" in alternative:
        return [_NAMES["int" if "for int()" in alternative else "float"]]
    if "dot import path" in alternative:
        return [A_CLASS]
    kind = re.search(r"Expected an? <class '([\w.]+)'>", alternative)
    return [_NAMES.get(kind[1], kind[1])] if kind else []


def nearest(word: str, known: Iterable[str]) -> str:
    """``; did you mean …?``, or nothing where nothing is near."""
    close = difflib.get_close_matches(word, sorted(set(known)), n=1)
    return f"; did you mean {close[0]}?" if close and close[0] != word else ""


def _nearest_key(key: str, known: list[str]) -> str:
    head, dot, rest = key.partition(".")
    heads = {name.split(".")[0] for name in known}
    if head in heads or not dot:
        return nearest(key, known)
    close = difflib.get_close_matches(head, heads, n=1)
    return f"; did you mean {close[0]}.{rest}?" if close else ""


def _class_names() -> set[str]:
    """Names of the classes that a config may mean by their bare name."""
    rooms = ("lvm_lightning.", "torch.optim", "lightning.pytorch.callbacks", "lightning.pytorch.loggers")
    modules = [module for name, module in list(sys.modules.items()) if name.startswith(rooms)]
    return {name for module in modules for name, _ in inspect.getmembers(module, inspect.isclass)}
