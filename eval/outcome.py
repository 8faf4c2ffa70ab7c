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
from ..models.base import ForgettableModel, Interactions, IntVector, Proof
from .oracle import (
    FloatVector,
    Influence,
    Scores,
    controls,
    influence,
    item_weights_of,
    row_distances,
    row_norms,
    scores_of,
    weight_distance,
)
from .report import ModelOutcome, Step, Treatment

TREATMENTS = ("do nothing", "only drop the rows", "recunlearn")
"""What is compared, in this order."""

LIST_LENGTH = 10
"""How long the lists are that people are shown."""

_LOOSE = 0.9  # a tolerance that never keeps a stage from ending
_STAGES = (0.9, 0.99)
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


def measure(before: Published, after: Published, asked: Asked, watched: ExternalId) -> Iterator[ModelOutcome]:
    """Compare each model with its controls; one fit from scratch (and one that is timed) for each.

    Parameters
    ----------
    before, after : the versions before and after the removal ``asked`` was carried out, and nothing else.
    watched : a user who stays; the retrained models are asked for their list too.
    """
    rows = (
        before.user_rows(asked.accounts),
        before.user_rows(asked.pair_users),
        before.item_rows(asked.pair_items),
    )
    for name, model in before.models.items():
        against = _Against(model, rows)
        kept = against.controls
        own_list = _own_list(kept.oracle, int(np.searchsorted(kept.users, before.user_rows([watched])[0])))
        ids = before.items.gather(kept.items[own_list]).to_list()
        yield _outcome(model, after.models[name], rows, against, ids)


class _Against:
    """A removal's controls with the distance of each user's scores to the retrain: [n_users] each."""

    def __init__(self, before: ForgettableModel, rows: tuple[IntVector, IntVector, IntVector]) -> None:
        self.controls = controls(before, *rows)
        self.others = self.controls.others
        self.everybody = np.arange(self.controls.nothing.shape[0], dtype=np.int64)
        self.norms = row_norms(self.controls.retrained)
        self.nothing = self.to_retrain(self.controls.nothing)
        self.rows_only = self.to_retrain(self.controls.rows_only)

    def to_retrain(self, scores: Scores) -> FloatVector:
        return row_distances(scores, self.controls.retrained)

    def influence(self, distances: FloatVector, rows: IntVector | None = None) -> Influence:
        """Judge distances over ``rows``; None: over everybody whom the removal did not touch."""
        chosen = self.others if rows is None else rows
        norm, removed, left = (
            float(np.linalg.norm(values[chosen])) for values in (self.norms, self.nothing, distances)
        )
        return Influence(norm, removed, left)

    def oracle_share(self, oracle_bound: float) -> float:
        """Turn the oracle's own uncertainty into a share of the influence; rounding at the least."""
        removed = self.influence(self.nothing).removed
        uncertain = max(oracle_bound, float(np.finfo(np.float64).eps)) * float(np.linalg.norm(self.norms))
        return uncertain / removed if removed else 0.0


def _own_list(model: ForgettableModel, row: int) -> IntVector:
    """Return what a model recommends a user: dense items, best first."""
    items, _ = model.recommend(row, model.user_items[row], N=LIST_LENGTH)
    return np.asarray(items, dtype=np.int64)


def _outcome(
    before: ForgettableModel,
    after: ForgettableModel,
    rows: tuple[IntVector, IntVector, IntVector],
    against: _Against,
    oracle_list: list[ExternalId],
) -> ModelOutcome:
    oracle, proof = against.controls.oracle, after.proof()
    published = against.to_retrain(against.controls.place(scores_of(after)))
    oracle_bound = oracle.proof().bound or 0.0
    return ModelOutcome(
        name=type(after).name,
        exact=proof.exact,
        treatments=list(_treatments(against, published)),
        steps=list(_steps(before, rows, against, published, proof)),
        distance=against.influence(published).distance,
        proof_distance=_proof_distance(after, oracle),
        largest_difference=None if hasattr(after, "user_factors") else _largest(after, oracle),
        bound=proof.bound,
        erased_at_least=proof.erased_at_least,
        certified=proof.certified,
        reason=proof.reason,
        oracle_bound=oracle_bound,
        oracle_share=against.oracle_share(oracle_bound),
        oracle_list=oracle_list,
        forget_seconds=min(_timed_forget(before, rows) for _ in range(2 if proof.exact else 1)),
        retrain_seconds=_timed_fit(after),
    )


def _treatments(against: _Against, published: FloatVector) -> Iterator[Treatment]:
    treated = (against.nothing, against.rows_only, published)
    for name, distances in zip(TREATMENTS, treated, strict=True):
        others = against.influence(distances).remaining
        yield Treatment(name, others, against.influence(distances, against.everybody).remaining)


def _steps(
    before: ForgettableModel,
    rows: tuple[IntVector, IntVector, IntVector],
    against: _Against,
    published: FloatVector,
    proof: Proof,
) -> Iterator[Step]:
    """Follow the influence down: as asked, rows emptied, stages of an iterative model, as published."""
    yield Step("asked", against.influence(against.nothing).remaining)
    yield Step("rows emptied", against.influence(against.rows_only).remaining)
    if not before.exact:
        yield from _stages(before, rows, against)
    shown = None if proof.exact or proof.erased_at_least is None else 1.0 - proof.erased_at_least
    yield Step("published", against.influence(published).remaining, shown)


def _stages(
    before: ForgettableModel, rows: tuple[IntVector, IntVector, IntVector], against: _Against
) -> Iterator[Step]:
    """Forget again in copies of the model, each asked to show less of the erasure than the published one."""
    for stage in _STAGES:
        model = _copy(before, {**before.settings(), "erasure": stage, "tolerance": _LOOSE})
        _forget(model, rows)
        left = against.influence(against.to_retrain(scores_of(model))).remaining
        shown = model.proof().erased_at_least
        yield Step(f"{stage:.0%} shown", left, None if shown is None else min(1.0, 1.0 - shown))


def _copy(model: ForgettableModel, settings: Mapping[str, Any]) -> ForgettableModel:
    """Restore a model as it was published, over memory of its own."""
    arrays = {name: array.copy() for name, array in model.published().items()}
    return type(model).restore(settings, arrays, model.proof_record(), model.user_items)


def _forget(model: ForgettableModel, rows: tuple[IntVector, IntVector, IntVector]) -> None:
    users, pair_users, pair_items = rows
    model.forget(users=users, pair_users=pair_users, pair_items=pair_items)


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


def _timed_fit(model: ForgettableModel) -> float:
    """Fit the model's twin from scratch with its own settings; seconds."""
    settings = dict(model.settings())
    if settings.get("regularization", 0) is None:
        settings["regularization"] = cast(Any, model).regularization
    twin = cast(Any, type(model))(**settings)
    started = time.perf_counter()
    twin.fit(model.user_items)
    return time.perf_counter() - started


def _timed_forget(model: ForgettableModel, rows: tuple[IntVector, IntVector, IntVector]) -> float:
    """Forget in a copy of the model, restored as from disk; seconds.

    The first call in a process also loads compiled code: an iterative model's stages have done so before.
    """
    copy = _copy(model, model.settings())
    started = time.perf_counter()
    _forget(copy, rows)
    return time.perf_counter() - started
