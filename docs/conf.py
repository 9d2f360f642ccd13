"""Sphinx: the pages of docs/ and the public interface, into docs/_build.

sphinx-build -W -b html docs docs/_build/html
"""

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
