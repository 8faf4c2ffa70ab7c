"""The same bits wherever the rows are: pooled, 3 and 50 silos, Spark over 1, 4 and 16 partitions.

Before and after a hundred deletions, and then against fresh fits on pooled rows without those who left.
docs/explanation/scale.md has the figures:

    python benchmarks/bench_same_bits.py --generate 200000 5000 10000000

What silos send goes through the bytes of a message. CPU is that of this process; Spark's is in its JVM and
workers, and is not counted.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import scipy.sparse as sp
from bench_cluster import run_of
from recunlearn.engine.cluster.map_reduce import serial
from recunlearn.engine.cluster.partitions import Partitions, partition_by_user, sum_partitions, sums_of_users
from recunlearn.models import EASE, ItemKNN, SpectralMF
from recunlearn.models.rounds import Margins, RowProducts, published_by_rounds
from recunlearn.models.score_distance import score_distance
from recunlearn.models.summed import Published, model_at_home, published_from_sums, statistic_of
from recunlearn.models.sums import Statistic, Sums, merge, sums_of
from recunlearn.streaming.federated.sums_file import read_arrow, write_arrow
from turns import add_data, data_of, write

DELETED = 100
MODELS = ("ease", "spectral_mf")
"""Whose sums are compared: EASE's are ItemKNN's too."""
FACTORS = 64
Both = tuple[Sums, Sums]
"""Sums before and after the deletions."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_data(parser)
    parser.add_argument("--silos", type=int, nargs="*", default=[3, 50])
    parser.add_argument("--partitions", type=int, nargs="*", default=[1, 4, 16])
    parser.add_argument(
        "--model", action="append", choices=MODELS, help="whose sums; repeats; all by default"
    )
    parser.add_argument("--no-spark", action="store_true", help="partitions one after the other instead")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    data = data_of(arguments)
    data = data[np.flatnonzero(np.diff(data.indptr))]
    gone = np.sort(np.random.default_rng(1).choice(data.shape[0], DELETED, replace=False))
    left = data[np.setdiff1d(np.arange(data.shape[0]), gone)]
    print(f"{data.shape[0]:,} x {data.shape[1]:,}, {data.nnz:,} interactions; {DELETED} leave", flush=True)
    run = serial if arguments.no_spark else run_of("Spark local[2]")
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        dealt = {count: deal(data, Path(folder), count) for count in arguments.partitions}
        for name in arguments.model or MODELS:
            statistic = statistic_of(name, {}, data.shape[1])
            pooled = taken("pooled", lambda s=statistic: (sums_of(data, s), sums_of(left, s)))
            ways: dict[str, Callable[[], Both]] = {
                f"{count} silos": lambda s=statistic, c=count: over_silos(data, gone, c, s)
                for count in arguments.silos
            }
            where = "one after the other" if arguments.no_spark else "Spark"
            ways |= {
                f"{where}, {count} partitions": lambda s=statistic, d=each: over_partitions(d, gone, s, run)
                for count, each in dealt.items()
            }
            found[name] = {way: compared(way, call, pooled) for way, call in ways.items()}
            found[name]["models"] = models(name, pooled[1], left)
    if "spectral_mf" in (arguments.model or MODELS):
        found["rounds"] = by_rounds(data, left, gone, arguments.silos)
    write(arguments.json, data=str(arguments.data or arguments.generate), **found)


def taken(way: str, call: Callable[[], Both]) -> Both:
    """Sum up, and say what it took."""
    wall, cpu = time.perf_counter(), time.process_time()
    both = call()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{both[0].statistic.kind}: {way}: {wall:.1f} s, {cpu:.1f} s of CPU here; "
          f"{both[0].keys.size:,} pairs, {both[0].nbytes / 2**20:.0f} MiB", flush=True)  # fmt: skip
    return both


def compared(way: str, call: Callable[[], Both], pooled: Both) -> dict[str, bool]:
    """Tell whether sums before and after have the bits of the pooled ones."""
    before, after = taken(way, call)
    same = {"before": before.same_as(pooled[0]), "after": after.same_as(pooled[1])}
    print(f"{way}: {same}", flush=True)
    assert all(same.values())
    return same


def over_silos(data: sp.csr_matrix, gone: np.ndarray, count: int, statistic: Statistic) -> Both:
    """Sum up in each silo, send it, add; then send and subtract those who leave."""
    home = np.random.default_rng(count).integers(count, size=data.shape[0])
    total = merge((sent(data[home == k], statistic) for k in range(count)), statistic)
    leaving = merge((sent(data[gone[home[gone] == k]], statistic) for k in range(count)), statistic)
    return total, total.subtract(leaving)


def sent(rows: sp.csr_matrix, statistic: Statistic) -> Sums:
    """Sum up rows and read the sums back from the bytes of a message."""
    sums = sums_of(rows, statistic)
    return read_arrow(write_arrow(sums), statistic, sums.users)


def deal(data: sp.csr_matrix, folder: Path, count: int) -> Partitions:
    """Deal the rows out to Parquet partitions."""
    whole = folder / "all.parquet"
    if not whole.exists():
        users = np.repeat(np.arange(data.shape[0], dtype=np.int64), np.diff(data.indptr))
        frame = {"user_id": users, "item_id": data.indices.astype(np.int64), "value": data.data}
        pl.DataFrame(frame).write_parquet(whole)
    return partition_by_user(whole, folder / str(count), count)


def over_partitions(partitions: Partitions, gone: np.ndarray, statistic: Statistic, run: Any) -> Both:
    """Sum up partitions, then only those of the users who leave."""
    items = pl.Series("item_id", np.arange(statistic.n_items, dtype=np.int64))
    total = sum_partitions(partitions, items, statistic, run)
    return total, total.subtract(sums_of_users(partitions, pl.Series("user_id", gone), items, statistic, run))


def models(name: str, after: Sums, left: sp.csr_matrix) -> dict[str, Any]:
    """Compare what is published after the deletions with fresh fits on who is left."""
    if name == "spectral_mf":
        return distance(published_from_sums(name, {"factors": FACTORS}, after), left, "from sums")
    inverse = published_from_sums("ease", {}, after).arrays["inverse"]
    similarity = published_from_sums("item_knn", {}, after).arrays["similarity"]
    fresh = ItemKNN().fit(left).similarity
    same = {
        "ease": bool(np.array_equal(inverse, EASE().fit(left).inverse)),
        "item_knn": all(
            np.array_equal(getattr(similarity, part), getattr(fresh, part))
            for part in ("indptr", "indices", "data")
        ),
    }
    print(f"published after the deletions, the bits of a fresh pooled fit: {same}", flush=True)
    assert all(same.values())
    return same


def by_rounds(data: sp.csr_matrix, left: sp.csr_matrix, gone: np.ndarray, silos: list[int]) -> dict[str, Any]:
    """Solve SpectralMF by rounds of products over silos, before and after; rounds and bytes of a silo."""
    found: dict[str, Any] = {}
    for count in silos:
        home = np.random.default_rng(count).integers(count, size=data.shape[0])
        stays = np.setdiff1d(np.arange(data.shape[0]), gone)
        settings: dict[str, Any] = {"factors": FACTORS}
        for when, rows, where in (("before", data, home), ("after", left, home[stays])):
            published, figures = rounds(rows, where, count, settings)
            settings["regularization"] = published.settings["regularization"]
            found[f"{count} silos, {when}"] = figures | distance(published, rows, f"{count} silos, rounds")
    return found


def rounds(
    rows: sp.csr_matrix, home: np.ndarray, count: int, settings: dict[str, Any]
) -> tuple[Published, dict[str, Any]]:
    """Solve once; each product is added in the order of the silos."""
    statistic = statistic_of("spectral_mf", settings, rows.shape[1])
    sides = [RowProducts(rows[home == k], statistic) for k in range(count)]
    margins = sides[0].margins
    for side in sides[1:]:
        margins = Margins.add(margins, side.margins)
    asked, cpu = [], time.process_time()

    def products(block: np.ndarray) -> np.ndarray:
        asked.append(block.nbytes)
        total = sides[0].times(block)
        for side in sides[1:]:
            total += side.times(block)
        return total

    published = published_by_rounds(settings, margins, products)
    figures = {
        "rounds": len(asked),
        "bytes_to_and_from_a_silo": 2 * sum(asked),
        "cpu_seconds": time.process_time() - cpu,
    }
    print(f"rounds over {count} silos: {figures}", flush=True)
    return published, figures


def distance(published: Published, rows: sp.csr_matrix, what: str) -> dict[str, float]:
    """Measure how far served scores are from a far tighter pooled fit, in ``S~``, beside the bound."""
    settings = {**published.settings, "tolerance": 1e-8, "dtype": "float64"}
    truth = SpectralMF(**settings).fit(rows)  # type: ignore[arg-type]
    home = model_at_home(published, rows)
    scale = np.asarray(published.arrays["item_scale"])[:, None]
    apart = score_distance_of(home, truth, scale)
    found = {"bound": home.certificate.bound, "truth": apart}
    print(f"spectral_mf {what}: certified {home.certificate.certified}, bound {found['bound']:.2e}, "
          f"{apart:.2e} from a pooled fit to {truth.certificate.bound:.0e}", flush=True)  # fmt: skip
    assert apart <= found["bound"] + truth.certificate.bound
    return found


def score_distance_of(home: Any, truth: Any, scale: np.ndarray) -> float:
    """Return the distance of scores, relative to the truth's norm."""
    ours, theirs = (
        (np.asarray(m.user_factors, float), np.asarray(m.item_factors, float) * scale) for m in (home, truth)
    )
    nothing = np.zeros((theirs[0].shape[0], 1)), np.zeros((theirs[1].shape[0], 1))
    return score_distance(*ours, *theirs) / score_distance(*theirs, *nothing)


if __name__ == "__main__":
    main()
