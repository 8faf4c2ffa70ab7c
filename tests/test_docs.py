"""The docs are true: their commands and snippets run, and show what happens.

In a page, ``console`` blocks are commands (``$ ...``) with what they print, ``pycon`` blocks are Python with
what it prints, and ``python`` blocks are run as they are; one page is one session, in one folder, in order.
Where a block shows ``...``, anything may stand. A command that shows no output may print what it likes, a
command ending in ``&`` runs until the page ends, and ``sh`` blocks (installing, cloning) are not run. A page
that builds upon another says so in a comment: ``<!-- starts with: shop -->``.
"""

import contextlib
import doctest
import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
FENCE = re.compile(r"^```(console|pycon|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s#]+)(?:#[^)]*)?\)")
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


class Block(NamedTuple):
    """A piece of a page that is run: its kind, its text, the line it starts in."""

    kind: str
    text: str
    line: int


class Command(NamedTuple):
    """A command of a console block, and what the page says it prints."""

    line: str
    shown: str


def blocks_of(text):
    """List what is run of a page, in order."""
    return [Block(m[1], m[2], text[: m.start()].count("\n") + 2) for m in FENCE.finditer(text)]


def commands_of(text):
    """Take a console block apart; a backslash at the end of a line goes on in the next."""
    commands = []
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, shown = re.fullmatch(r"((?:[^\n]*\\\n)*[^\n]*)\n?(.*)", part, re.DOTALL).groups()
        commands.append(Command(command, shown))
    return commands


def free_port():
    """Find a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Session:
    """One page's folder, variables and processes."""

    def __init__(self, folder, running):
        self.folder, self.running, self.names = folder, running, {"__name__": "__docs__"}
        path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
        self.environment = {**os.environ, "PATH": path, "COLUMNS": "100", "NO_COLOR": "1"}

    def run(self, block):
        """Run a block; what is shown must be what happens."""
        if block.kind == "console":
            for command in commands_of(block.text):
                printed = self.background(command) if command.line.endswith("&") else self.shell(command)
                self.compare(command.line, command.shown, printed)
        elif block.kind == "pycon":
            test = doctest.DocTestParser().get_doctest(block.text, self.names, "page", None, block.line)
            told = []
            runner = doctest.DocTestRunner(optionflags=FLAGS, verbose=False)
            runner.run(test, out=told.append, clear_globs=False)
            self.names.update(test.globs)
            assert runner.failures == 0, "".join(told)
        else:
            exec(compile(block.text, f"page, line {block.line}", "exec"), self.names)  # noqa: S102  the docs' own

    def shell(self, command):
        """Run a command to its end; what it printed."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command.line],
            cwd=self.folder, env=self.environment, text=True, timeout=300, check=False,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert done.returncode == 0, f"{command.line}\n{done.stdout}"
        return done.stdout

    def background(self, command):
        """Start a command that runs until the page ends; as much of what it prints as is shown."""
        process = subprocess.Popen(
            ["bash", "-c", "exec " + command.line.removesuffix("&")],
            cwd=self.folder, env=self.environment, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.running.callback(stop, process)
        return "".join(process.stdout.readline() for _ in command.shown.splitlines())

    def compare(self, command, shown, printed):
        """Compare what a page shows with what was printed."""
        same = not shown.strip() or doctest.OutputChecker().check_output(shown, printed, FLAGS)
        assert same, f"$ {command}\nshown:\n{shown}\nprinted:\n{printed}"


def stop(process):
    """End a process that this page started, and wait for it."""
    process.terminate()
    process.communicate(timeout=60)


@pytest.fixture(scope="session")
def shop(tmp_path_factory):
    """Run the first steps of the tutorial, up to the fit: the folder that other pages start with."""
    folder = tmp_path_factory.mktemp("docs")
    text = (DOCS / "tutorial.md").read_text().partition("<!-- other pages start here -->")[0]
    with contextlib.ExitStack() as running, contextlib.chdir(folder):
        session = Session(folder, running)
        for block in blocks_of(text):
            session.run(block)
    return folder


@pytest.mark.xdist_group("docs")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_shows_what_happens(page, tmp_path, request):
    """Every command and snippet of the page runs, in order, and prints what the page shows."""
    text = page.read_text()
    blocks = blocks_of(text)
    if not blocks:
        return
    if any("curl " in block.text for block in blocks) and not shutil.which("curl"):
        assert os.environ.get("CI") != "true", (
            "no curl on this machine; CI installs it (apt-get install curl)"
        )
        pytest.skip("no curl on this machine (apt-get install curl)")
    folder = tmp_path / "page"
    if "<!-- starts with: shop -->" in text:
        shutil.copytree(request.getfixturevalue("shop"), folder)
    else:
        folder.mkdir()
    port = str(free_port())
    with contextlib.ExitStack() as running, contextlib.chdir(folder):
        session = Session(folder, running)
        for block in blocks:
            session.run(block._replace(text=block.text.replace("8080", port)))


def test_the_comparison_can_fail(tmp_path):
    """A page that shows something else, or a command that fails, is found out."""
    with contextlib.ExitStack() as running:
        session = Session(tmp_path, running)
        session.run(Block("console", "$ echo one \\\n  two\none ...\n$ true\n", 1))
        for wrong in ("$ echo one\ntwo\n", "$ false\n"):
            with pytest.raises(AssertionError):
                session.run(Block("console", wrong, 1))
        with pytest.raises(AssertionError, match="Expected"):
            session.run(Block("pycon", ">>> 1 + 1\n3\n", 1))
        with pytest.raises(ZeroDivisionError):
            session.run(Block("python", "1 / 0\n", 1))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    """Every relative link and picture of a page is a file of the repository."""
    targets = [link for link in LINK.findall(page.read_text()) if "://" not in link and "mailto:" not in link]
    missing = [link for link in targets if not (page.parent / link).exists()]
    assert not missing


def build_module():
    """Load docs/build.py, which is no part of the package."""
    spec = importlib.util.spec_from_file_location("docs_build", DOCS / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_generated_references_are_up_to_date():
    """The pages that are made from the code are what the code makes today."""
    for path, text in build_module().generated().items():
        assert path.read_text() == text, f"{path.relative_to(ROOT)} is out of date; run: make docs"


@pytest.mark.xdist_group("docs")
def test_the_site_builds_without_a_warning(tmp_path):
    """Every page is in the site and every reference resolves; a warning is an error."""
    done = subprocess.run(
        [sys.executable, DOCS / "build.py", tmp_path / "site"],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for page in DOCS.rglob("*.md"):
        assert (tmp_path / "site" / page.relative_to(DOCS).with_suffix(".html")).exists()
