"""What it costs to bring a version to a store, and how much of it one forgotten user changes.

    python benchmarks/bench_export.py --data train.txt --redis redis://127.0.0.1:6379/0
    python benchmarks/bench_export.py --data train.txt --pgvector postgresql://me@127.0.0.1/me

SpectralMF is fitted, one user is forgotten, and both versions are pushed in turn, each with what a delivery
does: push, purge (files of the server written anew), read back and compare. Use stores made for it: what is
under the prefix, or in the schema, ``recunlearn-bench`` or ``recunlearn_bench``, is erased.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import turns
from recunlearn.engine.exporters.protocol import StoreSettings, VectorStore
from recunlearn.engine.exporters.registry import open_store
from recunlearn.engine.exporters.vectors import Block, VersionVectors, digest_of
from recunlearn.models import SpectralMF


def version_of(model: SpectralMF, number: int) -> VersionVectors:
    """Make a version of the vectors that a model has now."""
    sides = (("users", model.user_factors), ("items", model.item_factors))
    blocks = tuple(
        Block("spectral_mf", side, [str(row) for row in range(len(factors))], factors.astype("<f4"))
        for side, factors in sides
    )
    return VersionVectors(number, f"{number:064x}", blocks)


def changed(before: VersionVectors, after: VersionVectors) -> dict[str, float]:
    """Return the share of vectors of each side of which any bit is another."""
    return {
        old.side: float((old.vectors != new.vectors).any(axis=1).mean())
        if old.vectors.shape == new.vectors.shape
        else 1.0
        for old, new in zip(before.blocks, after.blocks, strict=True)
    }


def deliver(store: VectorStore, vectors: VersionVectors) -> dict[str, float]:
    """Time the parts of a delivery, in seconds."""
    times = {}
    for name, part in (("push", lambda: store.push(vectors)), ("purge", store.purge)):
        started = time.perf_counter()
        part()
        times[name] = time.perf_counter() - started
    started = time.perf_counter()
    assert digest_of(store.read()) == digest_of(vectors.blocks)
    times["read back"] = time.perf_counter() - started
    return times


def main() -> None:
    """Print a JSON object: medians, in seconds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="lines of: user item item ...; default: generated")
    parser.add_argument("--redis", help="URL of a Redis server")
    parser.add_argument("--pgvector", help="URL of a PostgreSQL server with pgvector")
    parser.add_argument("--unlogged", action="store_true", help="tables that are not in the write-ahead log")
    parser.add_argument("--factors", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    x = turns.read_lines(options.data) if options.data else turns.generated(6040, 3706, 720_152)
    model = SpectralMF(options.factors).fit(x)
    before = version_of(model, 1)
    model.forget_users([17])
    after = version_of(model, 2)
    found: dict[str, Any] = {
        "vectors": sum(len(block.ids) for block in after.blocks),
        "bytes": sum(block.vectors.nbytes for block in after.blocks),
        "changed by one forgotten user": changed(before, after),
        "digest": turns.seconds(lambda: digest_of(after.blocks)),
    }
    for kind, url, where in (
        ("redis", options.redis, {"prefix": "recunlearn-bench"}),
        ("pgvector", options.pgvector, {"schema": "recunlearn_bench", "unlogged": options.unlogged}),
    ):
        if url is not None:
            store = open_store(StoreSettings("bench", kind, url, None, where))
            times = [deliver(store, version) for _ in range(options.repeats) for version in (before, after)]
            found[kind] = {
                part: round(float(np.median([one[part] for one in times])), 3) for part in times[0]
            }
            store.close()
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
