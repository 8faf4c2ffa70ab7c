"""Versions offered to other hosts: ``GET /v1/versions/N/FILE``, for :func:`~..version_transfer.pull`.

A version holds every kept interaction, so this is added to a server only when asked for, behind its token.
"""

import os
from collections.abc import Iterator
from typing import BinaryIO

from fastapi import FastAPI, Response
from starlette.responses import StreamingResponse

from ..state import StateError, StatePaths
from ..version_transfer import offered_file

_CHUNK = 1 << 20


def offer_versions(app: FastAPI, paths: StatePaths) -> None:
    """Add the route by which a version's manifest, and the files that it names, are fetched."""

    @app.get("/v1/versions/{number}/{name:path}", response_class=Response)
    def version_file(number: int, name: str) -> Response:
        """One file of the published version, as it is on disk; 404 for any other."""
        try:
            file = offered_file(paths, number, name).open("rb")
        except (StateError, FileNotFoundError):
            return Response(b'{"detail":"no such file of the published version"}', 404)
        headers = {"cache-control": "no-store", "content-length": str(os.fstat(file.fileno()).st_size)}
        return StreamingResponse(_chunks(file), 200, headers, "application/octet-stream")


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while chunk := file.read(_CHUNK):
            yield chunk
