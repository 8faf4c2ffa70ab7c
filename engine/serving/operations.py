"""The routes for who operates the service: health, readiness, status, metrics."""

from collections.abc import Callable, Mapping
from typing import Any

from fastapi import FastAPI, Response

from ..metrics import ServingMetrics
from ..snapshot import SnapshotReader
from .answers import json_answer
from .schema import refusals


def add_operations(
    app: FastAPI, reader: SnapshotReader, status: Callable[[], Mapping[str, Any]], metrics: ServingMetrics
) -> None:
    """Add all routes that say how things stand."""

    @app.get("/v1/status", responses=refusals())
    def current_status() -> Response:
        """Say what ``recunlearn status --json`` says."""
        return json_answer(status())

    @app.get("/healthz")
    async def healthz() -> Response:
        """Tell that the process answers."""
        return json_answer({"ok": True})

    @app.get("/readyz", responses=refusals())
    async def readyz() -> Response:
        """Tell which version is served, and why a newer one is not, if so."""
        error = reader.error
        return json_answer(
            {"version": reader.current().version, "error": None if error is None else str(error)}
        )

    @app.get("/metrics", responses=refusals())
    def prometheus() -> Response:
        """Metrics in Prometheus's text format."""
        return Response(metrics.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")
