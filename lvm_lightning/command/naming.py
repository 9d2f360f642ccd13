"""What a command line may leave out: a run stands for its config and its checkpoint, a name for one of our configs."""

import re
from collections.abc import Sequence
from pathlib import Path

from lvm_lightning.callbacks.run_checkpoint import LAST
from lvm_lightning.command.checkpoints import run_of
from lvm_lightning.command.paths import expanded
from lvm_lightning.command.rules import nearest
from lvm_lightning.studies.configs import CONFIGS, names_of_configs
from lvm_lightning.support import PROGRAM, UserError

CONFIG = ("--config", "-c")
STATES = ("last", "best")
"""Words for a checkpoint of a run."""


def written_out(arguments: Sequence[str]) -> list[str]:
    """The arguments of a subcommand with its run, and its configs' names, written out.

    ``RUN`` in the first place is ``--config RUN/config.yaml --ckpt_path`` with the run's checkpoint: the last state for
    ``fit``, else the best on validation where there is one. ``--config prior_iwae`` is the package's config of that
    name, unless there is such a file.

    Args:
        arguments: the subcommand, and what follows it.

    Raises:
        UserError: if a run lacks its config or its checkpoint, or there is no config of that name.
    """
    if not arguments or arguments[0].startswith("-"):
        return list(arguments)
    subcommand, *rest = arguments
    if rest and not rest[0].startswith("-"):
        rest = _of_run(subcommand, Path(expanded(rest[0])), rest[1:])
    words = [subcommand]
    for word in rest:
        name, joined, value = word.partition("=")
        if words[-1] in CONFIG:
            words.append(_config(word))
        else:
            words.append(f"{name}={_config(value)}" if joined and name in CONFIG else word)
    return words


def _of_run(subcommand: str, run: Path, options: list[str]) -> list[str]:
    """What a run's folder, or a checkpoint in it, stands for; ``--ckpt_path last`` and ``best`` are then that run's."""
    folder = run_of(run) if run.suffix == ".ckpt" else run
    config, checkpoints = folder / "config.yaml", folder / "checkpoints"
    if not config.is_file():
        raise UserError(
            f"run: must be the folder of a run, or a checkpoint in it, got {run}, without {config}; "
            "a config is given by --config"
        )
    for i, word in enumerate(options[:-1]):
        if word == "--ckpt_path" and options[i + 1] in STATES:
            options[i + 1] = str(checkpoints / f"{options[i + 1]}.ckpt")
    return ["--config", str(config), "--ckpt_path", str(state_of(run, subcommand)), *options]


def state_of(run: Path, subcommand: str) -> Path:
    """The checkpoint that a run stands for, or a checkpoint itself.

    Raises:
        UserError: if there is none.
    """
    checkpoints = run / "checkpoints"
    best = checkpoints / "best.ckpt"
    state = run if run.suffix == ".ckpt" else best if subcommand != "fit" and best.is_file() else checkpoints / LAST
    if not state.is_file():
        raise UserError(f"run: must have a checkpoint, got {run}, without {state}; train it with '{PROGRAM} fit'")
    return state


def _config(given: str) -> str:
    """The path of a config that is named; another path stays as it is."""
    if Path(expanded(given)).exists() or not re.fullmatch(r"[\w-]+", given):
        return given
    known = names_of_configs()
    if given not in known:
        raise UserError(
            f"config: must be a file or the name of a config, got {given}{nearest(given, known)}; '{PROGRAM} configs' "
            "lists them"
        )
    return str(CONFIGS / f"{given}.yaml")
