"""How answers are written: JSON, never cached; refusals that depend on nothing that was asked."""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from numpy.typing import NDArray

from ..snapshot import UnknownItemError, UnknownModelError, UnknownUserError

_HEADERS = {"cache-control": "no-store"}  # a cache must not go on serving somebody who is fenced


def json_answer(content: Any, status: int = 200) -> Response:
    """Answer with JSON."""
    return Response(msgspec.json.encode(content), status, _HEADERS, "application/json")


def scored(ids: NDArray[Any], scores: NDArray[Any]) -> list[dict[str, Any]]:
    """Put items beside their scores."""
    return [
        {"item_id": item, "score": score} for item, score in zip(ids.tolist(), scores.tolist(), strict=True)
    ]


def add_refusals(app: FastAPI) -> None:
    """Make errors that are foreseen into answers, on the event loop: a hop to a thread would cost more."""
    for error, detail in ((UnknownUserError, "unknown user"), (UnknownItemError, "unknown item")):
        app.add_exception_handler(error, _refusal(404, detail))
    app.add_exception_handler(UnknownModelError, _unknown_model)
    app.add_exception_handler(RequestValidationError, _invalid)


def _refusal(status: int, detail: str) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def answer(_request: Request, _error: Exception) -> Response:
        return json_answer({"detail": detail}, status)

    return answer


async def _unknown_model(_request: Request, error: Exception) -> Response:
    return json_answer({"detail": f"unknown model; this version has: {', '.join(error.args[1])}"}, 422)


async def _invalid(_request: Request, error: Exception) -> Response:
    """Say what is wrong with which parameter, and repeat nothing of what was sent."""
    assert isinstance(error, RequestValidationError)  # noqa: S101  it is registered for no other
    problems = [{"loc": list(e["loc"]), "msg": e["msg"], "type": e["type"]} for e in error.errors()]
    return json_answer({"detail": problems}, 422)
