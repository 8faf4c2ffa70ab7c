"""The routes that rank: for users, for items, for what somebody likes. Each answer is of one version.

Single lists are ranked on the event loop: a hop to a thread costs more than they do. Batches take a thread.
"""

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Response
from starlette.convertors import Convertor, register_url_convertor

from ..snapshot import Snapshot, SnapshotReader
from . import schema
from .answers import json_answer, scored
from .schema import Count, ModelName, refusals

_REASONS = 3
_MOST_EXPLAINED = 50


class _IdConvertor(Convertor[str]):
    """A path parameter that may hold anything, slashes and line breaks too: ids are the platform's."""

    regex = r"[\s\S]*"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


def add_rankings(app: FastAPI, reader: SnapshotReader) -> None:
    """Add all routes that rank."""
    register_url_convertor("id", _IdConvertor())
    _add_single(app, reader)
    _add_reasons(app, reader)
    _add_bodies(app, reader)


def _add_single(app: FastAPI, reader: SnapshotReader) -> None:
    single: dict[str, Any] = {"response_model": schema.Ranking, "responses": refusals(404, 422)}

    @app.get("/v1/users/{user_id:id}/recommendations", **single)
    async def recommendations(user_id: str, n: Count = 10, model: ModelName = None) -> Response:
        """Items for a user, best first, without those they have."""
        snapshot = reader.current()
        return _ranking(snapshot, model, scored(*snapshot.recommend(user_id, n, model)))

    @app.get("/v1/items/{item_id:id}/similar", **single)
    async def similar(item_id: str, n: Count = 10, model: ModelName = None) -> Response:
        """Items most alike, best first."""
        snapshot = reader.current()
        return _ranking(snapshot, model, scored(*snapshot.similar_items(item_id, n, model)))


def _add_reasons(app: FastAPI, reader: SnapshotReader) -> None:
    @app.get("/v1/users/{user_id:id}/reasons", response_model=schema.Reasons, responses=refusals(404, 422))
    def reasons(user_id: str, n: Count = 10, model: ModelName = None) -> Response:
        """Items for a user, each with those of their own that speak most for it; 50 items at the most."""
        snapshot = reader.current()
        items = scored(*snapshot.recommend(user_id, min(n, _MOST_EXPLAINED), model))
        found = snapshot.reasons(user_id, [item["item_id"] for item in items], _REASONS, model)
        explained = [
            {**item, "because": scored(*because)} for item, because in zip(items, found, strict=True)
        ]
        return _ranking(snapshot, model, explained)


def _add_bodies(app: FastAPI, reader: SnapshotReader) -> None:
    common = refusals(408, 413, 422)

    @app.post("/v1/recommendations", response_model=schema.Ranking, responses=common)
    def for_liked(asked: schema.Liked) -> Response:
        """Items for somebody who likes these: folded in for the answer, stored nowhere, logged nowhere."""
        snapshot = reader.current()
        return _ranking(
            snapshot, asked.model, scored(*snapshot.recommend_for(asked.item_ids, asked.n, asked.model))
        )

    @app.post("/v1/recommendations:batch", response_model=schema.UserRankings, responses=common)
    def for_users(asked: schema.Users) -> Response:
        """Rank for many users, all in one version."""
        if (refused := _too_much(asked.user_ids, asked.n)) is not None:
            return refused
        snapshot = reader.current()
        found = snapshot.recommend_many(asked.user_ids, asked.n, asked.model)
        answers = list(zip(asked.user_ids, found, strict=True))
        return _answer(
            snapshot,
            asked.model,
            users=[{"user_id": user, "items": scored(*got)} for user, got in answers if got is not None],
            unknown=[user for user, got in answers if got is None],
        )

    @app.post("/v1/items:similar", response_model=schema.ItemRankings, responses=common)
    def for_items(asked: schema.Items) -> Response:
        """Items most like each of many, all of one version."""
        if (refused := _too_much(asked.item_ids, asked.n)) is not None:
            return refused
        snapshot = reader.current()
        known = [item for item in asked.item_ids if snapshot.has_item(item)]
        items = [
            {"item_id": item, "items": scored(*snapshot.similar_items(item, asked.n, asked.model))}
            for item in known
        ]
        unknown = [item for item in asked.item_ids if not snapshot.has_item(item)]
        return _answer(snapshot, asked.model, items=items, unknown=unknown)


def _too_much(ids: Sequence[Any], n: int) -> Response | None:
    if len(ids) * n <= schema.MOST_ANSWERS:
        return None
    detail = f"{len(ids)} lists of {n} are more than {schema.MOST_ANSWERS} items; ask for fewer at once"
    return json_answer({"detail": detail}, 422)


def _ranking(snapshot: Snapshot, model: str | None, items: list[dict[str, Any]]) -> Response:
    return _answer(snapshot, model, items=items)


def _answer(snapshot: Snapshot, model: str | None, **lists: Any) -> Response:
    return json_answer({"version": snapshot.version, "model": model or snapshot.models[0], **lists})
