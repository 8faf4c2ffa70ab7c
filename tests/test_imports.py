"""Imports: light, public where promised, and only ever downwards."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import recunlearn
from recunlearn import models
from recunlearn.engine.fitting import fit

from .popularity import interactions
from .test_cli import invoke

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


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Make a state, a coordinator and a silo, each with something to report."""
    root = tmp_path_factory.mktemp("places")
    fit(root / "state", interactions([("anna", "x"), ("bob", "x"), ("bob", "y")]), {"item_knn": {}})
    (root / "items").write_text("x\ny\n")
    invoke(
        "coordinator", "init", "--state", root / "hub", "--board", root / "board", "--items", root / "items"
    )
    board, key = root / "board", root / "board" / "coordinator.pub"
    (root / "rows.csv").write_text("user_id,item_id\nanna,x\nbob,y\n")
    invoke(
        "silo", "join", "--state", root / "silo", "--board", board, "--name", "north",
        "--coordinator-key", key, "--data", root / "rows.csv",
    )  # fmt: skip
    return root


@pytest.mark.parametrize(
    ("command", "needed"),
    [
        ("--help", {"typer"}),
        ("silo --help", {"typer"}),
        ("silo status --state silo", {"typer"}),
        ("silo forget --state silo --user anna", {"typer"}),
        ("coordinator status --state hub", {"typer"}),
        ("forget --state state --user anna", {"typer"}),
        ("status --state state --json", {"typer", "numpy", "scipy", "polars"}),
    ],
)
def test_a_command_that_only_looks_imports_nothing_that_computes(places, command, needed):
    """No compiler, no model, no library of tables where nothing is computed: half a second of each start."""
    code = (
        f"import os, sys; from recunlearn.cli import main; os.chdir({str(places)!r})\n"
        f"sys.argv = {['recunlearn', *command.split()]}\n"
        f"try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        f"print(*(m for m in {HEAVY} if m in sys.modules))"
    )
    assert set(_in_a_new_process(code).splitlines()[-1].split()) <= needed


def test_every_public_model_is_where_it_is_said_to_be():
    """Each name of ``recunlearn.models`` loads what it names; another one is refused by its name."""
    assert sorted(models._FILES) == sorted(models.__all__)
    for name in models.__all__:
        assert getattr(getattr(models, name), "__name__", "MODELS") == name
    with pytest.raises(AttributeError, match="no attribute 'Oblivion'"):
        models.__getattr__("Oblivion")


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
