"""The ASGI application: routes on a reader, inside what guards and measures them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from starlette.middleware.trustedhost import TrustedHostMiddleware

from ..metrics import ServingMetrics
from ..snapshot import SnapshotReader
from .answers import add_refusals
from .guards import Admitted, Bounded, Measured
from .operations import add_operations
from .page import add_page
from .rankings import add_rankings

Status = Callable[[], Mapping[str, Any]]
"""Returns the record that ``recunlearn status --json`` prints."""

_DESCRIPTION = """Recommendations from models that forget. Every answer comes from one published version and
says which. A user who is unknown and one who was forgotten get the same answer, byte for byte."""


def create_app(
    reader: SnapshotReader, status: Status, *, allowed_hosts: Sequence[str] = ("*",), token: str | None = None
) -> FastAPI:
    """Make the ASGI application.

    Parameters
    ----------
    reader : follows the published version; the caller closes it after the application.
    status : called for ``/v1/status`` and at each scrape of ``/metrics``.
    allowed_hosts : Host headers that are answered; others get 400.
    token : what clients must send as ``Authorization: Bearer``; None: nothing.
    """
    from ... import __version__

    metrics = ServingMetrics(
        lambda: (reader.current().version, reader.swaps), status, lambda: reader.current().recalls()
    )
    app = FastAPI(  # no docs pages: both load scripts from elsewhere
        title="recunlearn", version=__version__, description=_DESCRIPTION, docs_url=None, redoc_url=None
    )
    app.add_middleware(Bounded)
    if token is not None:
        app.add_middleware(Admitted, token=token)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(allowed_hosts))
    app.add_middleware(Measured, metrics=metrics)
    add_refusals(app)
    add_rankings(app, reader)
    add_operations(app, reader, status, metrics)
    add_page(app, reader.paths)
    return app
