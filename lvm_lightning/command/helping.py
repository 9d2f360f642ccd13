"""Help that a reader takes in: a subcommand's own options, and where the others are told."""

import argparse
import textwrap
from collections.abc import Sequence

from lvm_lightning.command.words import LIGHTNINGS
from lvm_lightning.support import PROGRAM

ALL, HELP = "--help-all", "--help"
WIDTH = 80
"""Characters of a line."""
GROUPS = {
    "trainer": "Lightning's Trainer: max_steps, precision, devices, logger, …",
    "model": "the module's arguments: networks, samples, prior, optimizer, …",
    "data": "the data module's: batch_size, binarisation, source, path, …",
    "checkpoint": "which states are kept, and how often",
    "pictures": "what is drawn at each validation",
    "evaluation": "what a test measures: samples, log_p quick, thorough, …",
}
"""Groups of settings, and what is in them."""
OURS = {
    "config": "name of one of our configs, or a file; several are laid over each other",
    "print_config": "print what all of it comes to, and stop",
    "seed_everything": "seed of the weights, the order of the images and all noise",
    "ckpt_path": "the checkpoint: last, best, or a path",
    "test_after_fit": "whether fit goes on to test the model that it ends with, in the same process",
    "weights_from": "another run or a checkpoint of it, whose weights fit starts from where the model has them by name",
    "weights_only": argparse.SUPPRESS,
    "verbose": argparse.SUPPRESS,
    "return_predictions": argparse.SUPPRESS,
}
"""Options that are told in other words than their libraries'."""
FOR_FIT = ("test_after_fit", "weights_from")
"""Options that only fit has a use for; the others take a training run's configuration, which has them."""


def in_our_words(parser: argparse.ArgumentParser, word: str = "") -> None:
    """Tell a subcommand, where it is Lightning's, and its options by :data:`OURS`."""
    parser.description = LIGHTNINGS.get(word, parser.description)
    for action in parser._actions:
        action.help = OURS.get(action.dest, action.help)


def asks_for_all(arguments: list[str]) -> bool:
    """Whether all options are asked for; then the arguments ask for the help that tells them."""
    if asked := ALL in arguments:
        arguments[arguments.index(ALL)] = HELP
    return asked


def short_help(parser: argparse.ArgumentParser) -> str:
    """A subcommand's own options, those that only it has first, and a line for each group of the others."""
    word = parser.prog.split()[-1]
    hidden = (*GROUPS, *(() if word == "fit" else FOR_FIT))
    own, shared = list[argparse.Action](), list[argparse.Action]()
    for group in parser._action_groups:
        for action in group._group_actions:
            if "." not in action.dest and action.dest not in hidden and action.help is not argparse.SUPPRESS:
                (shared if group.title == "options" and action.dest not in FOR_FIT else own).append(action)
    formatter = parser._get_formatter()
    formatter.add_usage(f"{PROGRAM} {word} [RUN] [--config NAME] [--GROUP.NAME VALUE …]", [], [])
    formatter.add_text((parser.description or "").partition("Args:")[0].strip())
    _section(formatter, f"options of {word}", own)
    _section(formatter, "options", shared)
    told = "\n".join(f"  {f'--{name}.…':16}{what}" for name, what in GROUPS.items())
    more = f"'{PROGRAM} {word} {ALL}' tells all of them, '{PROGRAM} {word} --model.help PriorIWAE' those of a class."
    more = textwrap.fill(more, WIDTH, break_on_hyphens=False)
    return f"{formatter.format_help()}\nsettings in groups, of a config or the command line:\n{told}\n\n{more}\n"


def _section(formatter: argparse.HelpFormatter, title: str, actions: Sequence[argparse.Action]) -> None:
    formatter.start_section(title)
    formatter.add_arguments(actions)
    formatter.end_section()


def has_groups(parser: argparse.ArgumentParser) -> bool:
    """Whether a parser is that of a subcommand with the trainer's settings."""
    return any(action.dest.startswith("trainer.") for action in parser._actions)
