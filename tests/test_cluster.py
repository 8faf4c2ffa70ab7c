"""Sums over partitions: serial, in processes and on a real Spark, the same bits as one machine's fit."""

import importlib.util
import os
import shutil
import sys

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recunlearn.engine.cluster import packing, spark
from recunlearn.engine.cluster.map_reduce import Pool, map_reduce, serial
from recunlearn.engine.cluster.packing import pack, unpack
from recunlearn.engine.cluster.partitions import (
    Partitions,
    items_of,
    partition_by_user,
    remove_users,
    rows_of,
    sum_partitions,
    sums_of_users,
)
from recunlearn.engine.cluster.rounds import solve_partitions
from recunlearn.engine.fitting import fit
from recunlearn.engine.interactions import to_user_items
from recunlearn.eval.generate import social_interactions
from recunlearn.models import EASE, ItemKNN, SpectralMF
from recunlearn.models.merging import merged
from recunlearn.models.rounds import RowProducts
from recunlearn.models.summed import model_at_home, published_from_sums, statistic_of
from recunlearn.models.sums import Sums, sums_of

from .real import need
from .same_versions import check_same, leave
from .test_cli import invoke

COUNTS = (1, 4, 16)
SETTINGS = {"ease": {"regularization": 30.0}, "item_knn": {"K": 15}, "spectral_mf": {"factors": 12}}


@pytest.fixture(scope="module")
def frame():
    """Return interactions of 400 people, ids from a platform, in no order."""
    x = social_interactions(400, 90, 6000, seed=3).tocoo()
    table = {"who": x.row * 7 + 1000, "what": [f"item-{i:03d}" for i in x.col], "n": np.ones(x.nnz)}
    return (
        pl.DataFrame(table)
        .with_columns(pl.col("who").cast(pl.Int64))
        .sample(fraction=1, shuffle=True, seed=1)
    )


@pytest.fixture(scope="module")
def dealt(frame, tmp_path_factory):
    """Deal the same rows out to 1, 4 and 16 partitions."""
    folder = tmp_path_factory.mktemp("partitions")
    frame.write_parquet(folder / "all.parquet")
    names = {"user": "who", "item": "what", "value": "n"}
    return {n: partition_by_user(folder / "all.parquet", folder / str(n), n, **names) for n in COUNTS}


@pytest.fixture(scope="module")
def whole(frame):
    """Return the matrix of all rows, its users and its items."""
    return to_user_items(frame.rename({"who": "user_id", "what": "item_id", "n": "value"}))


@pytest.fixture(scope="module")
def cluster():
    """Start Spark with two workers on this machine."""
    missing = [name for name in ("pyspark", "pyarrow", "pandas") if importlib.util.find_spec(name) is None]
    missing += [] if shutil.which("java") else ["java"]
    need(f"Spark needs {', '.join(missing)}" if missing else None)
    os.environ |= {"PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1"}
    from pyspark.sql import SparkSession

    options = {
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.driver.memory": "1g",
        "spark.sql.adaptive.enabled": "false",
    }
    builder = SparkSession.builder.master("local[2]").appName("recunlearn tests").config(map=options)
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("OFF")
    yield session
    session.stop()


def leavers(users):
    """Choose a hundred people."""
    return pl.Series("user_id", np.random.default_rng(5).permutation(users.to_numpy())[:100])


# -- the seam ----------------------------------------------------------------------------------------


@given(st.lists(st.text(max_size=3), min_size=1, max_size=40))
def test_everything_is_merged_once_and_in_order(results):
    """Whatever the number of results, each is in the total once; a serial run keeps their order."""
    assert merged(results, str.__add__) == "".join(results)


def test_nothing_to_run_over_is_refused():
    """No partition, no process, no task: each is named."""
    with pytest.raises(ValueError, match="no partition"):
        map_reduce([], len, int.__add__)
    with pytest.raises(ValueError, match="processes is 0"):
        Pool(0)
    with pytest.raises(ValueError, match="tasks is 0"):
        spark.Spark(None, 0)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 5), st.integers(0, 2**16), st.booleans())
def test_results_are_packed_to_the_bit(pieces, seed, normalised):
    """Sums and columns come out of their bytes as they went in, however many pieces they travel in."""
    x = social_interactions(20, 8, 60, seed=seed)
    name = "spectral_mf" if normalised else "ease"
    sums = sums_of(x.tocsr(), statistic_of(name, {}, 8))
    assert unpack(pack(sums)).same_as(sums)
    if normalised:
        margins = RowProducts(x, sums.statistic).margins
        found = unpack(pack(margins))
        assert (found.statistic, found.users, found.longest) == (sums.statistic, 20, margins.longest)
        assert np.array_equal(found.counts, margins.counts)
        assert np.array_equal(found.degrees, margins.degrees)
    block = np.random.default_rng(seed).standard_normal((8, 3)).astype(np.float32)
    assert unpack(pack(block)).tobytes() == block.tobytes()
    content = pack(sums)
    size = -(-len(content) // pieces)
    rows = [
        {"result": k, "piece": piece, "content": content[start : start + size]}
        for k in (3, 1)
        for piece, start in enumerate(range(0, len(content), size))
    ]
    found = list(spark._results(rows[::-1]))
    assert len(found) == 2
    assert all(each.same_as(sums) for each in found)


# -- partitions --------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", COUNTS)
def test_each_user_is_in_one_partition(frame, dealt, count):
    """All rows are there once, each user's in one partition, the one that their id names."""
    parts = {home: pl.read_parquet(path / "*.parquet") for home, path in dealt[count].files.items()}
    together = pl.concat(parts.values()).sort(pl.all())
    assert together.equals(frame.select(user_id="who", item_id="what", value="n").sort(pl.all()))
    for home, part in parts.items():
        assert dealt[count].of_users(part["user_id"]) == [dealt[count].files[home]]


def test_dealing_out_in_several_goes_gives_the_same_sums(frame, tmp_path, monkeypatch):
    """Rows dealt out a thousand at a time are the same rows, in several files a partition."""
    monkeypatch.setattr("recunlearn.engine.cluster.partitions.ROWS_AT_A_TIME", 1000)
    frame.write_parquet(tmp_path / "all.parquet")
    found = partition_by_user(
        tmp_path / "all.parquet", tmp_path / "p", 3, user="who", item="what", value=None
    )
    assert len(list((tmp_path / "p").rglob("*.parquet"))) > 3
    items = items_of(found)
    gram = statistic_of("ease", {}, len(items))
    x = to_user_items(frame.rename({"who": "user_id", "what": "item_id", "n": "value"}))[0]
    assert sum_partitions(found, items, gram).same_as(sums_of(x, gram))


def test_an_item_that_nobody_collected_is_named():
    """Rows over other columns than the sums' are refused."""
    frame = pl.DataFrame({"user_id": [1], "item_id": ["new"], "value": [1.0]})
    with pytest.raises(ValueError, match="item new is not among the 1 columns"):
        rows_of(frame, pl.Series(["old"]))


def test_a_state_directory_is_partitioned_already(tmp_path, frame, whole):
    """The store of a state gives the sums of what it keeps."""
    interactions = frame.rename({"who": "user_id", "what": "item_id", "n": "value"})
    fit(tmp_path / "s", interactions, {"ease": SETTINGS["ease"]})
    x, _, items = whole
    found = Partitions.of_state(tmp_path / "s")
    gram = statistic_of("ease", {}, len(items))
    assert items_of(found).equals(items.rename("item_id"))
    assert sum_partitions(found, items, gram).same_as(sums_of(x, gram))


def test_a_task_reads_some_partitions_at_once(dealt, whole):
    """Sixteen partitions by threes are six tasks, and the same sums, items and products."""
    x, _, items = whole
    threes = Partitions(dealt[16].files, 16, together=3)
    assert [len(task) for task in threes.tasks] == [3, 3, 3, 3, 3, len(threes.files) - 15]
    gram = statistic_of("ease", {}, len(items))
    assert items_of(threes).equals(items.rename("item_id"))
    assert sum_partitions(threes, items, gram).same_as(sums_of(x, gram))
    check_served(solve_partitions(threes, items, {"factors": 8}), x, {"factors": 8})


# -- the same bits, however run ----------------------------------------------------------------------


def forgotten(partitions, items, users, statistic, run):
    """Sum everything, subtract those who leave; the partitions of others are not there meanwhile."""
    total = sum_partitions(partitions, items, statistic, run)
    touched = set(partitions.of_users(users))
    away = [path.rename(path.with_suffix(".away")) for path in partitions.paths if path not in touched]
    try:
        gone = sums_of_users(partitions, users, items, statistic, run)
    finally:
        for path in away:
            path.rename(path.with_suffix(""))
    return total, total.subtract(gone)


def check_same_bits(dealt, whole, run, names):
    """Before and after a hundred deletions, sums and models are those of one machine with all rows."""
    x, users, items = whole
    leaving = leavers(users)
    stays = ~np.isin(users.to_numpy(), leaving.to_numpy())
    kept = x.multiply(stays[:, None]).tocsr()
    kept.eliminate_zeros()
    for name in names:
        statistic = statistic_of(name, SETTINGS[name], len(items))
        before, after = forgotten(dealt, items, leaving, statistic, run)
        assert before.same_as(sums_of(x, statistic))
        assert after.same_as(sums_of(kept, statistic))
        check_model(name, after, kept)


def check_model(name, sums, kept):
    """Check that sums publish what a fit on the rows does; SpectralMF within its certificate."""
    published = published_from_sums(name, SETTINGS[name], sums)
    if name == "spectral_mf":
        check_served(published, kept, SETTINGS[name])
        return
    fresh = {"ease": EASE, "item_knn": ItemKNN}[name](**SETTINGS[name]).fit(kept)
    if name == "ease":
        assert np.array_equal(published.arrays["inverse"], fresh.inverse)
    else:
        assert (published.arrays["similarity"] != fresh.similarity).nnz == 0


def check_served(published, kept, options):
    """Check what SpectralMF serves at home against a fit on the rows, far tighter: within its bound."""
    lam = published.settings["regularization"]
    fresh = SpectralMF(**options | {"regularization": lam, "tolerance": 1e-9}).fit(kept)
    home = model_at_home(published, kept)
    assert home.certificate.certified
    scale = published.arrays["item_scale"]
    ours, theirs = (
        (m.user_factors.astype(float) @ m.item_factors.astype(float).T) * scale for m in (home, fresh)
    )
    assert np.linalg.norm(ours - theirs) <= 1.01 * home.certificate.bound * np.linalg.norm(ours)


@pytest.mark.parametrize("count", COUNTS)
def test_one_after_the_other_gives_the_bits_of_one_machine(dealt, whole, count):
    """Serial, over 1, 4 and 16 partitions: every model, before and after deletions."""
    check_same_bits(dealt[count], whole, serial, SETTINGS)


def test_processes_give_the_same_bits(dealt, whole):
    """A pool of two processes over 16 partitions; what one of them raises is raised here."""
    x, _, items = whole
    gram = statistic_of("ease", {}, len(items))
    with Pool(2) as pool:
        assert sum_partitions(dealt[16], items, gram, pool).same_as(sums_of(x, gram))
        with pytest.raises(ValueError, match="is not among the 3 columns"):
            sum_partitions(dealt[1], items.head(3), statistic_of("ease", {}, 3), pool)


@pytest.mark.xdist_group("spark")
@pytest.mark.parametrize("count", COUNTS)
def test_spark_gives_the_same_bits(dealt, whole, cluster, count):
    """A real Spark with two workers, over 1, 4 and 16 partitions, before and after deletions."""
    check_same_bits(dealt[count], whole, spark.Spark(cluster), ["ease"])


@pytest.mark.xdist_group("spark")
def test_spark_collects_items_and_sums_fractions(dealt, whole, cluster, monkeypatch):
    """Columns are collected, and SpectralMF's sums travel, in fewer tasks than partitions, three rounds."""
    monkeypatch.setattr(spark, "FAN_IN", 2)
    run = spark.Spark(cluster, tasks=3)
    assert items_of(dealt[16], run).equals(whole[2].rename("item_id"))
    check_same_bits(dealt[16], whole, run, ["spectral_mf"])


@pytest.mark.xdist_group("spark")
def test_what_a_task_raises_is_told(dealt, cluster):
    """An error on a worker ends the run, with its own words."""
    from pyspark.errors import PythonException

    statistic = statistic_of("ease", {}, 2)
    with pytest.raises(PythonException, match="is not among the 2 columns"):
        sum_partitions(dealt[4], pl.Series(["a", "b"]), statistic, spark.Spark(cluster))


# -- rounds of products ------------------------------------------------------------------------------


def check_rounds(frame, folder, run, factors, count=4):
    """Certified against the rows of those who stay, once a hundred people are out of their partitions."""
    frame.write_parquet(folder / "all.parquet")
    found = partition_by_user(folder / "all.parquet", folder / "p", count, user="who", item="what", value="n")
    items, options = items_of(found), {"factors": factors}
    before = frame.rename({"who": "user_id", "what": "item_id", "n": "value"})
    gone = leavers(before["user_id"].unique().sort())
    remove_users(found, gone)
    left = before.filter(~pl.col("user_id").is_in(gone.implode()))
    check_served(solve_partitions(found, items, options, run), rows_of(left, items), options)


@pytest.mark.parametrize("processes", [None, 2])
def test_rounds_over_partitions_are_within_the_certificate(frame, tmp_path, processes):
    """One partition after the other and in two processes, many rounds each."""
    if processes is None:
        return check_rounds(frame, tmp_path, serial, 8)
    with Pool(processes) as pool:
        return check_rounds(frame, tmp_path, pool, 8)


@pytest.mark.xdist_group("spark")
def test_rounds_on_spark_are_within_the_certificate(frame, tmp_path, cluster):
    """A real Spark multiplies a block that it gets with each round; few rounds, for each starts tasks."""
    check_rounds(frame, tmp_path, spark.Spark(cluster), 14, count=2)


# -- a fit over partitions ------------------------------------------------------------------------------


@pytest.mark.xdist_group("spark")
def test_spark_publishes_the_version_of_one_machine(frame, tmp_path, cluster):
    """`fit --run spark` publishes a plain fit's bytes, and `run` forgets from them to the same bytes."""
    one, over, rows = tmp_path / "one", tmp_path / "over", tmp_path / "rows.parquet"
    frame.write_parquet(rows)
    given = ("fit", "--data", rows, "--user-col", "who", "--item-col", "what", "--value-col", "n")
    given += ("--model", "ease", "--set", "ease.regularization=30.0")
    invoke(*given, "--state", one)
    invoke(*given, "--state", over, "--run", "spark", "--master", "local[2]")
    assert cluster.range(3).count() == 3  # a session that runs is used, and left running
    check_same(one, over)
    for state in (one, over):
        leave(state)
    check_same(one, over)


@pytest.mark.xdist_group("spark")
def test_a_task_that_fails_is_one_line(dealt, cluster):
    """What a task raises comes out as its last words, not as Java's and Python's tracebacks."""
    statistic = statistic_of("ease", {}, 2)
    with (
        pytest.raises(spark.SparkError, match=r"^Spark: ValueError: item .* is not among the 2 columns"),
        spark.spark_on("local[2]") as run,
    ):
        sum_partitions(dealt[4], pl.Series(["a", "b"]), statistic, run)


# -- removing ----------------------------------------------------------------------------------------


def test_removing_rewrites_the_partitions_of_those_who_leave_only(frame, tmp_path):
    """Rows of one user go from one file; again changes nothing; who is unknown touches nothing."""
    frame.write_parquet(tmp_path / "all.parquet")
    found = partition_by_user(tmp_path / "all.parquet", tmp_path / "p", 8, user="who", item="what", value="n")
    before = {path: path.read_bytes() for path in (tmp_path / "p").rglob("*.parquet")}
    user = pl.Series("user_id", [frame["who"][0]])
    written = remove_users(found, user)
    assert len(written) == 1
    assert not pl.read_parquet(written[0])["user_id"].is_in(user.implode()).any()
    assert all(path.read_bytes() == content for path, content in before.items() if path not in written)
    assert remove_users(found, user) == remove_users(found, pl.Series("user_id", [-5])) == []
    items = items_of(found)
    gram = statistic_of("ease", {}, len(items))
    assert sums_of_users(found, user, items, gram).same_as(Sums.nothing(gram))
    assert packing.unpack(pack(items)).equals(items)
