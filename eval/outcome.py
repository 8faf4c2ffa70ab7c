"""What a removal did to each published model, measured against a retrain done for the purpose."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl

from ..engine.requests import ExternalId
from ..engine.state import StatePaths
from ..engine.version import read_current, read_ids, read_manifest, read_models
from ..models.base import ForgettableModel, Interactions, IntVector
from .oracle import (
    Controls,
    Influence,
    Scores,
    controls,
    distance,
    influence,
    item_weights_of,
    scores_of,
    weight_distance,
)
from .report import ModelOutcome, Step, Treatment

TREATMENTS = ("do nothing", "only drop the rows", "recunlearn")
"""What is compared, in this order."""

_STAGES = (0.5, 0.9, 0.99)
"""Shares that an iterative model is asked to show on its way, to see how the influence goes down."""


@dataclass(frozen=True)
class Published:
    """A version copied into memory: it stays when its files are purged.

    Attributes
    ----------
    version : its number. models : registry name -> model, in the order of the state.
    users, items : external ids in row order, ascending.
    """

    version: int
    models: Mapping[str, ForgettableModel]
    users: pl.Series
    items: pl.Series

    @property
    def user_items(self) -> Interactions:
        """What the version keeps: CSR."""
        return next(iter(self.models.values())).user_items

    def user_rows(self, users: list[ExternalId]) -> IntVector:
        """Return the rows of users of this version."""
        return _places(self.users, users)

    def item_rows(self, items: list[ExternalId]) -> IntVector:
        """Return the columns of items of this version."""
        return _places(self.items, items)


def _places(series: pl.Series, ids: Sequence[ExternalId]) -> IntVector:
    """Find ids in an ascending series that holds them."""
    wanted = pl.Series(ids, dtype=series.dtype)
    return np.asarray(series.search_sorted(wanted).to_numpy(), dtype=np.int64)


@dataclass(frozen=True)
class Asked:
    """A removal in the platform's ids: accounts, and parallel lists of single interactions."""

    accounts: list[ExternalId]
    pair_users: list[ExternalId]
    pair_items: list[ExternalId]


def read_published(state: Path) -> Published:
    """Copy the published version of a state directory into memory."""
    paths = StatePaths(state)
    number, digest = read_current(paths)
    manifest = read_manifest(paths, number, digest)
    directory = paths.version(number)
    users, items = read_ids(directory, manifest)
    return Published(number, read_models(directory, manifest, mapped=False), users, items)


def measure(before: Published, after: Published, asked: Asked) -> Iterator[ModelOutcome]:
    """Compare each model with its controls; one fit from scratch (and one that is timed) for each.

    Parameters
    ----------
    before, after : the versions before and after the removal ``asked`` was carried out, and nothing else.
    """
    rows = (
        before.user_rows(asked.accounts),
        before.user_rows(asked.pair_users),
        before.item_rows(asked.pair_items),
    )
    for name, model in before.models.items():
        yield _outcome(model, after.models[name], rows)


def _outcome(
    before: ForgettableModel, after: ForgettableModel, rows: tuple[IntVector, IntVector, IntVector]
) -> ModelOutcome:
    against = controls(before, *rows)
    published = against.place(scores_of(after))
    measured = influence(against.nothing, published, against.retrained, against.others)
    proof, oracle_proof = after.proof(), against.oracle.proof()
    oracle_bound = oracle_proof.bound or 0.0
    weighted = not hasattr(after, "user_factors")
    return ModelOutcome(
        name=type(after).name,
        exact=proof.exact,
        treatments=list(_treatments(against, published)),
        steps=list(_steps(before, rows, against, measured, None if proof.exact else proof.erased_at_least)),
        distance=measured.distance,
        proof_distance=_proof_distance(after, against.oracle),
        largest_difference=_largest(after, against.oracle) if weighted else None,
        bound=proof.bound,
        erased_at_least=proof.erased_at_least,
        certified=proof.certified,
        reason=proof.reason,
        oracle_bound=oracle_bound,
        oracle_share=_oracle_share(against, measured, oracle_bound),
        retrain_seconds=_timed_fit(after),
    )


def _treatments(against: Controls, published: Scores) -> Iterator[Treatment]:
    everybody = np.arange(against.nothing.shape[0], dtype=np.int64)
    for name, scores in zip(TREATMENTS, (against.nothing, against.rows_only, published), strict=True):
        others, all_rows = (
            influence(against.nothing, scores, against.retrained, rows).remaining
            for rows in (against.others, everybody)
        )
        yield Treatment(name, others, all_rows)


def _steps(
    before: ForgettableModel,
    rows: tuple[IntVector, IntVector, IntVector],
    against: Controls,
    measured: Influence,
    erased_at_least: float | None,
) -> Iterator[Step]:
    """Follow the influence down: as asked, rows emptied, stages of an iterative model, as published."""
    for name, scores in (("asked", against.nothing), ("rows emptied", against.rows_only)):
        yield Step(
            name, influence(against.nothing, scores, against.retrained, against.others).remaining, None
        )
    if not before.exact:
        yield from _stages(before, rows, against)
    yield Step("published", measured.remaining, None if erased_at_least is None else 1.0 - erased_at_least)


def _stages(
    before: ForgettableModel, rows: tuple[IntVector, IntVector, IntVector], against: Controls
) -> Iterator[Step]:
    """Forget again in copies of the model, each asked to show less of the erasure than the published one."""
    users, pair_users, pair_items = rows
    for stage in _STAGES:
        settings = {**before.settings(), "erasure": stage, "tolerance": 1.0}
        arrays = {name: array.copy() for name, array in before.published().items()}
        model = type(before).restore(settings, arrays, before.proof_record(), before.user_items)
        model.forget(users=users, pair_users=pair_users, pair_items=pair_items)
        left = influence(against.nothing, scores_of(model), against.retrained, against.others).remaining
        shown = model.proof().erased_at_least
        yield Step(f"{stage:.0%} shown", left, None if shown is None else min(1.0, 1.0 - shown))


def _proof_distance(model: ForgettableModel, oracle: ForgettableModel) -> float:
    """Measure the relative distance in what the model's bound speaks of; the same users and items."""
    if hasattr(model, "user_factors"):
        everybody = np.arange(model.user_items.shape[0], dtype=np.int64)
        ours, theirs = scores_of(model), scores_of(oracle)
        return influence(theirs, ours, theirs, everybody).distance
    if hasattr(model, "inverse"):
        return weight_distance(cast(Any, model).inverse, cast(Any, oracle).inverse)[0]
    return weight_distance(item_weights_of(model), item_weights_of(oracle))[0]


def _largest(model: ForgettableModel, oracle: ForgettableModel) -> float:
    return weight_distance(item_weights_of(model), item_weights_of(oracle))[1]


def _oracle_share(against: Controls, measured: Influence, oracle_bound: float) -> float:
    """Turn the oracle's own uncertainty into a share of the influence; rounding at the least."""
    if not measured.removed:
        return 0.0
    everybody = np.arange(against.nothing.shape[0], dtype=np.int64)
    norm = distance(against.retrained, against.retrained.emptied(everybody), everybody)
    return (max(oracle_bound, float(np.finfo(np.float64).eps)) * norm) / measured.removed


def _timed_fit(model: ForgettableModel) -> float:
    """Fit the model's twin from scratch with its own settings; seconds."""
    settings = dict(model.settings())
    if settings.get("regularization", 0) is None:
        settings["regularization"] = cast(Any, model).regularization
    twin = cast(Any, type(model))(**settings)
    started = time.perf_counter()
    twin.fit(model.user_items)
    return time.perf_counter() - started
