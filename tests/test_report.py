"""Reports: what is written is what was measured, on one screen, in JSON and on one page."""

import html
import re
import sys

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from recunlearn.eval.format import seconds, share
from recunlearn.eval.page import render_page
from recunlearn.eval.plots import bound_against_truth, influence_steps, list_changes, timings
from recunlearn.eval.report import ModelOutcome, Removal, read_report, verdict, write_report
from rich.console import Console

from .sample_report import outcome, sample_report


def test_a_written_report_is_read_back_unchanged(tmp_path):
    """report.json holds the whole record, and whether every claim held."""
    report = sample_report()
    data, page = write_report(report, tmp_path / "new")
    assert read_report(data) == report
    assert msgspec.json.decode(data.read_bytes())["ok"] is True
    assert page.read_text(encoding="utf-8") == render_page(report)


def test_a_failed_claim_is_told_everywhere(tmp_path):
    """One claim that does not hold: JSON, page and screen all say so."""
    report = sample_report(held=False)
    data, page = write_report(report, tmp_path)
    assert msgspec.json.decode(data.read_bytes())["ok"] is False
    assert "Not everything" in page.read_text(encoding="utf-8")
    assert "✗ proofs" in screen(report)


def screen(report):
    """Print the verdict as a terminal of 80 columns shows it, without colours."""
    console = Console(width=80, no_color=True, record=True, file=sys.stderr)
    console.print(verdict(report))
    return console.export_text()


def test_the_verdict_fits_one_screen_and_cuts_nothing():
    """At 80 columns nothing is abbreviated, and there are at most 32 lines."""
    text = screen(sample_report())
    assert "…" not in text
    assert "influence left in everybody else" in text
    assert "seconds: forget / retrain" in text
    assert len(text.splitlines()) <= 32
    assert "0.040 %" in text
    assert "exact" in text


def test_the_page_has_no_address_and_no_script():
    """The page loads nothing from anywhere: no URL, no script, no import."""
    page = render_page(sample_report())
    assert not re.search(r"https?:|//[a-z]|<script|@import|url\((?!#)", page)
    assert page.count("<svg") == 5


def test_every_reference_inside_the_page_has_its_target():
    """Ids are unique over all drawings, and whatever is referred to exists."""
    page = render_page(sample_report())
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', page)) <= set(ids)


def test_drawings_are_coloured_by_the_page_alone():
    """No drawing carries a colour of its own: each follows the light or dark theme."""
    report = sample_report()
    for svg in (
        influence_steps(report.removals),
        bound_against_truth(report.removals),
        timings(report.removals),
        list_changes(report.neighbour[0]),
    ):
        assert "var(--" in svg
        assert not re.search(r"#[0-9a-f]{6}", svg)


def test_drawings_are_the_same_for_the_same_figures():
    """Drawing twice gives the same bytes: reports can be compared."""
    assert influence_steps(sample_report().removals) == influence_steps(sample_report().removals)


def test_nothing_measured_is_drawn_without_failing():
    """A run without removals, or with models that can prove nothing, still has a report."""
    assert "<svg" in influence_steps([])
    assert "<svg" in bound_against_truth([Removal("none", 0, 0, [], [])])
    assert "<svg" in timings([])


def test_titles_are_text_and_never_markup():
    """A title full of markup is shown as it is, in lists and drawings."""
    hostile = "<script>alert('x')</script> & $x^2$"
    page = render_page(sample_report(titles=(hostile, "B", "C")))
    assert "<script" not in page
    assert html.escape(hostile) in page


def test_the_page_without_matplotlib_says_how_to_get_the_plots(monkeypatch):
    """Without the report extra the figures are all there in tables, and the way to the plots is named."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    page = render_page(sample_report())
    assert "recunlearn[report]" in page
    assert "<svg" not in page
    assert "0.040 %" in page


@pytest.mark.parametrize(
    ("bound", "distance", "promised", "left", "holds"),
    [
        (1e-4, 5e-5, 0.99, 0.009, True),
        (1e-4, 2e-4, 0.99, 0.009, False),
        (1e-4, 5e-5, 0.99, 0.011, False),
        (None, 5e-5, None, 0.011, False),
        (1e-4, 5e-5, None, 0.5, True),
    ],
)
def test_a_proof_holds_only_if_the_measurement_agrees(bound, distance, promised, left, holds):
    """A bound below the measured distance, or a share above the measured one, is a false claim."""
    base = outcome(left=left)
    fields = {name: getattr(base, name) for name in base.__dataclass_fields__}
    fields |= {"bound": bound, "proof_distance": distance, "erased_at_least": promised}
    assert ModelOutcome(**fields).proof_holds is holds


@given(st.floats(1e-15, 10))
def test_shares_are_written_with_their_value(value):
    """Whatever the size, the text reads back as the value to 6 % (two digits) or its power of ten."""
    text = share(value)
    assert text.endswith(" %")
    tolerance = 0.06 if 100 * value >= 1e-3 else 0.51
    assert float(text[:-2]) == pytest.approx(100 * value, rel=tolerance)


@given(st.floats(1e-3, 1e4))
def test_times_are_written_with_their_value(value):
    """Milliseconds or seconds, the text reads back as the value to 6 %."""
    number, unit = seconds(value).split()
    assert float(number) * {"ms": 1e-3, "s": 1.0}[unit] == pytest.approx(value, rel=0.06)
