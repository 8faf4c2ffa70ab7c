"""By when a request must be fulfilled, as config.toml says, and what is late."""

import logging
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from .ledger import Ledger
from .state import StateError, StatePaths, read_config

DUE_DAYS = 30.0
"""Days that a request may take, unless ``due_days`` in the table ``[options]`` says otherwise."""

_DAY = 86_400.0
_log = logging.getLogger(__name__)


def due_seconds(options: Mapping[str, Any]) -> float:
    """Return for how many seconds a request may be open.

    Parameters
    ----------
    options : the table ``[options]`` of config.toml.

    Raises
    ------
    StateError
        ``due_days`` is not a positive number.

    Examples
    --------
    >>> due_seconds({}), due_seconds({"due_days": 0.5})
    (2592000.0, 43200.0)
    """
    days = options.get("due_days", DUE_DAYS)
    if isinstance(days, bool) or not isinstance(days, int | float) or not 0 < days < float("inf"):
        raise StateError(f"[options] due_days is {days!r} in config.toml; give a positive number of days")
    return days * _DAY


def deadline(ledger: Ledger, within: float, oldest_in_backlog: float | None = None) -> dict[str, Any]:
    """Say what is late, JSON-ready.

    The clock runs from when the person asked, where the request says so, else from when it was received.

    Parameters
    ----------
    within : seconds that a request may be open.
    oldest_in_backlog : when the oldest event came that the ledger does not have yet, Unix seconds.

    Returns
    -------
    ``within_seconds``; ``overdue``: open requests and unreadable records that are late (of those in the
    backlog, one if any is); ``next``: by when the oldest must be done, RFC 3339, None if nothing is open.
    """
    late = time.time() - within
    asked = [at for at in (ledger.oldest_asked(), oldest_in_backlog) if at is not None]
    is_backlog_late = oldest_in_backlog is not None and oldest_in_backlog <= late
    return {
        "within_seconds": within,
        "overdue": ledger.overdue(late) + is_backlog_late,
        "next": datetime.fromtimestamp(min(asked) + within, UTC).isoformat(timespec="seconds")
        if asked
        else None,
    }


def warn_of_overdue(paths: StatePaths, ledger: Ledger) -> None:
    """Write to the log, as a warning, that requests are late, if any is."""
    within = due_seconds(read_config(paths).options)
    if late := ledger.overdue(time.time() - within):
        _log.warning("%d requests are overdue: they were to be done within %g days", late, within / _DAY)
