"""What people install: built from a source archive, in an empty environment, used outside the checkout."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NOT_SOURCE = (
    ".*", "__pycache__", "*.egg-info", "build", "dist", "site", "demo-output", "results", "node_modules",
)  # fmt: skip
pytestmark = pytest.mark.xdist_group("packaging")


def run(*command, cwd):
    """Run a command to its end, without the variables that would lead Python back to the checkout."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd, env=clean, capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Build the source archive, and the wheel from it; returns the folder that holds both."""
    source, out = tmp_path_factory.mktemp("source") / "checkout", tmp_path_factory.mktemp("dist")
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(*NOT_SOURCE))
    run(sys.executable, "-m", "build", "--outdir", out, source, cwd=out)
    return out


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """Install the wheel and what it declares in an empty environment; returns the environment's folder."""
    environment = tmp_path_factory.mktemp("empty") / "env"
    venv.create(environment, with_pip=True)
    (wheel,) = built.glob("*.whl")
    options = ["--quiet", "--disable-pip-version-check", "--no-compile", "--prefer-binary"]
    run(environment / "bin" / "python", "-m", "pip", "install", *options, wheel, cwd=built)
    return environment


def names_in(built):
    """List the files of the wheel."""
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_the_wheel_holds_the_package_and_nothing_else(built):
    """One package at the top; every module is in it, and the mark of types; no test, doc or data file is."""
    names = names_in(built)
    tops = {name.split("/")[0] for name in names}
    assert len(tops) == 2
    assert "recunlearn" in tops
    files = [name for name in names if name.startswith("recunlearn/")]
    rooms = [ROOT / room for room in ("commands", "engine", "streaming", "models", "eval")]
    sources = [*ROOT.glob("*.py"), *(path for room in rooms for path in room.rglob("*.py"))]
    modules = {f"recunlearn/{path.relative_to(ROOT).as_posix()}" for path in sources}
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    declared = {f"recunlearn/{file}" for file in settings["package-data"]["recunlearn"]}
    assert set(files) == modules | declared


def test_the_wheel_says_what_it_is(built):
    """Its licence is in it; the metadata name the command and the version that the package itself names."""
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        metadata, entry_points, licence = (
            archive.read(next(name for name in archive.namelist() if name.endswith(ending))).decode()
            for ending in ("/METADATA", "/entry_points.txt", "/LICENSE")
        )
    import recunlearn

    assert f"Version: {recunlearn.__version__}\n" in metadata
    assert "recunlearn = recunlearn.cli:main" in entry_points
    assert "Apache License" in licence


def test_the_source_archive_can_be_built_from(built):
    """It holds the project file, the README and the mark of types (the wheel was made from it)."""
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "py.typed", "__init__.py", "models/ease.py"} <= names


def test_the_wheel_brings_one_top_level_name(installed):
    """Nobody finds a package called `models` or `eval` among their own: recunlearn is all that comes."""
    code = (
        "import importlib.metadata as m\n"
        "print(*sorted({f.parts[0] for f in m.files('recunlearn') if f.parts[0] != '..'}))"
    )
    top = run(installed / "bin" / "python", "-c", code, cwd=installed).split()
    assert [name for name in top if not name.endswith(".dist-info")] == ["recunlearn"]


def test_the_command_works_outside_the_checkout(installed, tmp_path):
    """With nothing but its declared dependencies: help, a fit, a deletion carried out, a status."""
    command, data, state = installed / "bin" / "recunlearn", tmp_path / "likes.csv", tmp_path / "state"
    rows = [(f"user-{u}", f"item-{i}") for u in range(12) for i in range(8) if (u + i) % 3]
    data.write_text("user_id,item_id\n" + "".join(f"{user},{item}\n" for user, item in rows))
    assert "fit" in run(command, "--help", cwd=tmp_path)
    fitted = run(
        command, "fit", "--data", data, "--state", state, "--model", "ease", "--model", "item_knn", "--json",
        cwd=tmp_path,
    )  # fmt: skip
    assert json.loads(fitted)["users"] == 12
    run(command, "forget", "--state", state, "--user", "user-5", cwd=tmp_path)
    run(command, "run", "--state", state, "--once", cwd=tmp_path)
    status = json.loads(run(command, "status", "--state", state, "--json", cwd=tmp_path))
    assert (status["version"], status["users"]) == (2, 11)
    assert status["requests"]["erased"] == 1
    assert status["models"]["ease"]["exact"] is True
    code = "import recunlearn; print(recunlearn.__file__)"
    assert Path(run(installed / "bin" / "python", "-c", code, cwd=tmp_path)).is_relative_to(installed)
