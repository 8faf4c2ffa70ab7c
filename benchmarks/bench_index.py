"""Where an approximate index of items begins to pay: `serve --index pq` beside scoring every item.

    python benchmarks/bench_index.py --data train.txt
    python benchmarks/bench_index.py --data train.txt --made 100000 1000000 --generate 50000 100000 2500000

Every query is one user's top ten, or the ten items most like one, as serving asks for them, exactly and
through the index in turns. Recall is over users and items drawn anew. ``--made``: catalogues whose items are
mixtures of two of the data's, with noise of .3 of their length: many near each other, which is hard for an
index. ``--generate``: users, items and interactions, social-like, and factors fitted to them.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
import turns
from recunlearn.engine.item_index import ItemIndex, build_item_index
from recunlearn.models import ForgettableALS, SpectralMF
from recunlearn.models.factorization import Factorization
from rich.console import Console
from rich.table import Table

IN_TURN = 20


class Case(NamedTuple):
    """A model to ask, and the rows of its users."""

    name: str
    model: Factorization
    user_items: sp.csr_matrix


def without_empty(x: sp.csr_matrix) -> sp.csr_matrix:
    """Leave out items that nobody has, as a published version does."""
    return x[:, np.flatnonzero(np.bincount(x.indices, minlength=x.shape[1]))]


def fitted(name: str, x: sp.csr_matrix, factors: int) -> Case:
    """Fit factors to interactions."""
    x = without_empty(x)
    return Case(name, SpectralMF(factors).fit(x), x)


def made(case: Case, n_items: int) -> Case:
    """Make a larger catalogue of mixtures of two items each; users have the mixtures nearest to their own."""
    rng = np.random.default_rng(0)
    factors = case.model.item_factors
    parents = rng.integers(0, factors.shape[0], (n_items, 2))
    share = rng.beta(0.5, 0.5, (n_items, 1)).astype(np.float32)
    mixed = share * factors[parents[:, 0]] + (1 - share) * factors[parents[:, 1]]
    length = np.linalg.norm(mixed, axis=1, keepdims=True)
    mixed += rng.standard_normal(mixed.shape, dtype=np.float32) * (0.3 * length / np.sqrt(mixed.shape[1]))
    order = np.argsort(-share[:, 0], kind="stable")
    _, first = np.unique(parents[order, 0], return_index=True)
    child = np.zeros(factors.shape[0], np.int64)
    child[parents[order[first], 0]] = order[first]
    old = case.user_items.tocoo()
    x = sp.csr_matrix((np.ones(old.nnz), (old.row, child[old.col])), shape=(old.shape[0], n_items))
    arrays = {"user_factors": case.model.user_factors, "item_factors": mixed}
    return Case(f"{case.name}, made", ForgettableALS.restore({}, arrays, {"residual": 1.0}, x), x)


def measure(case: Case, queries: int) -> dict[str, Any]:
    """Build, then ask exactly and through the index in turns."""
    model, x = case.model, case.user_items
    start, spent = time.perf_counter(), time.process_time()
    index = build_item_index(model)
    found: dict[str, Any] = {
        "case": case.name,
        "items": model.item_factors.shape[0],
        "factors": model.item_factors.shape[1],
        "build": time.perf_counter() - start,
        "build_cpu": time.process_time() - spent,
        "bytes": None if index is None else len(index.codes()),
    }
    rng = np.random.default_rng(1)
    users = rng.permutation(np.flatnonzero(np.diff(x.indptr)))[:queries].tolist()
    rows = {user: x[user] for user in users}
    items = rng.permutation(np.flatnonzero(np.any(model.item_factors != 0, axis=1)))[:queries].tolist()
    found["lists"] = in_turns(model, index, users, lambda user: model.recommend(user, rows[user], N=10))
    found["lists"]["candidates"] = None if index is None else 10 * index.candidates
    found["similar"] = in_turns(model, index, items, lambda item: model.similar_items(item, N=10))
    few = None if index is None else index.similar_candidates
    found["similar"]["candidates"] = None if few is None else 10 * few
    return found


def in_turns(
    model: Factorization, index: ItemIndex | None, asked: list[int], ask: Callable[[int], Any]
) -> dict[str, Any]:
    """Ask exactly and through the index in turns; returns medians and processor time of both, and recall."""
    answers: dict[str, list[Any]] = {"exact": [], "index": []}
    times: dict[str, list[float]] = {"exact": [], "index": []}
    cpu = dict.fromkeys(answers, 0.0)
    for group in _groups(asked):
        for way, shortlist in (("exact", None), ("index", index)):
            model.shortlist = shortlist
            before = time.process_time()
            for one in group:
                answers[way].append(_timed(times[way], lambda one=one: ask(one)))
            cpu[way] += time.process_time() - before
    found: dict[str, Any] = {"recall": _recall(answers["exact"], answers["index"])}
    for way in answers:
        found[way] = float(np.median(times[way]))
        found[f"{way}_cpu"] = cpu[way] / len(asked)
    return found


def _groups(users: list[int]) -> Iterator[list[int]]:
    for at in range(0, len(users), IN_TURN):
        yield users[at : at + IN_TURN]


def _timed(times: list[float], call: Callable[[], Any]) -> Any:
    start = time.perf_counter()
    answer = call()
    times.append(time.perf_counter() - start)
    return answer


def _recall(exact: list[Any], near: list[Any]) -> float:
    """Return the share of the exact lists that was found, once scores are seen to be the same."""
    shares = []
    for (ids, scores), (near_ids, near_scores) in zip(exact, near, strict=True):
        both, a, b = np.intersect1d(ids, near_ids, return_indices=True)
        np.testing.assert_allclose(near_scores[b], scores[a], rtol=1e-4, atol=1e-6)
        shares.append(both.size / max(ids.size, 1))
    return float(np.mean(shares))


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="lines of: user item item ...; default: generated")
    parser.add_argument(
        "--made", type=int, nargs="*", default=[], help="sizes of catalogues made of the data's"
    )
    parser.add_argument("--generate", type=int, nargs=3, action="append", default=[])
    parser.add_argument("--factors", type=int, default=128)
    parser.add_argument("--queries", type=int, default=400)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    data = turns.generated(6040, 3700, 720_000) if options.data is None else turns.read_lines(options.data)
    first = fitted("generated" if options.data is None else options.data.stem, data, options.factors)
    found = [measure(first, options.queries)]
    _show(found[-1])
    for n_items in options.made:
        found.append(measure(made(first, n_items), options.queries))
        _show(found[-1])
    for users, items, interactions in options.generate:
        case = fitted("generated", turns.generated(users, items, interactions), options.factors)
        found.append(measure(case, options.queries))
        _show(found[-1])
    turns.write(options.json, index=found)


def _show(row: dict[str, Any]) -> None:
    """Print one case."""
    table = Table("", "exact", "index")
    for kind in ("lists", "similar"):
        one = row[kind]
        table.add_row(f"{kind}: query, ms", f"{1e3 * one['exact']:.3f}", f"{1e3 * one['index']:.3f}")
        table.add_row(
            "... of processor time", f"{1e3 * one['exact_cpu']:.3f}", f"{1e3 * one['index_cpu']:.3f}"
        )
        table.add_row("... recall at 10", "1", f"{one['recall']:.4f}")
        table.add_row("... items scored", str(row["items"]), str(one["candidates"] or "all"))
    table.add_row("build, s (processor)", "", f"{row['build']:.2f} ({row['build_cpu']:.2f})")
    table.add_row(
        "memory, MB", f"{row['items'] * row['factors'] * 4 / 1e6:.1f}", f"{(row['bytes'] or 0) / 1e6:.1f}"
    )
    console = Console(width=100)
    console.print(f"{row['case']}: {row['items']:,} items, {row['factors']} factors")
    console.print(table)


if __name__ == "__main__":
    main()
