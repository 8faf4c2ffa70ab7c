"""The log of a command, on standard error: lines for people, or JSON for machines."""

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Annotated, Literal, TypeAlias

import typer

Layout: TypeAlias = Literal["text", "json"]

LogFormat = Annotated[
    Layout, typer.Option("--log-format", help="Log lines for people, or JSON for machines.")
]


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, message; of an error its class and its place alone.

    An exception's own message may quote an id: it stays out of the log.

    Examples
    --------
    >>> record = logging.LogRecord("worker", logging.INFO, "f.py", 1, "version %d", (3,), None)
    >>> record.created = 0
    >>> JsonLines().format(record)
    '{"time": "1970-01-01T00:00:00.000+00:00", "level": "INFO", "logger": "worker", "message": "version 3"}'
    """

    def format(self, record: logging.LogRecord) -> str:
        """Write one record."""
        entry: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info and record.exc_info[0] is not None:
            entry["error"] = record.exc_info[0].__name__
            entry["at"] = [
                f"{frame.filename}:{frame.lineno} {frame.name}"
                for frame in traceback.extract_tb(record.exc_info[2])
            ]
        return json.dumps(entry)


def log_to_stderr(layout: Layout) -> None:
    """Send the log to standard error, from INFO on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonLines()
        if layout == "json"
        else logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    )
    logging.basicConfig(handlers=[handler], level=logging.INFO)
    logging.getLogger("kafka").setLevel(logging.ERROR)  # it tells of every try
