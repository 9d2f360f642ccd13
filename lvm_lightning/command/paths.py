"""Paths of the configuration: ``~`` and ``$VAR`` are expanded once, and names stay inside the folder they are for."""

import os
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

PATHS = {"save_dir", "default_root_dir", "dirpath", "ckpt_path", "output", "folder"}
"""Settings that are paths, wherever they stand."""
NAMES = {"name", "version", "sub_dir"}
"""What a logger makes its folder of; it expands them too."""


def expanded(path: str) -> str:
    """A path with its variables and ``~`` replaced; a variable that is not set stays."""
    return os.path.expanduser(os.path.expandvars(path))  # noqa: PTH111  # a pathlib.Path would lose "s3://"


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
