"""What a measured run of forgetting found: the record, its JSON, its verdict on one screen.

Everything here is data that was measured elsewhere; nothing is computed but comparisons. A share is a
fraction of the influence that a removal had on everybody else (see :mod:`.oracle`); times are seconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from .format import power, seconds, share


@dataclass(frozen=True)
class Treatment:
    """One way to treat a removal, and what it leaves.

    Attributes
    ----------
    name : what was done.
    others : share of the influence left in everybody else: rows that the removal did not touch.
    all_rows : the same counted over all rows, the forgotten ones included (flatters dropping rows).
    """

    name: str
    others: float
    all_rows: float


@dataclass(frozen=True)
class Step:
    """A stage of forgetting: what is left after it (measured), and what is shown to be left at the most.

    ``certified`` is None where the model had nothing to show.
    """

    name: str
    remaining: float
    certified: float | None = None


@dataclass(frozen=True)
class ModelOutcome:
    """One model after one removal.

    Attributes
    ----------
    name : registry name.
    exact : the model claims to equal a retrain up to rounding.
    treatments : do nothing, only drop the rows, and what was published, in this order.
    steps : how the influence went down.
    distance : measured relative distance of the scores to a retrain, over everybody else.
    proof_distance : the same in the quantity that ``bound`` speaks of (all scores, or an item matrix).
    largest_difference : largest difference of an item weight to the retrain's; None for factors.
    bound, erased_at_least, certified, reason : the model's own proof, published with it.
    oracle_bound : the same bound of the retrain itself: how far off what we compare with may be.
    oracle_share : that, as a share of the influence.
    oracle_list : ids of what the retrained model recommends the neighbour.
    forget_seconds : the removal in this model alone, restored as from disk; no publishing, no purge.
    retrain_seconds : one fit from scratch with the model's own settings.
    """

    name: str
    exact: bool
    treatments: list[Treatment]
    steps: list[Step]
    distance: float
    proof_distance: float
    largest_difference: float | None
    bound: float | None
    erased_at_least: float | None
    certified: bool
    reason: str
    oracle_bound: float
    oracle_share: float
    oracle_list: list[str | int]
    forget_seconds: float
    retrain_seconds: float

    @property
    def remaining(self) -> float:
        """Share of the influence left in everybody else by what was published."""
        return self.treatments[-1].others

    @property
    def proof_holds(self) -> bool:
        """What the model claimed about itself is true of what was measured (by the triangle inequality)."""
        within = self.bound is not None and self.proof_distance <= self.bound + self.oracle_bound
        claimed = self.erased_at_least
        return within and (claimed is None or self.remaining <= 1.0 - claimed + self.oracle_share)


@dataclass(frozen=True)
class RequestTiming:
    """How long one request took, from the moment it was asked to fenced and to erased."""

    kind: str
    fenced: float
    erased: float


@dataclass(frozen=True)
class Removal:
    """A batch of requests, done and measured."""

    name: str
    accounts: int
    interactions: int
    requests: list[RequestTiming]
    models: list[ModelOutcome]


@dataclass(frozen=True)
class Listed:
    """An item in a list of recommendations."""

    item_id: str | int
    title: str
    score: float


@dataclass(frozen=True)
class Lists:
    """Recommendations of one user from one model, before and after; ``after`` None: not served any more."""

    user_id: str | int
    model: str
    before: list[Listed]
    after: list[Listed] | None


@dataclass(frozen=True)
class Check:
    """One claim that the run put to the test; ``topic`` is what it is about, in a word."""

    topic: str
    claim: str
    ok: bool
    measured: str


@dataclass(frozen=True)
class Dataset:
    """What the models were fitted on, before anybody was forgotten."""

    name: str
    users: int
    items: int
    interactions: int
    source: str
    notice: str


@dataclass(frozen=True)
class Report:
    """A whole run.

    Attributes
    ----------
    person : the account that was deleted first; neighbour : lists of the most alike user, one per model.
    environment : what it ran on, name -> value.
    seconds : wall time of the whole run.
    """

    created: str
    software: str
    command: str
    seed: int
    dataset: Dataset
    person: Lists
    neighbour: list[Lists]
    removals: list[Removal]
    fit_seconds: float
    checks: list[Check]
    environment: dict[str, str]
    seconds: float

    @property
    def ok(self) -> bool:
        """Every claim held."""
        return all(check.ok for check in self.checks)


def write_report(report: Report, directory: Path) -> tuple[Path, Path]:
    """Write ``report.json`` and the self-contained ``report.html`` into ``directory``; return both paths."""
    from .page import render_page

    directory.mkdir(parents=True, exist_ok=True)
    data, page = directory / "report.json", directory / "report.html"
    data.write_bytes(msgspec.json.format(msgspec.json.encode(as_record(report)), indent=2) + b"\n")
    page.write_text(render_page(report), encoding="utf-8")
    return data, page


def as_record(report: Report) -> dict[str, Any]:
    """Return a report as what JSON can carry, with whether every claim held."""
    record: dict[str, Any] = msgspec.to_builtins(report)
    return {"ok": report.ok, **record}


def read_report(path: Path) -> Report:
    """Read a ``report.json`` back.

    Raises
    ------
    msgspec.ValidationError
        The file is not such a report.
    """
    return msgspec.json.decode(path.read_bytes(), type=Report)


def verdict(report: Report) -> RenderableType:
    """Build the verdict for a terminal: at most 80 columns and one screen."""
    return Group(_outcome_table(report.removals), _check_table(report.checks))


def _outcome_table(removals: Sequence[Removal]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("influence left in everybody else")
    models = removals[0].models if removals else []
    for model in models:
        table.add_column(model.name, justify="right")
    for removal in removals:
        table.add_row(Text(_heading(removal), "bold"), *([""] * len(models)))
        for row, treatment in enumerate(removal.models[0].treatments if removal.models else ()):
            style = "bold green" if row == len(removal.models[0].treatments) - 1 else "red"
            shares = (Text(share(m.treatments[row].others), style) for m in removal.models)
            table.add_row(f"  {treatment.name}", *shares)
        table.add_row("  its own proof: at most", *map(_proved, removal.models))
        table.add_row("  distance to a retrain", *(power(m.distance) for m in removal.models))
        table.add_row("  seconds: forget / retrain", *map(_two_times, removal.models))
    return table


def _heading(removal: Removal) -> str:
    fenced, erased = slowest(removal.requests)
    return f"{removal.name}\n  fenced {seconds(fenced)}, erased {seconds(erased)}"


def _proved(outcome: ModelOutcome) -> str:
    if outcome.exact:
        return "exact"
    return "-" if outcome.erased_at_least is None else share(1.0 - outcome.erased_at_least)


def _two_times(outcome: ModelOutcome) -> str:
    return f"{outcome.forget_seconds:.2g} / {outcome.retrain_seconds:.2g}"


def slowest(requests: Sequence[RequestTiming]) -> tuple[float, float]:
    """Return the longest times to fenced and to erased; 0 for no requests."""
    return max((r.fenced for r in requests), default=0.0), max((r.erased for r in requests), default=0.0)


def _check_table(checks: Sequence[Check]) -> Table:
    table = Table.grid(padding=(0, 1))
    for check in checks:
        mark = Text("✓", "bold green") if check.ok else Text("✗", "bold red")
        table.add_row(mark, check.topic, Text(check.measured, "dim"))
    return table
