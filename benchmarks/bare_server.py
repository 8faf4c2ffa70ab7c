"""The least that a server in the same framework can be: answers out of a dict, made ready beforehand.

    python benchmarks/bare_server.py ANSWERS.json     prints its URL; {"user": {"version": ..., ...}, ...}

FastAPI's routing, uvicorn, httptools and uvloop as in ``recunlearn serve``; no fence, no model, no limits.
"""

import json
import sys
from pathlib import Path

import msgspec
import uvicorn
from fastapi import FastAPI, Response
from recunlearn.engine.server import listen, url_of


def application(answers: dict[str, object]) -> FastAPI:
    """Make an application that looks users up."""
    app = FastAPI(docs_url=None, redoc_url=None)

    @app.get("/v1/users/{user_id}/recommendations")
    async def recommendations(user_id: str) -> Response:
        found = answers.get(user_id)
        if found is None:
            return Response(b'{"detail":"unknown user"}', 404, media_type="application/json")
        return Response(msgspec.json.encode(found), media_type="application/json")

    return app


def main() -> None:
    """Serve until the process is ended."""
    answers = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    with listen("127.0.0.1", 0) as listener:
        print(f"serving on {url_of(listener)}", flush=True)
        config = uvicorn.Config(
            application(answers), http="httptools", loop="uvloop", ws="none",
            log_level="warning", access_log=False, server_header=False, date_header=False,
        )  # fmt: skip
        uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
