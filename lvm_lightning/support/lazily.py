"""Packages that import what they offer when it is asked for: torch and Lightning take seconds."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def offers(package: str, where: Mapping[str, str]) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package (PEP 562).

    Args:
        package: its name.
        where: name that it offers → module of the package that has it.
    """

    def get(name: str) -> Any:
        if name not in where:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{where[name]}"), name)

    return get
