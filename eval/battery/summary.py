"""From the cells of a study to its figures: means over draws with intervals, as records and as CSV."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec
import numpy as np
from scipy.stats import t as student

from ...engine import durable

_SIGNED: Final = ("residue_size", "excess", "excess_low", "excess_high")
_AT_MOST_ONE: Final = (
    "residue", "membership", "overlap", "ndcg@10", "recall@20", "oracle", "auc", "chance", "power", "peeled",
    "precision", "precision_popular", "precision_unlinked",
)  # fmt: skip


Place: TypeAlias = tuple[str, str, str, str]
"""Data, method, regime and metric of a figure."""


@dataclass(frozen=True)
class Figure:
    """A figure over the draws of a study.

    Attributes
    ----------
    data, method, regime : where. metric : its path in a cell's record, dotted.
    mean, low, high : over draws, with Student's interval; low and high are None for a single draw.
    draws : how many.
    """

    data: str
    method: str
    regime: str
    metric: str
    mean: float
    low: float | None
    high: float | None
    draws: int


def draw_interval(values: Sequence[float], level: float) -> tuple[float, float | None, float | None]:
    """Mean over draws with Student's t interval, ``mean ± t s / sqrt(n)``.

    A bootstrap over a handful of draws covers too little; over people within a cell it is what we use.

    Examples
    --------
    >>> mean, low, high = draw_interval([1.0, 2.0, 3.0], 0.95)
    >>> mean, round(low, 3), round(high, 3)
    (2.0, -0.484, 4.484)
    """
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, None, None
    half = float(
        student.ppf((1 + level) / 2, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    )
    return mean, mean - half, mean + half


def flattened(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yield every number of a record with its dotted path; lists are left out.

    Examples
    --------
    >>> list(flattened({"a": {"b": 1.5, "c": [1.0]}, "d": None, "e": True}))
    [('a.b', 1.5), ('e', 1.0)]
    """
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from flattened(value, f"{prefix}{name}.")
        elif isinstance(value, bool | int | float):
            yield f"{prefix}{name}", float(value)


def summarise(results: Mapping[str, Any]) -> list[Figure]:
    """Work out every figure of a study."""
    level = results["study"]["level"]
    gathered: dict[tuple[str, str, str, str], list[float]] = {}
    for cell in results["cells"]:
        for metric, value in flattened(cell.get("measured", {})):
            key = (cell["data"], cell["method"], cell["regime"]["name"], metric)
            gathered.setdefault(key, []).append(value)
    return [
        Figure(*key, *clipped(key[-1], draw_interval(values, level)), len(values))
        for key, values in gathered.items()
    ]


def figures_by_place(results: Mapping[str, Any]) -> dict[Place, Figure]:
    """Look the figures of a study up by where they are."""
    return {(f.data, f.method, f.regime, f.metric): f for f in summarise(results)}


def clipped(
    metric: str, figure: tuple[float, float | None, float | None]
) -> tuple[float, float | None, float | None]:
    """Cut an interval to what the metric can be: no lower than 0, areas and shares no higher than 1.

    Cutting to the possible cannot make an interval miss the truth.

    Examples
    --------
    >>> clipped("completeness.method.residue", (0.9, -0.1, 1.9))
    (0.9, 0.0, 1.0)
    """
    mean, low, high = figure
    name = metric.rpartition(".")[2]
    if low is None or high is None or name in _SIGNED:
        return figure
    return mean, max(0.0, low), min(1.0, high) if name in _AT_MOST_ONE else high


def write_results(results: Mapping[str, Any], output: Path) -> list[Path]:
    """Write ``results.json`` (everything), ``results.csv`` (every number), ``summary.csv`` (over draws)."""
    summary = [asdict(figure) for figure in summarise(results)]
    document = msgspec.json.format(msgspec.json.encode({**results, "summary": summary}), indent=1) + b"\n"
    written = {
        "results.json": document,
        "results.csv": _csv(list(_long(results))),
        "summary.csv": _csv(summary),
    }
    durable.make_directory(output)
    for name, content in written.items():
        durable.replace(output / name, content)
    return [output / name for name in written]


def _long(results: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a row for each number, with all that says where it is from."""
    for cell in results["cells"]:
        machine = cell["environment"]
        for metric, value in flattened(cell.get("measured", {})):
            yield {
                "data": cell["data"],
                "data_digest": cell["data_digest"],
                "method": cell["method"],
                "regime": cell["regime"]["name"],
                "draw": cell["draw"],
                "seed": cell["seed"],
                "metric": metric,
                "value": repr(value),
                "machine": f"{machine['processor']}, {machine['CPUs']} CPUs",
                "versions": "; ".join(f"{k} {machine[k]}" for k in ("Python", "numpy", "implicit")),
            }


def _csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue().encode()
