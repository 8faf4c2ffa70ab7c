"""What is asked and answered over HTTP, as the OpenAPI schema shows it."""

from typing import Annotated, Any

from fastapi import Query
from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr

MOST_ITEMS = 1000
"""The longest list that may be asked for, and the most ids in one question."""

MOST_ANSWERS = 100_000
"""The most items in one answer: how many lists, times how long each may be."""

Id = Annotated[StrictInt, Field(ge=-(2**63), lt=2**63)] | StrictStr
Ids = Annotated[list[Id], Field(min_length=1, max_length=MOST_ITEMS)]
Count = Annotated[int, Query(ge=1, le=MOST_ITEMS, description="How many items at the most.")]
ModelName = Annotated[str | None, Query(description="Which model; the default is the state's first.")]
BodyCount = Annotated[StrictInt, Field(ge=1, le=MOST_ITEMS, description="How many items at the most.")]
BodyModelName = Annotated[
    StrictStr | None, Field(description="Which model; the default is the state's first.")
]


class _Question(BaseModel):
    n: BodyCount = 10
    model: BodyModelName = None


class Liked(_Question):
    """Somebody who is in no version, by what they like. Nothing of it is stored."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"item_ids": [50], "n": 5}]})
    item_ids: Ids


class Users(_Question):
    """Users to rank items for."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"user_ids": [17, 42]}]})
    user_ids: Ids


class Items(_Question):
    """Items whose likes are asked for."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"item_ids": [50, 181]}]})
    item_ids: Ids


class Scored(BaseModel):
    """An item and its score in the model's own terms."""

    item_id: int | str
    score: float


class Ranking(BaseModel):
    """A list of one version and one model, best first."""

    version: int = Field(examples=[12])
    model: str = Field(examples=["spectral_mf"])
    items: list[Scored]


class UserItems(BaseModel):
    """A user's list."""

    user_id: int | str
    items: list[Scored]


class UserRankings(BaseModel):
    """Lists of one version and one model; ``unknown``: who is not served, forgotten or never there."""

    version: int = Field(examples=[12])
    model: str = Field(examples=["spectral_mf"])
    users: list[UserItems]
    unknown: list[int | str]


class ItemItems(BaseModel):
    """The items most like one."""

    item_id: int | str
    items: list[Scored]


class ItemRankings(BaseModel):
    """Lists of one version and one model; ``unknown``: items that this version does not have."""

    version: int = Field(examples=[12])
    model: str = Field(examples=["spectral_mf"])
    items: list[ItemItems]
    unknown: list[int | str]


class Reason(BaseModel):
    """A recommended item, and what of the user's own items speaks for it."""

    item_id: int | str
    score: float
    because: list[Scored]


class Reasons(BaseModel):
    """A list of one version and one model with its reasons."""

    version: int
    model: str
    items: list[Reason]


class Refusal(BaseModel):
    """Why there is no answer: a sentence, or what is wrong with each parameter."""

    detail: str | list[dict[str, Any]] = Field(examples=["unknown user"])


def refusals(*codes: int) -> dict[int | str, dict[str, Any]]:
    """Describe refusals for a route's ``responses``; those that any route can give are always among them."""
    meanings = {
        400: "A Host header that is not served, or a body that is not JSON",
        401: "No bearer token, or a wrong one, where one is asked for",
        404: "Unknown, or forgotten: the same answer, byte for byte",
        408: "The body did not arrive in time",
        413: "The body is too large",
        422: "A value out of range, or no such model",
    }
    always = (400, 401)
    return {code: {"model": Refusal, "description": meanings[code]} for code in sorted({*always, *codes})}
