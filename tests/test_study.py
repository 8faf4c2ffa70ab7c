"""A study: read from TOML, repeated to the bit, resumed after an interruption, written up in one page."""

import csv
import importlib.util
import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from recunlearn.cli import app
from recunlearn.eval.battery import run as running
from recunlearn.eval.battery.page import render_study
from recunlearn.eval.battery.regimes import Regime, StudyError
from recunlearn.eval.battery.study import DataEntry, Generated, MethodEntry, Study, only, read_study
from recunlearn.eval.battery.summary import summarise, write_results
from typer.testing import CliRunner

from . import unlearners
from .test_report_page import browse

__all__ = ["browse"]

STUDIES = Path(__file__).parent.parent / "docs" / "studies"
_SPEC = importlib.util.spec_from_file_location("write_studies", STUDIES / "write.py")
writing = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(writing)

GENERATED = DataEntry(name="small", generate=Generated(200, 90, 5000))
STUDY = Study(
    name="a small study",
    draws=2,
    data=[GENERATED],
    method=[
        MethodEntry(name="ease", settings={"regularization": 50.0}),
        MethodEntry(name="spectral", method="spectral_mf", settings={"factors": 16}),
        MethodEntry(name="als row", method="implicit_als_row", settings={"factors": 6}),
    ],
    regime=[
        Regime(name="random 10%", share=0.1),
        Regime(name="core stream", who="core", users=6, batch=2, checkpoints=3),
    ],
)
TOML = """
name = "from a file"
draws = 1
[[data]]
name = "csv"
file = "taste.csv"
[[method]]
name = "counts"
method = "mine.py:Counts"
[[regime]]
name = "two people"
users = 2
"""
TIMES = ("efficiency", "environment", "seconds")


def timeless(value):
    """Leave out what may differ between two runs: times, memory, the machine's load."""
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if k not in TIMES}
    return [timeless(v) for v in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Run the study once."""
    return running.run_study(STUDY, tmp_path_factory.mktemp("study"))


@pytest.fixture
def own_method(tmp_path):
    """Write a study of somebody's own method on a file of their own."""
    (tmp_path / "study.toml").write_text(TOML)
    rng = np.random.default_rng(0)
    pairs = {(u, int(i)) for u in range(40) for i in rng.choice(25, 12, replace=False)}
    lines = ["user_id,item_id", *(f"{u},{i}" for u, i in sorted(pairs))]
    (tmp_path / "taste.csv").write_text("\n".join(lines))
    (tmp_path / "mine.py").write_text(Path(unlearners.__file__).read_text())
    return tmp_path


def test_a_study_repeats_to_the_bit(results, tmp_path):
    """The same seed gives the same figures, times apart; another seed does not."""
    one_method = only(STUDY, [], ["spectral"], [])
    again = running.run_study(one_method, tmp_path / "again")
    first = [cell for cell in results["cells"] if cell["method"] == "spectral"]
    assert timeless(again["cells"]) == timeless(first)
    other = running.run_study(msgspec.structs.replace(one_method, seed=99, draws=1), tmp_path / "other")
    assert timeless(other["cells"][0]["measured"]) != timeless(first[0]["measured"])


def test_an_interrupted_study_goes_on_where_it_was(tmp_path, monkeypatch):
    """After Ctrl-C the cells that were done are read, not measured, and the results are the same."""
    study, done = only(STUDY, [], ["ease"], []), []

    def interrupt(title, finished):
        done.append(title)
        if finished and len(done) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        running.run_study(study, tmp_path, interrupt)
    measured = []
    measure = running._measured
    monkeypatch.setattr(running, "_measured", lambda *a: measured.append(a[0].title) or measure(*a))
    whole = running.run_study(study, tmp_path)
    assert len(measured) == 2
    assert len(whole["cells"]) == 4
    assert running.run_study(study, tmp_path)["cells"] == whole["cells"]
    assert len(measured) == 2


def test_a_cell_of_other_settings_or_damaged_is_measured_again(tmp_path, monkeypatch):
    """What is stored is used only for the very same question."""
    study = msgspec.structs.replace(only(STUDY, [], ["ease"], ["random 10%"]), draws=1)
    running.run_study(study, tmp_path)
    (path,) = tmp_path.glob("cells/**/*.json")
    calls = []
    monkeypatch.setattr(running, "_measured", lambda *a: calls.append(1) or {})
    changed = MethodEntry(name="ease", settings={"regularization": 60.0})
    running.run_study(msgspec.structs.replace(study, method=[changed]), tmp_path)
    path.write_text("{")
    running.run_study(study, tmp_path)
    assert len(calls) == 2


def test_a_method_that_fails_loses_nothing_beside_it(tmp_path):
    """Its cells say why; the others are measured; a second run tries again."""
    method = [MethodEntry(name="broken", method=f"{unlearners.__file__}:Fails"), STUDY.method[0]]
    study = msgspec.structs.replace(STUDY, draws=1, method=method, regime=STUDY.regime[:1])
    failed, measured = running.run_study(study, tmp_path)["cells"]
    assert failed["error"] == "RuntimeError: the disk of the model server is full"
    assert measured["measured"]["faults"] == []
    assert len(list(tmp_path.glob("cells/**/*.json"))) == 1


def test_every_number_has_its_origin(results, tmp_path):
    """The CSV gives each number with seed, data digest, machine and versions; the JSON reads back."""
    json_path, long_path, summary_path = write_results(results, tmp_path)
    rows = list(csv.DictReader(long_path.read_text().splitlines()))
    assert len(rows) > 500
    assert all(row["data_digest"] and row["seed"] and row["machine"] and row["versions"] for row in rows)
    assert json.loads(json_path.read_text())["cells"] == json.loads(json.dumps(results["cells"]))
    summary = {
        (r["method"], r["regime"], r["metric"]): r
        for r in csv.DictReader(summary_path.read_text().splitlines())
    }
    figure = summary["als row", "random 10%", "completeness.method.influence_left"]
    assert (float(figure["mean"]), figure["draws"]) == (1.0, "2")
    assert all(f.low is None or f.low <= f.mean <= f.high for f in summarise(results))


def test_a_study_is_read_from_toml_with_a_method_of_ones_own(own_method, monkeypatch):
    """Paths are relative to the file; a class in a file is a method; the command tells and writes."""
    output = own_method / "out"
    command = ["evaluate", "--config", str(own_method / "study.toml"), "--output", str(output)]
    result = CliRunner().invoke(app, [*command, "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["failed"] == 0
    names = {path.name for path in output.iterdir()}
    assert names == {"cells", "results.json", "results.csv", "summary.csv", "report.html", "tables.md"}
    table = (output / "tables.md").read_text()
    assert "| counts | 0.000 | 0.500 |" in table
    shown = CliRunner().invoke(app, command)
    assert "counts" in shown.stdout


def test_tables_are_put_into_their_place_in_the_page(tmp_path):
    """Made twice they are the same; nothing around them moves; a failure and an attack are shown."""
    fails = MethodEntry(name="fails", method=f"{unlearners.__file__}:Fails")
    study = msgspec.structs.replace(
        STUDY, draws=1, attacks=["differencing"], method=[STUDY.method[0], fails], regime=STUDY.regime[:1]
    )
    results = running.run_study(study, tmp_path)
    frame = f"# Page\n\n{writing.BEGIN.format(study.name)}old\n{writing.END}\nLimits.\n"
    page = writing.with_tables(frame, results)
    assert writing.with_tables(page, results) == page
    assert page.startswith("# Page\n")
    assert page.endswith(f"{writing.END}\nLimits.\n")
    assert "old" not in page
    assert "| ease | differencing | 0." in page
    assert "fails, random 10%, draw 1: RuntimeError: the disk" in page
    with pytest.raises(ValueError, match="no place for this study"):
        writing.with_tables("# Page", results)


@pytest.mark.parametrize("config", sorted(STUDIES.glob("*.toml")), ids=lambda path: path.stem)
def test_each_study_of_the_docs_has_its_place_in_the_page(config):
    """A study that is committed can be read, and the page has a place for its tables."""
    study = read_study(config)
    assert writing.BEGIN.format(study.name) in writing.PAGE.read_text()
    for entry in study.method:
        running.make_method(entry.made_by, entry.settings)


def test_without_a_config_the_options_make_the_study(own_method):
    """A file, a method and a regime are enough."""
    options = ["--data", str(own_method / "taste.csv"), "--method", "item_knn", "--regime", "random:10%"]
    result = CliRunner().invoke(
        app, ["evaluate", *options, "--draws", "1", "--output", str(own_method / "out"), "--json"]
    )
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["cells"] == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--data", "x.csv"], "names no method"),
        (["--data", "x.csv", "--method", "ease", "--regime", "most:3"], "random:1%"),
        (["--data", "x.csv", "--method", "ease", "--regime", "core:90%"], "at most 0.5"),
        (["--config", "nowhere.toml"], "nowhere.toml"),
    ],
)
def test_wrong_use_is_told(options, says):
    """Exit code 2, and what to write instead."""
    result = CliRunner().invoke(app, ["evaluate", *options])
    assert result.exit_code == 2
    assert says in result.output


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nmae = 'x'", "nmae"),
        ("draws = 0", "draws"),
        ("attacks = ['guessing']", "choose of"),
        ("[[data]]\nname = 'x'", "one of dataset, file, adjacency, generate"),
        ("[[regime]]\nname = '../x'\nusers = 1", "use letters"),
        ("[[regime]]\nname = 'x'\nusers = 1\n[[regime]]\nname = 'x'\nusers = 2", "same name"),
        ("[[regime]]\nname = 'x'\nusers = 1\nshare = 0.1", "either users or share"),
    ],
)
def test_a_study_that_is_wrong_is_refused(tmp_path, text, says):
    """The message names the entry."""
    path = tmp_path / "study.toml"
    path.write_text(text)
    with pytest.raises(StudyError, match=says):
        read_study(path)


def test_the_page_stands_in_a_browser(results, browse):
    """Every plot is drawn inside its frame, nothing is fetched, nothing scrolls aside."""
    page = render_study(results)
    found = browse(page, "--window-size=1100,900")
    assert found["drawn"] == 5
    assert found["loaded"] == []
    assert found["overlong"] == []
    assert not found["wide"]
    assert "row only" in page
    assert results["data"]["small"]["digest"] in page
