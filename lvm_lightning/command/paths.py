"""Paths of the configuration: ``~`` and ``$VAR`` are expanded once, and names stay inside the folder they are for."""

from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from lvm_lightning.callbacks.run_checkpoint import LAST
from lvm_lightning.command.runs import logger_arguments
from lvm_lightning.support import UserError
from lvm_lightning.support.files import expanded

PATHS = {"save_dir", "default_root_dir", "dirpath", "ckpt_path", "weights_from", "output", "folder", "path"}
"""Settings that are paths, wherever they stand."""
NAMES = {"name", "version", "sub_dir"}
"""What a logger makes its folder of; it expands them too."""


def expand_paths(settings: Any, names: set[str] = PATHS) -> None:
    """Expand, in place, every path of a configuration.

    Some libraries would expand what they are given and others not, and one run would lie in two folders.
    """
    if isinstance(settings, list):
        for entry in settings:
            expand_paths(entry, names)
    if not isinstance(settings, dict | Namespace):
        return
    for name, value in list(vars(settings).items() if isinstance(settings, Namespace) else settings.items()):
        if name in names and isinstance(value, str | Path):
            settings[name] = type(value)(expanded(str(value)))
        else:
            expand_paths(value, names | NAMES if name == "logger" else names)


def require_inside(settings: Namespace) -> None:
    """Refuse names that would lead out of the folder they are for.

    Raises:
        UserError: naming the first.
    """
    names = {f"trainer.logger.{name}": logger_arguments(settings).get(name) for name in sorted(NAMES)}
    names["checkpoint.filename"] = settings.get("checkpoint", Namespace()).get("filename")
    for key, value in names.items():
        if isinstance(value, str | Path) and (Path(value).is_absolute() or ".." in Path(value).parts):
            setting = "checkpoint.dirpath" if key.startswith("checkpoint") else "trainer.logger.save_dir"
            raise UserError(
                f"{key}: must be a name inside the run's folder, got {value}; choose the folder by {setting}"
            )
    if names["checkpoint.filename"] == LAST.removesuffix(".ckpt"):
        raise UserError(
            "checkpoint.filename: must not be that of the last state, got last; call the best one otherwise"
        )
