"""What ``recunlearn status`` says: the published version, its models' proofs, and how requests stand."""

import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import msgspec

from .deadline import deadline, due_seconds
from .fence import FenceKey
from .ledger import Ledger
from .readers import old_readers
from .state import StatePaths, read_config
from .version import Manifest, read_manifest, read_while_current


def state_status(
    paths: StatePaths, backlog: int = 0, oldest_in_backlog: float | None = None
) -> dict[str, Any]:
    """Report on a state, JSON-ready; read-only, so it may run beside a writer.

    Parameters
    ----------
    backlog, oldest_in_backlog : events that wait in the source, and when the oldest came (Unix seconds).

    Returns
    -------
    ``requests``: *pending* are those that are not erased yet, in the source or the ledger; *fenced* are those
    of them whose users are not served any more; *failed* are requests that a model could not forget, and
    records that could not be read as a request: duties that are not fulfilled. ``oldest_pending_seconds`` is
    the age of the oldest that is pending or failed, 0 if there is none. ``due``: what is late
    (:func:`~.deadline.deadline`). ``other_requests``: those that end otherwise than erased. ``old_readers``:
    processes that still map a version that was purged (:mod:`.readers`).

    Raises
    ------
    StateError
        No state, or one that cannot be read.
    """
    within = due_seconds(read_config(paths).options)
    manifest = read_while_current(paths, partial(read_manifest, paths))
    with Ledger(paths.ledger, FenceKey.load(paths)) as ledger:
        counts, oldest = ledger.counts(), ledger.oldest_pending()
        due = deadline(ledger, within, oldest_in_backlog)
        for_stores = ledger.waiting_for_stores()
    fenced = counts["fenced"] + counts["erasing"]
    waiting = [at for at in (oldest, oldest_in_backlog) if at is not None]
    return {
        "version": manifest.version,
        "users": manifest.counts.users,
        "items": manifest.counts.items,
        "interactions": manifest.counts.interactions,
        "requests": {
            "pending": backlog + counts["received"] + fenced,
            "fenced": fenced,
            "erased": counts["erased"],
            "failed": counts["failed"] + counts["dead_letters"],
        },
        "oldest_pending_seconds": max(0.0, time.time() - min(waiting)) if waiting else 0.0,
        "models": model_proofs(manifest),
        "due": due,
        "other_requests": {
            "anonymised": counts["anonymised"],
            "readmitted": counts["admitted"],
            "refused": counts["refused"],
            "cancelled": counts["cancelled"],
        },
        "waiting_for_stores": for_stores,
        "old_readers": [msgspec.to_builtins(reader) for reader in old_readers(paths)],
    }


def model_proofs(manifest: Manifest) -> dict[str, Mapping[str, Any]]:
    """Return registry name -> proof, JSON-ready."""
    return {name: msgspec.to_builtins(model.proof) for name, model in manifest.models.items()}
