"""How long forgetting one user takes against how many interactions the user has.

    python benchmarks/bench_single_users.py --data train.txt --plot docs/reference/forgetting-one-user.svg

Users of every activity, one at a time: medians and 99th percentiles of tenths of them, by activity. ItemKNN's
lists are repaired; SpectralMF's certificate is included (erasure 0.99).
"""

import argparse
import copy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import turns
from recunlearn.models import ForgettableModel, ItemKNN, SpectralMF
from rich.console import Console
from rich.progress import track
from rich.table import Table

PARTS = 10


def spread(x: sp.csr_matrix, count: int) -> np.ndarray:
    """Choose ``count`` users evenly over the order of activity, in random turn."""
    ordered = np.argsort(np.diff(x.indptr), kind="stable")
    chosen = ordered[np.linspace(0, ordered.size - 1, count).astype(int)]
    return np.random.default_rng(0).permutation(chosen)


def singles(model: ForgettableModel, x: sp.csr_matrix, count: int, follow: bool) -> list[dict[str, float]]:
    """Forget users one after another (``follow``), or each from the same model; sizes and seconds."""
    if not follow:
        copy.copy(model).forget_users([int(np.diff(x.indptr).argmin())])  # compiles
    found = []
    for user in track(spread(x, count), description=type(model).__name__):
        subject = model if follow else copy.copy(model)
        elapsed = turns.seconds(partial(subject.forget_users, [user]))
        found.append({"interactions": float(np.diff(x.indptr)[user]), "seconds": elapsed})
    return found


def tenths(found: list[dict[str, float]]) -> list[dict[str, float]]:
    """Summarise by tenths of the users, ordered by activity."""
    ordered = sorted(found, key=lambda row: row["interactions"])
    parts = [ordered[k * len(ordered) // PARTS : (k + 1) * len(ordered) // PARTS] for k in range(PARTS)]
    return [
        {
            "interactions": float(np.median([row["interactions"] for row in part])),
            "p50": float(np.percentile([row["seconds"] for row in part], 50)),
            "p99": float(np.percentile([row["seconds"] for row in part], 99)),
        }
        for part in parts
    ]


def plot(summaries: dict[str, list[dict[str, float]]], path: Path) -> None:
    """Draw p50 and p99 against the user's interactions, both logarithmic."""
    import matplotlib.pyplot as plt

    plt.rcParams["svg.fonttype"] = "none"
    figure, axis = plt.subplots(figsize=(7, 4))
    for colour, (name, rows) in enumerate(summaries.items()):
        sizes = [row["interactions"] for row in rows]
        for key, style in (("p50", "o-"), ("p99", "^--")):
            times = [1e3 * row[key] for row in rows]
            axis.loglog(sizes, times, style, color=f"C{colour}", label=f"{name}, {key}")
    axis.set(xlabel="interactions of the user", ylabel="milliseconds to forget")
    axis.grid(alpha=0.3)
    axis.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Measure, print, write, plot."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="lines of: user item item ...")
    parser.add_argument("--users", type=int, default=200)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    x = turns.read_lines(options.data)
    warm = ItemKNN(20).fit(x)
    warm.forget_users([int(np.diff(x.indptr).argmax())])  # compiles
    measured: dict[str, Any] = {
        "ItemKNN": tenths(singles(ItemKNN(20).fit(x), x, options.users, follow=True)),
        "SpectralMF": tenths(
            singles(SpectralMF(128, erasure=0.99).fit(x), x, max(options.users // 2, PARTS), follow=False)
        ),
    }
    table = Table("model", "interactions of the user", "p50, ms", "p99, ms")
    for name, rows in measured.items():
        for row in rows:
            table.add_row(
                name, f"{row['interactions']:.0f}", f"{1e3 * row['p50']:.1f}", f"{1e3 * row['p99']:.1f}"
            )
    Console(width=100).print(table)
    turns.write(options.json, single_users=measured)
    if options.plot:
        plot(measured, options.plot)


if __name__ == "__main__":
    main()
