"""A service of your own that recommends from a state directory: FastAPI, in as many processes as you like.

    RECUNLEARN_STATE=shop uvicorn service:app --workers 2

Needs `pip install recunlearn`. `recunlearn run --state shop` beside it publishes; each worker process follows
by itself, and refuses users from the moment that they are fenced.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Query, Request
from recunlearn import Snapshot, SnapshotReader
from recunlearn.engine.snapshot import UnknownUserError


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open one reader for each worker process, after uvicorn has made it."""
    with SnapshotReader(os.environ["RECUNLEARN_STATE"]) as reader:
        app.state.reader = reader
        yield


app = FastAPI(lifespan=lifespan)


def current(request: Request) -> Snapshot:
    """Return one snapshot for one answer, so that all of it is of one version."""
    snapshot: Snapshot = request.app.state.reader.current()
    return snapshot


# Not `async def`: a look-up takes CPU, and FastAPI runs plain functions in threads.
@app.get("/for/{user_id}")
def recommend(
    user_id: str, snap: Annotated[Snapshot, Depends(current)], n: Annotated[int, Query(ge=1, le=100)] = 10
) -> dict[str, Any]:
    """Recommend; somebody unknown and somebody forgotten get the same answer."""
    try:
        item_ids, scores = snap.recommend(user_id, N=n)
    except UnknownUserError:
        raise HTTPException(404, "no such user") from None
    return {"version": snap.version, "items": item_ids.tolist(), "scores": scores.tolist()}
