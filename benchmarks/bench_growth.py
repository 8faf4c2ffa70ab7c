"""How fitting and forgetting grow with the interactions and with threads.

    python benchmarks/bench_growth.py --json growth.json --plot growth.svg

Social-like data with 10,000 items, 50 interactions a user and 1, 2, 4, 8 times ``--base`` interactions; 100
random users are forgotten at once (SpectralMF to an erasure of 0.99), and one.
"""

import argparse
import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numba
import numpy as np
import scipy.sparse as sp
import turns
from recunlearn.models import ForgettableModel, ItemKNN, SpectralMF
from rich.console import Console
from rich.progress import track
from rich.table import Table

MODELS: dict[str, Callable[[], ForgettableModel]] = {
    "SpectralMF": lambda: SpectralMF(64, erasure=0.99),
    "ItemKNN": lambda: ItemKNN(20),
}
FACTORS = (1, 2, 4, 8)
ITEMS, PER_USER = 10_000, 50


def measure(x: sp.csr_matrix, name: str, repeats: int) -> dict[str, float]:
    """Time a fit, 100 users and one; medians, in seconds."""
    fits = [turns.seconds(lambda: MODELS[name]().fit(x)) for _ in range(repeats)]
    fitted = MODELS[name]().fit(x)
    rng = np.random.default_rng(0)
    found = {"fit": float(np.median(fits))}
    for label, count in (("forget 100 users", 100), ("forget 1 user", 1)):
        times = []
        for _ in range(repeats):
            model = copy.deepcopy(fitted) if name == "ItemKNN" else copy.copy(fitted)
            gone = rng.choice(x.shape[0], count, replace=False)
            times.append(turns.seconds(partial(model.forget_users, gone)))
        found[label] = float(np.median(times))
    return found


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw time against interactions, both logarithmic, a line for each model, threads and action."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(MODELS), figsize=(10, 4), sharey=True)
    for axis, name in zip(axes, MODELS, strict=True):
        for threads, style in ((1, "--"), (2, "-")):
            chosen = [row for row in rows if row["model"] == name and row["threads"] == threads]
            for colour, action in enumerate(("fit", "forget 100 users", "forget 1 user")):
                if chosen:
                    xs, ys = zip(*((row["interactions"], row[action]) for row in chosen), strict=True)
                    axis.loglog(xs, ys, style, color=f"C{colour}", marker="o", label=f"{action}, {threads}")
        axis.set(title=name, xlabel="interactions")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("seconds")
    axes[0].legend(title="action, threads", fontsize="small")
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    """Measure, print, write, plot."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", type=int, default=500_000, help="interactions at factor 1")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for factor in track(FACTORS, description="growth"):
        interactions = options.base * factor
        x = turns.generated(interactions // PER_USER, ITEMS, interactions)
        for name in MODELS:
            copy.copy(MODELS[name]().fit(x)).forget_users([0])  # compiles
            for threads in sorted({1, numba.config.NUMBA_NUM_THREADS}):
                numba.set_num_threads(threads)
                found = measure(x, name, options.repeats)
                rows.append({"model": name, "threads": threads, "interactions": x.nnz, **found})
    table = Table("model", "threads", "interactions", "fit, s", "100 users, s", "1 user, s")
    for row in sorted(rows, key=lambda row: (row["model"], row["threads"], row["interactions"])):
        times = (f"{row[key]:.4f}" for key in ("fit", "forget 100 users", "forget 1 user"))
        table.add_row(row["model"], str(row["threads"]), f"{row['interactions']:,}", *times)
    Console(width=110).print(table)
    turns.write(options.json, growth=rows)
    if options.plot:
        plot(rows, options.plot)


if __name__ == "__main__":
    main()
