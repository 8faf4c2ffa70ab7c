"""How the site is built; see build.py."""

import re
from typing import Any

from recunlearn import __version__

project = "recunlearn"
author = "the recunlearn authors"
copyright = "2026, the recunlearn authors"  # noqa: A001  Sphinx's own name for it
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
suppress_warnings = [
    "myst.xref_missing"
]  # links out of docs/: tests/test_docs.py checks that the file is there

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # shapes and dtypes are in the docstrings
napoleon_use_ivar = True
default_role = "code"

html_theme = "furo"
html_title = "recunlearn"
html_show_sourcelink = False
html_copy_source = False

LITERAL = re.compile(r"(``.*?``|:\w+:`.*?`)")


def escape_bars(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Let |S|_* be a norm: docstrings are written for people, reST reads bars and stars as markup."""
    del app, what, name, obj, options
    literal: int | None = None
    for place, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if literal is not None and line.strip() and indent <= literal:
            literal = None
        if literal is None and not line.lstrip().startswith((">>>", "...")):
            parts = LITERAL.split(line)
            parts[::2] = [re.sub(r"[|*]", r"\\\g<0>", part) for part in parts[::2]]
            lines[place] = "".join(parts)
            if line.rstrip().endswith("::"):
                literal = indent


def setup(app: Any) -> None:
    """Tell Sphinx."""
    app.connect("autodoc-process-docstring", escape_bars, priority=400)  # before napoleon
