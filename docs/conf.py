"""How the site is built; see build.py."""

import re
from typing import Any

import latex2mathml.converter
from docutils import nodes
from recunlearn import __version__

project = "recunlearn"
author = "the recunlearn authors"
copyright = "2026, the recunlearn authors"  # noqa: A001  Sphinx's own name for it
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
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

html_math_renderer = "mathml"  # drawn by the browser itself: nothing is fetched, no script runs
html_theme = "furo"
html_title = "recunlearn"
html_show_sourcelink = False
html_copy_source = False

ENTRY = re.compile(r"(\w+(?:, \w+)*) : (.+)")
THEMES = ("light", "dark")
NO_PICTURES = "*(No picture of it here: `make docs` takes one, where there is a browser.)*"
PICTURE = """<a class="only-{theme}" href="{up}page-{theme}.png">
<img src="{up}page-{theme}.png" alt="The page, {theme}: figures, requests, certificates, a list, receipts">
</a>
"""
LITERAL = re.compile(r"(``.*?``|:\w+:`.*?`)")


def escape_bars(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Let |S|_* be a norm: docstrings are written for people, reST reads bars and stars as markup."""
    del app, name, obj, options
    if what in {"attribute", "property"} and lines:  # napoleon takes what is before a colon for a type
        lines[0] = lines[0].replace(": ", " \N{EN DASH} ", 1)
    literal: int | None = None
    for place, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if literal is not None and line.strip() and indent <= literal:
            literal = None
        if literal is None and not line.lstrip().startswith((">>>", "...")):
            parts = LITERAL.split(line)
            parts[::2] = [re.sub(r"[|*@]", r"\\\g<0>", part) for part in parts[::2]]
            lines[place] = "".join(parts)
            if line.rstrip().endswith("::"):
                literal = indent


def put_types_in_words(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Let what stands after ``name :`` run on: here it says shape, type and meaning in one sentence."""
    del app, what, name, obj, options
    section, written = "", []
    for place, line in enumerate(lines):
        if place + 1 < len(lines) and lines[place + 1] and set(lines[place + 1]) == {"-"}:
            section = line
        entry = ENTRY.fullmatch(line) if section in {"Parameters", "Attributes"} else None
        written += [entry[1], f"    {entry[2]}"] if entry else [line]
    lines[:] = written


def draw_inline(writer: Any, node: Any) -> None:
    """Write a formula in a line."""
    writer.body.append(latex2mathml.converter.convert(node.astext(), display="inline"))
    raise nodes.SkipNode


def draw_block(writer: Any, node: Any) -> None:
    """Write a formula on a line of its own."""
    formula = latex2mathml.converter.convert(node.astext(), display="block")
    writer.body.append(f'<div style="overflow: auto hidden; padding: .3em 0">{formula}</div>')
    raise nodes.SkipNode


def put_pictures(app: Any, docname: str, source: list[str]) -> None:
    """Show the pictures that build.py took where a page says there are none; light or dark as the site is."""
    if app.config.pictures:
        up = "../" * docname.count("/")
        source[0] = source[0].replace(NO_PICTURES, "".join(PICTURE.format(up=up, theme=t) for t in THEMES))


def setup(app: Any) -> None:
    """Tell Sphinx."""
    app.add_config_value("pictures", "", "html")
    app.connect("source-read", put_pictures)
    app.connect("autodoc-process-docstring", escape_bars, priority=400)  # before napoleon
    app.connect("autodoc-process-docstring", put_types_in_words, priority=410)
    app.add_html_math_renderer("mathml", (draw_inline, None), (draw_block, None))
