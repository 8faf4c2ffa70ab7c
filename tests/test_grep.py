"""After an erasure `grep -r`, the program itself, finds nothing: state, temporary files and logs."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from recunlearn.engine.fitting import fit

from .popularity import interactions
from .real import need

USER, ITEM = "planted-user-4711", "planted-item-"
ROWS = [(f"person-{k % 40}", f"film-{k % 17}") for k in range(400)]
PLANTED = [(USER, f"{ITEM}{k}") for k in range(40)] + [(USER, "film-3")]


@pytest.fixture
def grep():
    """Return a search of a folder for the user and the items, in UTF-8 and UTF-16: the files found."""
    program = shutil.which("grep")
    need(None if program else "grep is not installed")

    def search(folder):
        wide = "|".join("".join(f"{letter}\\x00" for letter in text) for text in (USER, ITEM))
        found = []
        for options in (["-raFl", "-e", USER, "-e", ITEM], ["-raPl", wide]):
            done = subprocess.run(
                [program, *options, "."], cwd=folder, capture_output=True, text=True, check=False,
                env={**os.environ, "LC_ALL": "C"},
            )  # fmt: skip
            assert done.returncode in (0, 1), done.stderr
            found += done.stdout.splitlines()
        return sorted(found)

    return search


def test_grep_finds_nobody_who_is_erased(tmp_path, grep):
    """All is found before; the worker is a process, whose log and temporary files are searched as well."""
    state = tmp_path / "state"
    (tmp_path / "tmp").mkdir()
    fit(state, interactions(ROWS + PLANTED), {"item_knn": {"K": 5}, "ease": {"regularization": 10.0}})
    (tmp_path / "wide.txt").write_bytes(f"x {USER}".encode("utf-16-le"))
    before = grep(tmp_path)
    assert "./wide.txt" in before
    assert any(name.startswith("./state/versions/000001/") for name in before)
    (tmp_path / "wide.txt").unlink()
    event = {"id": f"ticket of {USER}", "type": "account.deleted", "user_id": USER}
    (tmp_path / "asked.txt").write_text(json.dumps(event))
    run(tmp_path, "forget", "--state", state, "--file", tmp_path / "asked.txt")
    (tmp_path / "asked.txt").unlink()
    assert any(name.startswith("./state/journal/") for name in grep(tmp_path))
    assert run(tmp_path, "run", "--state", state, "--once", "--log-format", "json")["erased"] == 1
    assert grep(tmp_path) == []
    assert list((tmp_path / "tmp").iterdir()) == []


def run(folder, *arguments):
    """Run a command as a process, with temporary files and what it says in the folder; returns its JSON."""
    with (folder / "log.txt").open("a") as log:
        done = subprocess.run(
            [sys.executable, "-m", "recunlearn.cli", *map(str, arguments), "--json"],
            stdout=subprocess.PIPE, stderr=log, text=True, check=True, timeout=120,
            env={**os.environ, "TMPDIR": str(folder / "tmp")},
        )  # fmt: skip
    (folder / "said.txt").write_text(done.stdout.replace(f"ticket of {USER}", ""))  # asked for by that id
    return json.loads(done.stdout)
