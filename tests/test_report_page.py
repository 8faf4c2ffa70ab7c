"""The report in a real headless browser: it renders, fits, follows the theme and loads nothing."""

import os
import re
import shutil
import subprocess

import pytest
from recunlearn.eval.page import render_page

from .sample_report import sample_report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PROBE = """<script>
addEventListener("load", () => {
  const svgs = [...document.querySelectorAll("svg")];
  const found = {
    wide: document.documentElement.scrollWidth > document.documentElement.clientWidth,
    drawn: svgs.filter(s => s.getBoundingClientRect().height > 80).length,
    loaded: performance.getEntriesByType("resource").map(e => e.name),
    ink: getComputedStyle(document.body).color,
    text: getComputedStyle(svgs[0].querySelector("text")).fill,
    overlong: [...document.querySelectorAll("svg text")].filter(t => {
      const box = t.getBoundingClientRect(), svg = t.closest("svg").getBoundingClientRect();
      return box.left < svg.left - 1 || box.right > svg.right + 1;
    }).map(t => t.textContent),
  };
  document.title = "probe " + JSON.stringify(found);
});
</script>"""


@pytest.fixture
def browse(tmp_path):
    """Open a page in the browser; return what :data:`PROBE` found in it."""
    import json

    if BROWSER is None:
        if os.environ.get("CI") == "true":
            pytest.fail("no chromium on this machine; CI installs one (apt-get install chromium)")
        pytest.skip("no chromium on this machine (apt-get install chromium)")

    def run(page, *flags):
        path = tmp_path / "page.html"
        path.write_text(page.replace("</body>", PROBE + "</body>"), encoding="utf-8")
        command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
        command += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
        command += [f"--user-data-dir={tmp_path / 'profile'}", *flags, "--dump-dom", path.as_uri()]
        result = subprocess.run(command, capture_output=True, timeout=90, check=True)
        found = re.search(r"<title>probe (.*?)</title>", result.stdout.decode(), re.DOTALL)
        assert found is not None, result.stderr.decode()[-2000:]
        return json.loads(found[1].replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">"))

    return run


def test_the_report_renders_in_a_browser_and_loads_nothing(browse):
    """All five drawings have a size, no text leaves its drawing, nothing is fetched or scrolls aside."""
    found = browse(render_page(sample_report()), "--window-size=1100,900")
    assert found["drawn"] == 5
    assert found["loaded"] == []
    assert not found["wide"]
    assert found["overlong"] == []


def test_the_report_fits_a_narrow_window(browse):
    """At 500 pixels the page itself does not scroll sideways."""
    assert not browse(render_page(sample_report()), "--window-size=500,900")["wide"]


def test_the_report_follows_a_dark_theme(browse):
    """In a dark theme both the page's and the drawings' ink are light."""
    dark = browse(render_page(sample_report()), "--blink-settings=preferredColorScheme=0")
    light = browse(render_page(sample_report()), "--blink-settings=preferredColorScheme=1")
    assert brightness(dark["ink"]) > 180 > 100 > brightness(light["ink"])
    assert brightness(dark["text"]) > 120
    assert dark["text"] != light["text"]


def brightness(colour):
    """Average the channels of a computed rgb() colour."""
    return sum(int(v) for v in re.findall(r"\d+", colour)[:3]) / 3
