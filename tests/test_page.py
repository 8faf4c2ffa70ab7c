"""The operator's page in a real headless browser: by keyboard, live, light and dark, loading nothing else."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from .real import need

BROWSER_FILE = Path(__file__).parent.parent / "docs" / "browser.py"
COMMAND = [sys.executable, "-c", "from recunlearn.cli import main; main()"]
BRIGHTNESS = "getComputedStyle(document.body).{0}.match(/\\d+/g).slice(0, 3).reduce((a, b) => a + +b, 0) / 3"
NARROW, WIDE = 400, 1280


def load_browser():
    """Load docs/browser.py, which is no part of the package."""
    spec = importlib.util.spec_from_file_location("docs_browser", BROWSER_FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(*arguments):
    """Run a command of ours to its end."""
    subprocess.run([*COMMAND, *arguments], check=True, capture_output=True, timeout=300)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Fit ItemKNN to a few plays, forget one user, and serve: the state directory and the URL."""
    folder = tmp_path_factory.mktemp("page")
    rows = [f"{user},film {item}" for user in range(12) for item in range(9) if (user * item) % 5 < 2]
    (folder / "plays.csv").write_text("\n".join(["user_id,item_id", *rows]) + "\n", encoding="utf-8")
    state = str(folder / "state")
    run("fit", "--data", str(folder / "plays.csv"), "--state", state, "--model", "item_knn")
    forget(state, 2)
    command = [*COMMAND, "serve", "--state", state, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            yield state, server.stdout.readline().split()[-1]
        finally:
            server.terminate()


def forget(state, user):
    """Forget a user, and wait until that is done."""
    run("forget", "--state", state, "--user", str(user))
    run("run", "--state", state, "--once")


@pytest.fixture(scope="module")
def page(shop, tmp_path_factory):
    """Open the page in the browser of this machine."""
    browser = load_browser()
    if browser.CHROMIUM is None:
        need(browser.MISSING)
    with browser.open_browser(tmp_path_factory.mktemp("browser") / "profile") as page:
        page.resize(WIDE, 900)
        page.open(shop[1])
        page.wait_for("document.querySelector('#receipts button')")
        yield page


def text_of(page, selector):
    """Return the text of an element."""
    return page.run(f"document.querySelector({json.dumps(selector)}).textContent")


def look_up(page, user):
    """Type a user's id and press Enter, as somebody without a mouse does."""
    page.run("document.querySelector('#user').select(), document.querySelector('#user').focus()")
    page.write(str(user))
    page.run("document.querySelector('#user-answer').replaceChildren()")
    page.press("Enter", "\r")
    page.wait_for("document.querySelector('#user-answer').textContent")
    return text_of(page, "#user-answer")


def test_it_asks_nobody_but_the_server(shop, page):
    """All that the page loaded came from the server that it came from."""
    loaded = page.run("performance.getEntriesByType('resource').map(entry => entry.name)")
    assert loaded
    assert all(name.startswith(shop[1]) for name in loaded)


def test_a_user_is_looked_up_by_keyboard(page):
    """Enter in the field shows what a user is recommended, and because of what they have."""
    answer = look_up(page, 3)
    assert "film" in answer
    assert "because they have" in answer
    rows = page.run("document.querySelectorAll('#user-answer tbody tr').length")
    assert 1 <= rows <= 10
    assert "film" in page.run("document.querySelector('#user-answer tbody td.long').textContent")


def test_a_forgotten_user_and_an_unknown_one_look_the_same(page):
    """Of neither more is said than that nobody is served by that id."""
    assert (
        look_up(page, 2)
        == look_up(page, "nobody")
        == ("Not served: unknown, or forgotten. Nobody can tell which.")
    )


def test_a_receipt_is_verified_and_an_altered_one_refused(page):
    """The button of a receipt verifies it; with one letter of it changed, it is not valid."""
    page.run("document.querySelector('#receipts button').focus()")
    page.press("Enter", "\r")
    page.wait_for("document.querySelector('#verdict .good')")
    assert "valid" in text_of(page, "#verdict .good")
    page.run(
        '(b => b.value = b.value.replace(/"leaf":"./, start => start.slice(0, -1) + \'A\'))'
        "(document.querySelector('#bundle'))"
    )
    page.run("document.querySelector('#receipt-form button').click()")
    page.wait_for("document.querySelector('#verdict .bad')")
    assert "Not a valid receipt" in text_of(page, "#verdict")


def test_it_follows_what_happens(shop, page):
    """Without a reload the page shows the version and the receipt of a user who is forgotten meanwhile."""
    before = text_of(page, "#live")
    receipts = page.run("document.querySelectorAll('#receipts button').length")
    forget(shop[0], 5)
    page.wait_for(f"document.querySelector('#live').textContent !== {json.dumps(before)}", 60)
    page.wait_for(f"document.querySelectorAll('#receipts button').length === {receipts + 1}")
    page.wait_for("document.querySelector('#states tbody tr').textContent.includes('erased2')")


@pytest.mark.parametrize("width", [NARROW, WIDE])
def test_it_fits_the_window(page, width):
    """With a list and a verdict shown, the page itself never scrolls aside."""
    look_up(page, 3)
    page.resize(width, 900)
    try:
        assert page.run("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    finally:
        page.resize(WIDE, 900)


def test_it_follows_the_theme(page):
    """Dark ink on light in a light theme, light on dark in a dark one, also in the fields."""
    for theme, dark_ink in (("light", True), ("dark", False)):
        page.prefer(theme)
        ink, ground = (page.run(BRIGHTNESS.format(what)) for what in ("color", "backgroundColor"))
        assert (ink < 80 and ground > 200) == dark_ink
        assert (ink > 180 and ground < 60) == (not dark_ink)


def test_every_control_has_a_name(page):
    """Each field, list and button says what it is to who cannot see it."""
    nameless = page.run(
        "[...document.querySelectorAll('input,select,textarea,button')]"
        ".filter(e => !(e.labels?.length && e.labels[0].textContent.trim()) && !e.textContent.trim())"
        ".map(e => e.outerHTML)"
    )
    assert nameless == []


def test_pictures_take_the_place_of_their_absence():
    """The docs show both pictures where the page says that there are none, with the way up to them."""
    from types import SimpleNamespace

    spec = importlib.util.spec_from_file_location("docs_conf", BROWSER_FILE.with_name("conf.py"))
    conf = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(conf)
    page = (BROWSER_FILE.parent / "howto" / "serve.md").read_text(encoding="utf-8")
    assert page.count(conf.NO_PICTURES) == 1
    shown, not_taken = [page], [page]
    conf.put_pictures(SimpleNamespace(config=SimpleNamespace(pictures="1")), "howto/serve", shown)
    conf.put_pictures(SimpleNamespace(config=SimpleNamespace(pictures="")), "howto/serve", not_taken)
    assert not_taken == [page]
    assert conf.NO_PICTURES not in shown[0]
    for theme in ("light", "dark"):
        assert f'class="only-{theme}" href="../page-{theme}.png"' in shown[0]
