"""Sphinx: the pages of docs/ and the public interface, into docs/_build.

sphinx-build -W -b html docs docs/_build/html
"""

from itertools import pairwise

from sphinx.application import Sphinx

import lvm_lightning

project = "lvm-lightning"
author = "the lvm-lightning authors"
version = release = lvm_lightning.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "myst_nb"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "lvm-lightning"
html_show_sourcelink = False

nb_execution_mode = "off"  # a test runs the notebook; its pages show what it printed then
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
# Links from docs/ into the repository are files on the web site of the source, and no pages here.
# One-letter names of the papers stand in many classes.
suppress_warnings = ["myst.xref_missing", "ref.python"]

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_class_signature = "mixed"
napoleon_google_docstring = True
napoleon_use_rtype = False
napoleon_use_ivar = True


def as_rst(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Docstrings are written for ``help()``: what napoleon or RST would take for something else is marked here."""
    found = ["\\"] if what in ("attribute", "data", "property") else []  # "Units: …" is no type
    for above, line in pairwise(["", *lines]):
        # an indented block of its own is an equation or code; in a section it follows indented lines
        last = next((text for text in reversed(found) if text), "")
        if line.startswith("    ") and not above and last and not last.startswith(" ") and not last.endswith("::"):
            found += ["::", ""]
        found.append(line)
    lines[:] = found


def is_plain_field(app: Sphinx, what: str, name: str, obj: object, skip: bool, options: object) -> bool | None:
    """Leave out a NamedTuple's fields: its docstring has said what they are."""
    return True if (getattr(obj, "__doc__", None) or "").startswith("Alias for field number") else None


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-skip-member", is_plain_field)
    app.connect("autodoc-process-docstring", as_rst, priority=400)  # napoleon comes at 500
