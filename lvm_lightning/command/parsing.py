"""The parser of the command line, and a mistake in it told in one line: the key, the rule, the value and the cure."""

import difflib
import inspect
import itertools
import re
import sys
import traceback
from argparse import HelpFormatter
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, NoReturn

from jsonargparse import Namespace, _typehints
from jsonargparse._typehints import ActionTypeHint, import_object
from lightning.pytorch.cli import LightningArgumentParser

from lvm_lightning.command.environment import another_speaks
from lvm_lightning.command.helping import ALL, HELP, has_groups, short_help
from lvm_lightning.command.meeting import ENDED
from lvm_lightning.command.older import new_setting
from lvm_lightning.command.rules import is_no_value, nearest, rule_of
from lvm_lightning.support import PROGRAM, UserError, debugging, one_line

UNKNOWN = "no such argument"
_OPEN, _CLOSE = "⟦", "⟧"
"""Around what the parser of a class says: the parsers above it wrap it in accounts of everything else they tried."""


class Mistake(NamedTuple):
    """What is wrong with which key; the key is empty where no single one is."""

    key: str
    rule: str

    def __str__(self) -> str:
        new = new_setting(self.key) if self.rule.startswith(UNKNOWN) else None
        return ": ".join(filter(None, [self.key, f"is now {new}; set that" if new else self.rule]))


class Parser(LightningArgumentParser):
    """A parser whose errors are one line with the nearest known name, and exit with status 2.

    A key must be written out: an abbreviation would change its meaning with the next argument that begins like it.

    Where another class takes the place of the one that a config or an earlier argument named, it starts from its own
    defaults: what was given before was the other class's, even where both have an argument of that name.

    Attributes:
        tells_all: whether the help tells all options, not a subcommand's own alone.
    """

    tells_all: ClassVar[bool] = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def parse_args(self, *args: Any, **kwargs: Any) -> Any:
        """As jsonargparse does, save for what a class takes over from the one before: nothing."""
        kept = _typehints.discard_init_args_on_class_path_change
        _typehints.discard_init_args_on_class_path_change = _forget_arguments
        try:
            return super().parse_args(*args, **kwargs)
        finally:
            _typehints.discard_init_args_on_class_path_change = kept

    def format_help(self, formatter: HelpFormatter | None = None) -> str:
        """The help, of a subcommand in sixty lines unless all is asked for."""
        return super().format_help(formatter) if self.tells_all or not has_groups(self) else short_help(self)

    def validate(self, namespace: Namespace, *args: Any, **kwargs: Any) -> None:
        """As jsonargparse does, but it passes over what is null, and takes an infinite number for a number."""
        for action in self._actions:
            if isinstance(action, ActionTypeHint) and action.dest in namespace:
                given, hint = namespace[action.dest], action._typehint
                if given != action.default and is_no_value(given, hint):
                    raise TypeError(f'Parser key "{action.dest}": {rule_of(hint, given)}')
        super().validate(namespace, *args, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Report the mistake and exit; with ``LVM_DEBUG=1``, with its traceback."""
        parser = getattr(ex, "subcommand_parser", None) or self
        mistake = _mistake(parser, message, ex)
        if not self.exit_on_error:  # the parser of a class; the parser that asked it knows the rest of the key
            super().error(f"{_OPEN}{mistake.key}: {mistake.rule}{_CLOSE}", ex)
        if debugging() and ex is not None:
            raise ex
        command = parser.prog.replace(" [options]", "")
        if not another_speaks():
            asked = ALL if has_groups(parser) else HELP
            print(f"{PROGRAM}: error: {mistake}; '{command} {asked}' lists the arguments", file=sys.stderr)
        sys.exit(2)


def _forget_arguments(_: object, before: Any, now: Any) -> None:
    """Forget the arguments of the class that was there before, if it is another one.

    jsonargparse forgets those alone that the new class would refuse: so ``scale: exp``, a default of one class, stayed
    in the place of another's ``softplus``.
    """
    if before and before.get("init_args") and _class_at(before["class_path"]) is not _class_at(now["class_path"]):
        before["init_args"] = Namespace()


def _class_at(path: str) -> Any:
    """The class, which may have several import paths; a path that leads nowhere is told where it is used."""
    try:
        return import_object(path)
    except (ImportError, AttributeError, ValueError):
        return path


def classes_first(arguments: Sequence[str]) -> list[str]:
    """The same arguments with ``--data X`` before every ``--data.name``, which is X's wherever it stands.

    ``--data null`` stays where it is: it takes back what stands before it.
    """
    starts = [i for i, word in enumerate(arguments) if word.startswith("--")]
    found = [[*arguments[: starts[0] if starts else None]]]
    for here, end in itertools.pairwise([*starts, len(arguments)]):
        name, _, given = "=".join(arguments[here:end]).partition("=")
        below = [i for i, option in enumerate(found) if option and option[0].startswith(f"{name}.")]
        found.insert(below[0] if below and given != "null" else len(found), [*arguments[here:end]])
    return list(itertools.chain.from_iterable(found))


def require_classes(settings: object, key: str = "") -> None:
    """Refuse a ``class_path`` that is no class, before anything is made: a function would be called as it stands there.

    What the class must be a subclass of has been checked by then.

    Raises:
        UserError: naming the key and the path.
    """
    if isinstance(settings, list):
        settings = dict(enumerate(settings))
    if not isinstance(settings, dict | Namespace):
        return
    for name, value in vars(settings).items() if isinstance(settings, Namespace) else settings.items():
        if name == "class_path" and not inspect.isclass(import_object(value)):
            raise UserError(f"{key}.class_path: must be the import path of a class, got {value}, a function")
        require_classes(value, key if name == "init_args" else f"{key}.{name}".lstrip("."))


def _mistake(parser: Parser, message: str, error: Exception | None) -> Mistake:
    """What a parser refused, from the check that failed; only an error of another kind is told in its own words."""
    inner = re.search(f"{_OPEN}(.*?): (.*?){_CLOSE}", message, re.DOTALL)
    found = Mistake(inner[1], inner[2]) if inner else None
    if (check := _failed_check(error)) is not None:
        key, hint, value = check
        return Mistake(f"{key}.{found.key}".rstrip("."), found.rule) if found else Mistake(key, rule_of(hint, value))
    if found is not None:
        return found
    if (unknown := _refused_key(parser, message, error)) is not None:
        return Mistake(unknown, f"{UNKNOWN}{_nearest_key(unknown, [action.dest for action in parser._actions])}")
    cure = "; give a --config, such as prior_iwae" if "required" in message else ""
    key, told = re.findall(r'^(?:Parser key "(.*?)": )?(.*)$', one_line(message))[0]
    return Mistake(key, told + cure)


def _failed_check(error: Exception | None) -> tuple[str, Any, Any] | None:
    """Key, type and value of the argument that was checked when the error was raised."""
    for frame, _ in traceback.walk_tb(error.__traceback__ if error else None):
        action, value = frame.f_locals.get("self"), frame.f_locals.get("orig_val")
        if isinstance(action, ActionTypeHint) and "orig_val" in frame.f_locals:
            return action.dest, action._typehint, value
    return None


def _refused_key(parser: Parser, message: str, error: Exception | None) -> str | None:
    """The key that the parser does not have: a word of the command line, or a key of a config, quoted last."""
    if error is None:
        word = next((word for word in message.split() if word in parser.args), None)
        return None if word is None else word.lstrip("-").partition("=")[0]
    quoted = re.findall(r"'([\w.+-]+)'", message) if isinstance(error, KeyError) else []
    return quoted[-1] if quoted else None


def _nearest_key(key: str, known: list[str]) -> str:
    head, dot, rest = key.partition(".")
    heads = {name.split(".")[0] for name in known}
    if head in heads or not dot:
        return nearest(key, known)
    close = difflib.get_close_matches(head, heads, n=1)
    return f"; did you mean {close[0]}.{rest}?" if close else ""


def with_key(message: str, settings: Namespace) -> str:
    """A message whose first word is an argument of the model or of the data, with the argument's whole key.

    A class names its own argument, ``inner_samples: must be …``: it does not know under which key it was configured.
    """
    name = message.partition(":")[0]
    chosen = Namespace({group: settings.get(group) for group in ("model", "data")})
    found = [key.replace("init_args.", "") for key in chosen.keys(branches=True) if key.endswith(f".{name}")]
    return min(found, key=lambda key: key.count("."), default=name) + message.removeprefix(name)


def in_words(error: BaseException) -> str:
    """What an error says, with its name where that alone makes a sentence of it: a KeyError says the key."""
    said, name = str(error), type(error).__name__
    return f"{name}: {said}" if said and isinstance(error, LookupError) else said or name


def first_told(error: BaseException) -> str:
    """What a class said that refused its arguments: jsonargparse tells it among all else that it tried."""
    while error.__cause__ is not None and _raised_in(error).startswith("jsonargparse"):
        error = error.__cause__
    return in_words(error)


def _raised_in(error: BaseException) -> str:
    """Name of the module that raised an error."""
    frames = list(traceback.walk_tb(error.__traceback__))
    return str(frames[-1][0].f_globals.get("__name__", "")) if frames else ""


def what_happened(error: OSError | RuntimeError) -> str | None:
    """An error of the machine, or of the connection between processes, in words; None for any other."""
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error)
    lost = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "NCCL", "DistBackendError")
    return ENDED if any(words in str(error) for words in lost) else None
