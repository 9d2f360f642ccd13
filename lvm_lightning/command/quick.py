"""What the command answers at once: its help, and what needs no model. Torch and Lightning stay where they are.

The pages are made of the files of the studies as they stand, which are read and not imported.
"""

import argparse
import ast
import importlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from docstring_parser import parse

import lvm_lightning.studies as studies
from lvm_lightning import __version__
from lvm_lightning.command import sweeping
from lvm_lightning.command.environment import another_speaks
from lvm_lightning.command.helping import ALL, FOR_FIT, HELP, OURS, short_help
from lvm_lightning.command.rules import nearest
from lvm_lightning.command.words import COMMAND, LIGHTNINGS, SWEEP
from lvm_lightning.support import PROGRAM, UserError, argtypes, debugging, one_line
from lvm_lightning.support.files import expanded

HELPS, VERSION = ("-h", HELP), "--version"
LIGHT = ("compare", "configs", "report")
"""Studies that load torch and Lightning only where they ask a model."""
WORDS = LIGHTNINGS | {"sweep": SWEEP} | studies.OF_A_MODEL | studies.OF_FILES
"""What may stand first."""


class Option(NamedTuple):
    """An option of a study.

    Attributes:
        name: of the argument.
        kind: what it may be, in words.
        default: as the file has it; empty where there is none.
        about: what it does.
    """

    name: str
    kind: str
    default: str
    about: str


def answer(words: Sequence[str]) -> int | None:
    """Answer a command line whose answer takes no time.

    Args:
        words: what follows the command's name.

    Returns:
        The exit status, or None where the whole command is needed.
    """
    try:
        status = _answer(words)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:  # who reads has seen enough, as head has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what Python still writes when it ends
        return 128 + signal.SIGPIPE
    return status


def _answer(words: Sequence[str]) -> int | None:
    word, *rest = words or [""]
    asks = bool({*HELPS} & {*rest}) and ALL not in rest
    if word == VERSION:
        print(f"{PROGRAM} {__version__}")
        return 0
    if word in HELPS:
        print(front_page(), end="")
        return 0
    if word in WORDS and asks:
        print(page(word), end="")
        return 0
    if word not in WORDS and not word.startswith("-") and "." not in word:
        return _told(lambda: refuse(word))
    if word == "sweep":
        return _told(lambda: sweeping.sweep(rest))
    if word in LIGHT and not any(given.startswith("-") for given in rest):
        return _told(lambda: _run(word, rest))
    return None


def refuse(word: str) -> int:
    """Refuse a first word that is no subcommand, or none at all.

    Raises:
        UserError: in any case, with the nearest subcommand.
    """
    given = f"'{word}'{nearest(word, WORDS)}" if word else f"none; '{PROGRAM} {HELP}' tells what each does"
    raise UserError(f"subcommand: must be {', '.join(WORDS)} or the import path of a Study, got {given}")


def _run(word: str, names: Sequence[str]) -> int:
    """Run a study of files."""
    study = getattr(importlib.import_module(f"lvm_lightning.studies.{word}"), studies.OF_FILES[word])
    print(study(*(expanded(name) for name in names)).run())
    return 0


def _told(run: Callable[[], int]) -> int:
    """The exit status of a run, whose mistake or failure is told in a line."""
    try:
        return run()
    except BrokenPipeError:
        raise
    except Exception as error:
        if debugging():
            raise
        mistake = isinstance(error, UserError)
        if not (mistake and another_speaks()):
            print(f"{PROGRAM}: error: {one_line(str(error)) or type(error).__name__}", file=sys.stderr)
        return 2 if mistake else 1


def front_page() -> str:
    """All subcommands, a line each."""
    parser = argparse.ArgumentParser(PROGRAM, f"{PROGRAM} SUBCOMMAND [RUN] [--config NAME or FILE] …", COMMAND)
    listed = parser.add_subparsers(title="subcommands", metavar="")
    for word in WORDS:
        listed.add_parser(word, help=summary(word))
    return f"{parser.format_help()}\n'{PROGRAM} SUBCOMMAND {HELP}' tells the options of one.\n"


def summary(word: str) -> str:
    """The first line of what a subcommand does."""
    return WORDS[word] if word in (*LIGHTNINGS, "sweep") else _docstring(_class_of(word)).partition("\n")[0]


def page(word: str) -> str:
    """A subcommand's own options, those that only it has first, and a line for each group of the others."""
    if word == "sweep":
        return sweeping.page()
    if word in studies.OF_FILES:
        return _page_of_files(word)
    doc = LIGHTNINGS[word] if word in LIGHTNINGS else _docstring(_class_of(word)).partition("\nArgs:")[0]
    parser = argparse.ArgumentParser(f"{PROGRAM} {word}", description=doc)
    for name in ("config", "seed_everything"):
        parser.add_argument(f"--{name}", help=OURS[name])
    parser.add_argument("--print_config", action="store_true", help=OURS["print_config"])
    own = parser.add_argument_group("own")
    of_a_model = word in studies.OF_A_MODEL
    for name in FOR_FIT if word == "fit" else ():
        own.add_argument(f"--{name}", help=OURS[name])
    (parser if of_a_model else own).add_argument("--ckpt_path", help=OURS["ckpt_path"])
    if of_a_model:
        parser.add_argument("--seed", help="seed of the draws (default: 0)")
        parser.add_argument("--output", help="folder to write to; the run's folder by default")
        for option in options(word):
            own.add_argument(f"--{option.name}", help=_shown(option))
    return short_help(parser)


def _page_of_files(word: str) -> str:
    doc = _docstring(_class_of(word)).partition("\nArgs:")[0].partition("\nRaises:")[0]
    parser = argparse.ArgumentParser(f"{PROGRAM} {word}", description=doc)
    for option in options(word):
        if option.name.startswith("*"):
            name = option.name[1:]
            parser.add_argument(name, nargs="*", metavar=name.upper(), help=option.about)
        else:
            parser.add_argument(f"--{option.name}", help=_shown(option))
    return parser.format_help()


def _shown(option: Option) -> str:
    """What an option does, what it may be, and what it is where it is not given."""
    more = "; ".join(filter(None, [option.kind, option.default and f"default: {option.default}"]))
    return f"{option.about.rstrip('.')}{f' ({more})' * bool(more)}".replace("%", "%%")


def options(word: str) -> Iterator[Option]:
    """The arguments of a study's ``__init__``, in the order of its file."""
    cls = _class_of(word)
    about = {p.arg_name.lstrip("*"): p.description or "" for p in parse(_docstring(cls)).params}
    inits = [node for node in cls.body if isinstance(node, ast.FunctionDef) and node.name == "__init__"]
    for name, annotation, default in _of_init(inits[0]) if inits else _of_fields(cls):
        shown = "" if default is None or ast.unparse(default) == "None" else ast.unparse(default).strip("'\"")
        yield Option(name, _in_words(annotation), shown.replace("_", ""), about.get(name.lstrip("*"), ""))


Argument = tuple[str, ast.expr | None, ast.expr | None]


def _of_init(init: ast.FunctionDef) -> Iterator[Argument]:
    given = init.args.args[1:]
    defaults: list[ast.expr | None] = [None] * (len(given) - len(init.args.defaults)) + [*init.args.defaults]
    for argument, default in zip(given, defaults, strict=True):
        yield argument.arg, argument.annotation, default
    if init.args.vararg is not None:
        yield f"*{init.args.vararg.arg}", init.args.vararg.annotation, None
    for argument, default in zip(init.args.kwonlyargs, init.args.kw_defaults, strict=True):
        yield argument.arg, argument.annotation, default


def _of_fields(cls: ast.ClassDef) -> Iterator[Argument]:
    """Of a dataclass."""
    for node in cls.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id, node.annotation, node.value


def _in_words(annotation: ast.expr | None) -> str:
    """What a type allows."""
    if isinstance(annotation, ast.Name):
        return argtypes.RULES.get(getattr(argtypes, annotation.id, None), "")
    if isinstance(annotation, ast.Subscript) and isinstance(annotation.slice, ast.Tuple):  # a Literal
        return ", ".join(ast.unparse(word).strip("'") for word in annotation.slice.elts)
    return ""


def _class_of(word: str) -> ast.ClassDef:
    """A study's class, as its file has it."""
    name = (studies.OF_A_MODEL | studies.OF_FILES)[word]
    tree = ast.parse((Path(studies.__file__).parent / f"{word}.py").read_text(encoding="utf-8"))
    return next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)


def _docstring(cls: ast.ClassDef) -> str:
    return (ast.get_docstring(cls) or "").replace("``", "")
