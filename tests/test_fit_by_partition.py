"""A fit over partitions publishes the version that a fit in one piece does, and is forgotten from like it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from recunlearn.engine import interactions as store
from recunlearn.engine.cluster import partitions
from recunlearn.engine.cluster.fitting import OverPartitions
from recunlearn.engine.cluster.kept import keep, mapped_matrix
from recunlearn.engine.cluster.map_reduce import Pool
from recunlearn.engine.cluster.rows import ParquetRows
from recunlearn.engine.engine import Engine
from recunlearn.engine.fitting import fit
from recunlearn.engine.formats import Columns, InteractionFileError
from recunlearn.engine.interactions import to_user_items
from recunlearn.engine.snapshot import load_snapshot
from recunlearn.engine.state import StatePaths
from recunlearn.engine.tables import read_interactions
from recunlearn.engine.verification import verify_state
from recunlearn.engine.version import VersionError, read_current
from recunlearn.eval.generate import social_interactions

from .cut_off import is_cut_off
from .popularity import files_with
from .same_versions import check_same, check_within_bounds, leave, published
from .test_cli import invoke

EXACT = {"ease": {"regularization": 30.0}, "item_knn": {"K": 15}}
MODELS = {"spectral_mf": {"factors": 12}, **EXACT}
NAMES = {"user_col": "who", "item_col": "what", "value_col": "n", "time_col": "at"}


@pytest.fixture(autouse=True)
def _small_partitions(monkeypatch):
    """Let both ways of fitting choose several partitions for a few thousand rows."""
    monkeypatch.setattr(store, "_ROWS_PER_PARTITION", 1000)


@pytest.fixture(scope="module")
def likes(tmp_path_factory):
    """Write interactions of 300 people, ids as text, in no order, repeated, with times and rows of no use."""
    x = social_interactions(300, 60, 4000, seed=3).tocoo()
    people = [f"person-{u:03d}" for u in x.row]
    good = pl.DataFrame({"who": people, "what": [f"thing-{i}" for i in x.col], "n": [1.0] * x.nnz})
    bad = pl.DataFrame({"who": ["one", None, "one"], "what": ["x", "x", "x"], "n": [-1.0, 1.0, float("nan")]})
    rows = pl.concat([good, bad, good.head(40)]).sample(fraction=1, shuffle=True, seed=1)
    path = tmp_path_factory.mktemp("likes") / "likes.parquet"
    rows.with_columns(at=1.7e9 + pl.int_range(pl.len())).write_parquet(path)
    return path


def in_one_piece(state, likes, models):
    """Fit as without partitions."""
    return fit(state, read_interactions(likes, **NAMES).frame, models)


def by_partition(state, likes, models, **over):
    """Fit over partitions."""
    return fit(state, ParquetRows.of(likes, Columns(*NAMES.values())), models, over=OverPartitions(**over))


def test_the_version_is_that_of_a_fit_in_one_piece_before_and_after_deletions(tmp_path, likes, monkeypatch):
    """Two processes, rows read in several goes: the same bytes; SpectralMF within its bound."""
    monkeypatch.setattr(partitions, "ROWS_AT_A_TIME", 1500)
    one, over = tmp_path / "one [1]", tmp_path / "over [2]"  # no patterns, but names
    plain = in_one_piece(one, likes, MODELS)
    with Pool(2) as pool:
        found = by_partition(over, likes, MODELS, run=pool)
    assert (found.users, found.items, found.interactions) == (plain.users, plain.items, plain.interactions)
    assert found.rejected == read_interactions(likes, **NAMES).rejected
    assert len(load_snapshot(over).manifest.interactions) > 2
    check_same(one, over, but="spectral_mf")
    check_within_bounds(one, over)
    for state in (one, over):
        leave(state)
        assert verify_state(state).problems == []
    check_same(one, over, but="spectral_mf")
    check_within_bounds(one, over)


@pytest.mark.parametrize("count", [1, 2, 20])
def test_the_number_of_partitions_changes_no_model(tmp_path, likes, count):
    """However the rows are dealt out, models have the same bytes, SpectralMF too: sums have no order."""
    by_partition(tmp_path / "four", likes, MODELS)
    by_partition(tmp_path / "other", likes, MODELS, count=count)
    four, other = (
        {k: v for k, v in published(tmp_path / s)[0].items() if "inter" not in k} for s in ("four", "other")
    )
    assert four == other
    assert load_snapshot(tmp_path / "other").manifest.partitions == count


def test_rounds_of_products_are_certified_and_forgotten_from(tmp_path, likes):
    """SpectralMF without a matrix of items over items: within both bounds, before and after deletions."""
    one, over = tmp_path / "one", tmp_path / "over"
    models = {"spectral_mf": {"factors": 6, "regularization": 3.0}}
    in_one_piece(one, likes, models)
    by_partition(over, likes, models, by_rounds=True)
    check_within_bounds(one, over)
    for state in (one, over):
        leave(state)
    check_within_bounds(one, over)


@pytest.mark.parametrize("count", [None, 3])
def test_a_refit_over_partitions_is_a_refit(tmp_path, likes, count):
    """From what the state keeps, in its partitions or in others: the same bytes, and nobody erased."""
    one, over = tmp_path / "one", tmp_path / "over"
    in_one_piece(one, likes, EXACT)
    leave(one)
    shutil.copytree(one, over)
    fit(one, None)
    report = fit(over, None, over=OverPartitions(count=count))
    assert (report.version, report.users, report.refused_interactions) == (3, 270, 0)
    if count is None:
        check_same(one, over)
    assert {k: v for k, v in published(one)[0].items() if "/ease/" in k or "/item_knn/" in k} == {
        k: v for k, v in published(over)[0].items() if "/ease/" in k or "/item_knn/" in k
    }
    assert files_with(over, "person-008") == []


def test_the_fence_holds_for_parquet_that_comes_back(tmp_path, likes):
    """The original file, over partitions again, brings back nobody, and counts who was kept out."""
    one, over = tmp_path / "one", tmp_path / "over"
    in_one_piece(one, likes, EXACT)
    leave(one)
    shutil.copytree(one, over)
    plain, found = in_one_piece(one, likes, EXACT), by_partition(over, likes, EXACT)
    assert found.refused_users == plain.refused_users == 30
    assert found.refused_interactions == plain.refused_interactions
    check_same(one, over)


def test_values_with_fractions_are_for_item_knn(tmp_path, likes):
    """ItemKNN sums fractions to the same bytes; EASE is refused by its name, and nothing is published."""
    rows = pl.read_parquet(likes).with_columns(n=pl.col("n") * 0.25 + pl.col("at") % 3)
    rows.write_parquet(tmp_path / "halves.parquet")
    one, over = tmp_path / "one", tmp_path / "over"
    models = {"item_knn": {"K": 9}}
    in_one_piece(one, tmp_path / "halves.parquet", models)
    by_partition(over, tmp_path / "halves.parquet", models)
    check_same(one, over)
    with pytest.raises(ValueError, match="ease sums whole numbers"):
        by_partition(tmp_path / "ease", tmp_path / "halves.parquet", {"ease": {}})
    with pytest.raises(VersionError, match="no published version"):
        read_current(StatePaths(tmp_path / "ease"))


def test_ids_are_integers_only_if_all_of_them_are(tmp_path, monkeypatch):
    """Text ids that are numbers in one go and not in another stay text; all numbers become integers."""
    monkeypatch.setattr(partitions, "ROWS_AT_A_TIME", 2)
    folder = tmp_path / "rows [1]"
    folder.mkdir()
    with pytest.raises(InteractionFileError, match="a folder without"):
        ParquetRows.of(folder, Columns("u", "i"))
    for k, people in enumerate((["7", "8"], ["042", "9"])):
        pl.DataFrame({"u": people, "i": ["1", "2"]}).write_parquet(folder / f"{k}.parquet")
    rows = ParquetRows.of(folder, Columns("u", "i"))
    frames = dict(rows.deal(2, tmp_path / "dealt").frames)
    found = pl.concat(frames.values()).sort("user_id")
    assert found.rows() == [("042", 1, 1.0), ("7", 1, 1.0), ("8", 2, 1.0), ("9", 2, 1.0)]
    assert not list((tmp_path / "dealt").rglob("*.parquet"))


def test_the_matrix_is_that_of_one_machine_and_lies_on_disk(tmp_path, likes):
    """Rows of all partitions in one order; the arrays are maps of files that have no name."""
    paths = StatePaths(tmp_path / "s")
    dealt = ParquetRows.of(f"file://{likes}", Columns(*NAMES.values())).deal(5, tmp_path / "dealt")
    kept = keep(paths, 1, dealt, lambda frame: (frame, 0))
    before = set(paths.interactions.iterdir())
    found, users = mapped_matrix(kept, paths.interactions)
    assert set(paths.interactions.iterdir()) == before
    wanted, wanted_users, items = to_user_items(read_interactions(likes, **NAMES).frame)
    assert users.equals(wanted_users)
    assert kept.items.equals(items)
    for name in ("indptr", "indices", "data"):
        assert np.array_equal(getattr(found, name), getattr(wanted, name))
    assert all(isinstance(array.base, np.memmap) for array in (found.indices, found.data))


# -- cut off -----------------------------------------------------------------------------------------


def test_a_cut_off_leaves_nothing_or_a_whole_version(tmp_path, monkeypatch):
    """Cut off at durable steps: no half a version is served, and the same fit again ends in the same bytes.

    All steps with RECUNLEARN_ALL_STEPS=1, else every fifth.
    """
    x, few = social_interactions(20, 8, 60, seed=1).tocoo(), tmp_path / "few.parquet"
    pl.DataFrame({"who": x.row, "what": x.col, "n": x.data, "at": x.row}).write_parquet(few)
    models = {"item_knn": {}}
    by_partition(tmp_path / "whole", few, models, count=2)
    wanted, step = model_files(tmp_path / "whole"), 0
    while is_cut_off(lambda: by_partition(tmp_path / "s", few, models, count=2), step, monkeypatch):
        if (tmp_path / "s" / "CURRENT").exists():
            assert model_files(tmp_path / "s") == wanted
        by_partition(tmp_path / "s", few, models, count=2)
        assert model_files(tmp_path / "s") == wanted
        assert not list((tmp_path / "s" / "interactions").glob("dealt-*"))
        shutil.rmtree(tmp_path / "s")
        step += 1 if os.environ.get("RECUNLEARN_ALL_STEPS") else 5
    assert step > 50


def model_files(state):
    """Read the bytes of the models that are served, by name, whatever the version's number."""
    files = published(state)[0]
    return {Path(name).parts[2:]: files[name] for name in files if name.startswith("versions/")}


def test_a_refit_that_was_cut_off_leaves_nobody_behind(tmp_path, likes, monkeypatch):
    """What was dealt out and not fitted goes with the next start of `run`, before anybody is told erased."""
    state = tmp_path / "state"
    by_partition(state, likes, EXACT, count=2)
    dealt = 0
    for step in range(3, 40, 6):
        assert is_cut_off(lambda: by_partition(state, likes, EXACT, count=3), step, monkeypatch)
        dealt += any((state / "interactions").glob("dealt-*"))
        with Engine.open(state) as engine:
            assert not any((state / "interactions").glob("dealt-*"))
            assert engine.manifest.version == 1
    assert dealt
    leave(state)
    assert files_with(state, "person-008") == []


def test_a_killed_fit_leaves_no_process_behind(tmp_path, likes):
    """SIGKILL while a pool sums: its processes end too, and the state is nothing or a whole version."""
    state = tmp_path / "state"
    command = ["fit", "--data", likes, "--state", state, "--user-col", "who", "--item-col", "what"]
    command += ["--model", "ease", "--run", "pool", "--processes", "2", "--partitions", "6"]
    family = killed_in_the_middle([sys.executable, "-m", "recunlearn.cli", *map(str, command)], state)
    wait_for(lambda: not any(is_alive(pid) for pid in family))
    try:
        assert load_snapshot(state).manifest.counts.users == 300
    except VersionError as error:
        assert "no published version" in str(error)  # noqa: PT017  one of the two is so
    assert by_partition(state, likes, {"ease": {}}).users == 300


def killed_in_the_middle(command, state):
    """Kill a command once it has started processes of its own; returns those."""
    while True:
        fitting = subprocess.Popen(command)
        wait_for(lambda: len(children_of(fitting.pid)) >= 2 or fitting.poll() is not None)  # noqa: B023
        family = children_of(fitting.pid)
        fitting.send_signal(signal.SIGKILL)
        fitting.wait()
        if family:
            return family
        shutil.rmtree(state)  # it had ended before anybody looked


def children_of(pid):
    """Return the processes that a process started, and theirs."""
    try:
        own = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return own + [grandchild for child in own for grandchild in children_of(child)]


def is_alive(pid):
    """Tell whether a process runs still; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition, seconds=60):
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.02)


# -- the command -------------------------------------------------------------------------------------


def test_the_command_fits_a_folder_over_partitions(tmp_path, likes):
    """--run, --partitions and --rounds reach the fit; rows of no use are counted; status has it all."""
    state, folder = tmp_path / "state", tmp_path / "rows"
    folder.mkdir()
    shutil.copy(likes, folder / "part-0.parquet")
    (folder / ".part-0.parquet.crc").write_bytes(b"crc")
    given = ("fit", "--data", folder, "--state", state, "--user-col", "who", "--item-col", "what")
    given += ("--value-col", "n", "--model", "spectral_mf", "--set", "spectral_mf.factors=6", "--json")
    done = invoke(*given, "--run", "serial", "--partitions", 3, "--rounds")
    said = json.loads(done.stdout)
    assert (said["version"], said["users"], said["rejected"]["total"]) == (1, 300, 3)
    assert "3 rows rejected" in done.stderr
    assert load_snapshot(state).manifest.partitions == 3
    status = json.loads(invoke("status", "--state", state, "--json").stdout)
    assert status["models"]["spectral_mf"]["certified"]


@pytest.mark.parametrize(
    ("options", "rc", "message"),
    [
        (["--processes", "2"], 2, "--processes is for a fit with --run pool"),
        (["--run", "serial", "--master", "local"], 2, "--master is for a fit with --run spark"),
        (["--rounds"], 2, "--rounds is for a fit with --run"),
        (["--run", "spark", "--spark-conf", "memory"], 2, "'memory' is not KEY=VALUE"),
        (["--run", "serial", "--partitions", "0"], 2, "partitions"),
        (["--run", "pool", "--processes", "0"], 2, "processes"),
        (["--run", "carrier-pigeon"], 2, "carrier-pigeon"),
        (["--run", "serial", "--item-col", "nothing"], 1, "has no column 'nothing'"),
        (["--run", "serial", "--value-col", "nothing"], 1, "has no column 'nothing'"),
        (["--run", "serial", "--model", "sharded_mf"], 1, "sharded_mf is not made of sums"),
        (["--run", "serial", "--model", "ease", "--rounds"], 1, "spectral_mf, which is not among"),
        (["--run", "serial", "--model", "spectral_mf", "--set", "spectral_mf.values=log"], 1, "needs rows"),
        (["--run", "serial", "--data", "no-such-folder/*.parquet"], 1, "cannot be read as Parquet"),
        (["--run", "serial", "--data", __file__], 1, "cannot be read as Parquet"),
    ],
)
def test_what_cannot_be_is_said_and_nothing_is_published(tmp_path, likes, options, rc, message):
    """Wrong use and wrong data are named, with the way out."""
    given = ["fit", "--state", tmp_path / "s", "--user-col", "who", "--item-col", "what"]
    done = invoke(*given, *([] if "--data" in options else ["--data", likes]), *options, rc=rc)
    assert message in " ".join(done.output.replace("│", " ").split())
    assert not (tmp_path / "s" / "CURRENT").exists()


def test_without_spark_the_extra_is_named(tmp_path, likes, monkeypatch):
    """PySpark that is not installed is an error with the way out."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "pyspark"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyspark", None)
    given = ("--data", likes, "--state", tmp_path / "s", "--user-col", "who", "--item-col", "what")
    done = invoke("fit", *given, "--run", "spark", rc=1)
    assert "pip install 'recunlearn[spark]'" in done.output


def test_rows_in_memory_are_not_for_partitions(tmp_path):
    """The API says what it takes instead; a count of 0 is refused."""
    frame = pl.DataFrame({"user_id": [1], "item_id": [1], "value": [1.0]})
    with pytest.raises(ValueError, match=r"pass both ParquetRows\.of"):
        fit(tmp_path / "s", frame, EXACT, over=OverPartitions())
    with pytest.raises(ValueError, match=r"and over=OverPartitions"):
        fit(tmp_path / "t", ParquetRows(frame.lazy(), "rows"), EXACT)
    with pytest.raises(ValueError, match="partitions is 0"):
        OverPartitions(count=0)


def test_a_path_without_a_usable_row_says_why(tmp_path):
    """Every row is rejected: the message counts the reasons."""
    pl.DataFrame({"u": [1, 2], "i": [1, 1], "n": [0.0, -1.0]}).write_parquet(tmp_path / "bad.parquet")
    rows = ParquetRows.of(tmp_path / "bad.parquet", Columns("u", "i", "n"))
    with pytest.raises(InteractionFileError, match=r"no usable interaction: 2 rows, 2 rows rejected: .*zero"):
        rows.deal(1, tmp_path / "dealt")
