"""Running a study cell by cell: each is stored when it is done, so that an interrupted study goes on."""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from ...engine import durable
from ...models.base import Interactions, canonical_interactions
from ..environment import describe_environment
from ..generate import social_interactions
from .cell import Setting, measure_cell
from .methods import describe_method, make_method
from .protocol import Removal
from .questions import split_interactions
from .regimes import Regime, chosen_users
from .study import DataEntry, MethodEntry, Study, digest_of, digest_of_record, load_data

FORMAT: Final = 1
"""Of a cell's record; a stored cell of another is measured again."""


@dataclass(frozen=True)
class Cell:
    """Which cell: its place in the study."""

    data: DataEntry
    method: MethodEntry
    regime: Regime
    draw: int

    @property
    def path(self) -> Path:
        """Where it is stored, below the study's ``cells``."""
        return Path(self.data.name, self.method.name, self.regime.name, f"{self.draw}.json")

    @property
    def title(self) -> str:
        """For a progress bar."""
        return f"{self.data.name} · {self.method.name} · {self.regime.name} · draw {self.draw + 1}"


def cells_of(study: Study) -> Iterator[Cell]:
    """Yield a study's cells, draw by draw, so that an interrupted one has a little of everything."""
    for data in study.data:
        for draw in range(study.draws):
            for method in study.method:
                for regime in study.regime:
                    yield Cell(data, method, regime, draw)


def run_study(
    study: Study, output: Path, watch: Callable[[str, bool], None] = lambda _title, _done: None
) -> dict[str, Any]:
    """Measure every cell that is not stored yet; return the whole record, JSON-ready.

    Parameters
    ----------
    output : a folder; cells go to ``output/cells``. watch : is told a cell's title before and after it.

    Returns
    -------
    ``study``; ``data``: name -> digest, sizes, notice; ``methods``: name -> how it forgets; ``cells``: with
    ``error`` in place of figures where a method failed; the others are measured all the same.

    Raises
    ------
    StudyError
        The data cannot be had, or a method cannot be made.
    """
    for entry in study.method:
        make_method(entry.made_by, entry.settings)  # a wrong name is told before an hour is spent
    warm: set[str] = set()
    described: dict[str, Any] = {}
    records: list[dict[str, Any]] = []
    matrices: dict[str, Interactions] = {}
    for cell in cells_of(study):
        if cell.data.name not in described:
            matrices = {cell.data.name: (loaded := load_data(cell.data))[0]}
            described[cell.data.name] = _described(loaded[0], loaded[1])
        watch(cell.title, False)
        digest = described[cell.data.name]["digest"]
        records.append(
            _record(study, cell, matrices[cell.data.name], digest, output / "cells" / cell.path, warm)
        )
        watch(cell.title, True)
    return {
        "format": FORMAT,
        "study": msgspec.to_builtins(study),
        "environment": describe_environment(),
        "data": described,
        "methods": {entry.name: describe_method(entry.made_by) for entry in study.method},
        "cells": records,
    }


def _described(matrix: Interactions, notice: str) -> dict[str, Any]:
    return {"digest": digest_of(matrix), "users": matrix.shape[0], "items": matrix.shape[1],
            "interactions": int(matrix.nnz), "notice": notice}  # fmt: skip


def _record(
    study: Study, cell: Cell, matrix: Interactions, digest: str, path: Path, warm: set[str]
) -> dict[str, Any]:
    """Read a cell's record if it is the one that is asked for, else measure and store it."""
    asked = {
        "format": FORMAT,
        "data": cell.data.name,
        "data_digest": digest,
        "method": cell.method.name,
        "made_by": cell.method.made_by,
        "settings": cell.method.settings,
        "regime": msgspec.to_builtins(cell.regime),
        "draw": cell.draw,
        "seed": study.seed + cell.draw,
        "test_share": study.test_share,
        "level": study.level,
        "attacks": study.attacks,
    }
    key = digest_of_record(asked)
    if (stored := _stored(path, key)) is not None:
        return stored
    record = {"key": key, **asked, "environment": describe_environment()}
    if cell.method.name not in warm:
        _warm_up(cell.method)
        warm.add(cell.method.name)
    try:
        record["measured"] = _finite(_measured(cell, matrix, asked))
    except Exception as error:  # noqa: BLE001 - a method may be anybody's and raise anything
        return record | {"error": f"{type(error).__name__}: {error}"}
    durable.make_directory(path.parent)
    durable.replace(path, msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n")
    return record


def _warm_up(entry: MethodEntry) -> None:
    """Let a method load its compiled code on a few made-up people, so that no time counts it.

    What goes wrong here goes wrong again where it is recorded.
    """
    few = canonical_interactions(social_interactions(60, 40, 900))
    with contextlib.suppress(Exception):
        method = make_method(entry.made_by, entry.settings)
        method.fit(few, 0)
        method.forget(Removal.of_users(np.array([3], dtype=np.int64)))


def _stored(path: Path, key: str) -> dict[str, Any] | None:
    try:
        record = msgspec.json.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError):
        return None
    return record if isinstance(record, dict) and record.get("key") == key else None


def _measured(cell: Cell, matrix: Interactions, asked: Mapping[str, Any]) -> dict[str, Any]:
    seed = int(asked["seed"])
    split = split_interactions(matrix, asked["test_share"], seed)
    users = chosen_users(split.train, cell.regime, seed)
    method = make_method(cell.method.made_by, cell.method.settings)
    return measure_cell(method, Setting(split, users, cell.regime, seed, asked["level"], asked["attacks"]))


def _finite(value: Any) -> Any:
    """JSON has no infinity: None stands for what cannot be measured."""
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
