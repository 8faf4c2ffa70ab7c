"""Pictures of the page at `/`, light and dark: a state of real films, people forgotten, a real browser.

python docs/pictures.py FOLDER
"""

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from browser import CHROMIUM, MISSING, Page, open_browser

WIDTH, HEIGHT = 1280, 900
MODELS = ("spectral_mf", "ease", "item_knn")
FORGOTTEN = ((17, 42, 305), (405,), (88, 655, 13, 450))
"""Whom each cycle forgets."""
SHOWN = 276
"""Whose list is looked up."""

_COMMAND = [sys.executable, "-c", "from recunlearn.cli import main; main()"]
_PATIENCE = 120


class NoPicturesError(Exception):
    """This machine has no browser, or cannot get at the data."""


def take_pictures(folder: Path) -> list[Path]:
    """Take ``page-light.png`` and ``page-dark.png``; returns where they are.

    Raises
    ------
    NoPicturesError
        There is no browser, or no data.
    """
    from recunlearn.eval.datasets import DatasetError

    if CHROMIUM is None:
        raise NoPicturesError(MISSING)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        try:
            _write_films(Path(work) / "films.csv")
        except DatasetError as error:
            raise NoPicturesError(str(error)) from None
        _make_state(Path(work))
        with _served(Path(work) / "state") as url, open_browser(Path(work) / "profile") as page:
            _arrange(page, url)
            return [_taken(page, theme, folder / f"page-{theme}.png") for theme in ("light", "dark")]


def _write_films(path: Path) -> None:
    """Write who chose which film, by its title."""
    import polars as pl
    from recunlearn.eval.datasets import load_dataset

    films = load_dataset("movielens-100k")
    frame = films.table.frame.with_columns(
        pl.col("item_id").replace_strict(films.titles, return_dtype=pl.String)
    )
    frame.select("user_id", "item_id").write_csv(path)


def _make_state(work: Path) -> None:
    """Fit, and forget some people in each of a few cycles."""
    models = [word for model in MODELS for word in ("--model", model)]
    state = ["--state", str(work / "state")]
    _run("fit", "--data", str(work / "films.csv"), *state, *models)
    for users in FORGOTTEN:
        _run("forget", *state, *(word for user in users for word in ("--user", str(user))))
        _run("run", *state, "--once")


def _run(*arguments: str) -> None:
    subprocess.run([*_COMMAND, *arguments], check=True, capture_output=True, timeout=_PATIENCE)  # noqa: S603  ours


@contextlib.contextmanager
def _served(state: Path) -> Iterator[str]:
    """Serve a state on a free port of this machine; gives the URL."""
    command = [*_COMMAND, "serve", "--state", str(state), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:  # noqa: S603  ours
        try:
            assert server.stdout is not None
            yield server.stdout.readline().split()[-1]
        finally:
            server.terminate()


def _arrange(page: Page, url: str) -> None:
    """Look a user up and verify the last receipt, as somebody at the page would."""
    page.resize(WIDTH, HEIGHT)
    page.open(url)
    page.wait_for("document.querySelector('#receipts button')")
    page.run(f"document.querySelector('#user').value = '{SHOWN}'")
    page.run("document.querySelector('#user-form button').click()")
    page.wait_for("document.querySelector('#user-answer tbody tr')")
    page.run("document.querySelector('#receipts button').click()")
    page.wait_for("document.querySelector('#verdict .good')")
    page.run("document.activeElement.blur()")


def _taken(page: Page, theme: str, path: Path) -> Path:
    page.prefer(theme)
    path.write_bytes(page.picture())
    return path


if __name__ == "__main__":
    for taken in take_pictures(Path(sys.argv[1])):
        print(taken)
