"""Imports: light, public where promised, and only ever downwards."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import recunlearn

ROOT = Path(recunlearn.__file__).parent
HEAVY = (
    "numpy",
    "scipy",
    "numba",
    "polars",
    "implicit",
    "kafka",
    "redis",
    "psycopg",
    "fastapi",
    "uvicorn",
    "matplotlib",
    "typer",
)
MAY_IMPORT = {
    "models": {"models"},
    "engine": {"engine", "models"},
    "streaming": {"streaming", "engine", "models"},
    "eval": {"eval", "engine", "models"},
    "commands": {"commands", "streaming", "engine", "models", "eval"},
    "cli": {"cli", "commands", "streaming", "engine", "models", "eval"},
    "__init__": {"engine"},
}
"""Room -> the rooms it may import from: docs/explanation/architecture.md."""


def _in_a_new_process(code):
    """Run code where nothing is imported yet; returns what it printed."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_importing_the_package_imports_nothing_heavy():
    """`import recunlearn` loads none of the libraries that take time."""
    code = f"import sys, recunlearn; print([m for m in {HEAVY} if m in sys.modules])"
    assert _in_a_new_process(code) == "[]"


def test_the_reader_is_public_and_named_by_the_package():
    """`from recunlearn import SnapshotReader` gives the engine's own class; `__all__` tells no lies."""
    assert _in_a_new_process("from recunlearn import SnapshotReader as S; print(S.__module__)") == (
        "recunlearn.engine.snapshot"
    )
    assert all(getattr(recunlearn, name) is not None for name in recunlearn.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Oblivion'"):
        recunlearn.__getattr__("Oblivion")


def _sources():
    for room in ("models", "engine", "streaming", "eval", "commands"):
        yield from sorted((ROOT / room).rglob("*.py"))
    yield from (ROOT / "cli.py", ROOT / "__init__.py")


def _room(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def _imported_rooms(path, source):
    """Yield (line, room) of each import of the package's own, at any depth; the package itself is no room."""
    package = ("recunlearn", *path.relative_to(ROOT).parts[:-1])
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) + 1 - node.level]) if node.level else []
            target = [*base, *(node.module or "").split(".")] if node.module else base
            names = [[*target, alias.name] for alias in node.names]
        else:
            continue
        for name in names:
            if name[0] == "recunlearn" and len(name) > 1 and name[1] in MAY_IMPORT:
                yield node.lineno, name[1]


def test_the_rule_sees_every_way_to_write_an_import():
    """Absolute and relative, of a module or from it, at the top or inside a function: all are seen."""
    source = (
        "import recunlearn.cli\nfrom recunlearn import eval\nfrom recunlearn.eval.page import x\n"
        "def f():\n    from ..streaming import journal\n    from .. import cli\n    from .state import y\n"
        "from .. import __version__\nimport json\n"
    )
    found = list(_imported_rooms(ROOT / "engine" / "any.py", source))
    assert sorted(found) == [
        (1, "cli"), (2, "eval"), (3, "eval"), (5, "streaming"), (6, "cli"), (7, "engine"),
    ]  # fmt: skip


@pytest.mark.parametrize("path", list(_sources()), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_only_point_down(path):
    """No room imports from one above it: models know no engine, an engine no stream, nobody the cli."""
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {room}"
        for line, room in _imported_rooms(path, path.read_text())
        if room not in MAY_IMPORT[_room(path)]
    ]
    assert not wrong
