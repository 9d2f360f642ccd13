"""Config files, read before they are parsed: what the parser would pass over in silence, or tell without a name."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from lvm_lightning.command.paths import expanded
from lvm_lightning.support import UserError, one_line

LARGEST = 100_000
"""Values of a config."""


def require_configs(arguments: Sequence[str], groups: Sequence[str]) -> None:
    """Refuse a config that is not YAML, says something twice, or has something else for a group of settings.

    Args:
        arguments: the command's.
        groups: names of the groups.

    Raises:
        UserError: naming the file, and the line where there is one.
    """
    named = [value for name, value in itertools.pairwise(arguments) if name in ("--config", "-c")]
    named += [argument.removeprefix("--config=") for argument in arguments if argument.startswith("--config=")]
    for path in filter(Path.is_file, map(Path, map(expanded, named))):
        root = _root(path)
        if not isinstance(root, yaml.MappingNode):
            raise UserError(
                f"config: must be settings by name, got {root.tag.split(':')[-1] if root else 'nothing'} in {path}"
            )
        for key, value in root.value:
            if not key.tag.endswith(":str"):
                line = key.start_mark.line + 1
                raise UserError(f"config: must be settings by name, got {key.value} for a name in {path}, line {line}")
            null = value.tag == "tag:yaml.org,2002:null"
            if key.value in groups and not (null or isinstance(value, yaml.MappingNode)):
                given = value.value if isinstance(value, yaml.ScalarNode) else "a list"
                raise UserError(f"{key.value}: must be settings by name in {path}, got {given}")


def _root(path: Path) -> yaml.Node | None:
    """The file's node, None where it is empty."""
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), yaml.SafeLoader)
        if root is not None and _size(root, {}) > LARGEST:
            raise UserError(f"config: must not hold more than {LARGEST:,} values, got that in {path}, with its aliases")
        for node, above in _nodes(root, (), set()) if root else ():
            if node in above:
                raise UserError(f"config: must not hold itself, got that in {path}, line {node.start_mark.line + 1}")
            keys = [key.value for key, _ in node.value] if isinstance(node, yaml.MappingNode) else []
            for number, key in enumerate(keys):
                if key in keys[:number]:
                    line = node.value[number][0].start_mark.line + 1
                    raise UserError(f"{key}: must be given once in {path}, got it again in line {line}; leave one out")
        if root is not None:
            yaml.SafeLoader("").construct_document(root)
    except UnicodeDecodeError as error:
        raise UserError(f"config: must be text in UTF-8, got {path}; save it as UTF-8") from error
    except OSError as error:
        raise UserError(f"config: must be a file that can be read, got {path} ({error.strerror})") from error
    except RecursionError as error:
        raise UserError(f"config: must not be nested as deeply as {path}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        told = one_line(getattr(error, "problem", None) or str(error))
        raise UserError(f"config: must be YAML, got {path}{where}: {told}") from error
    return root


def _size(node: yaml.Node, known: dict[int, float]) -> float:
    """How many values a node stands for: a few aliases of aliases are more than any memory holds."""
    if id(node) not in known:
        known[id(node)] = 0.0  # what holds itself is told elsewhere
        children = [] if isinstance(node, yaml.ScalarNode) else node.value
        inner = [part for child in children for part in (child if isinstance(child, tuple) else (child,))]
        known[id(node)] = 1.0 + sum(_size(part, known) for part in inner)
    return known[id(node)]


def _nodes(
    node: yaml.Node, above: tuple[yaml.Node, ...], seen: set[int]
) -> Iterator[tuple[yaml.Node, tuple[yaml.Node, ...]]]:
    """Every node with those that it lies in; what an alias repeats once."""
    yield node, above
    if node in above or id(node) in seen or isinstance(node, yaml.ScalarNode):
        return
    seen.add(id(node))
    for child in node.value:
        for inner in child if isinstance(child, tuple) else (child,):
            yield from _nodes(inner, (*above, node), seen)
