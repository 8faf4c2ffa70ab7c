"""What a receipt states: an in-toto statement, and what each kind of request may claim."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from .. import __version__
from .ledger_records import DoneRequest

_KEPT = {
    "account": "the keyed hash of the subject, to refuse late and replayed events",
    "interaction": "the keyed hash of the subject, to refuse late and replayed events",
    "anonymisation": "every interaction, under a new random id that is recorded nowhere beside the old one, "
    "and its influence on the models; the keyed hash of the subject, to refuse late and replayed events",
    "readmission": "nothing of what was erased; the keyed hash of the subject with the time of its admission",
}
_DONE = {
    "account": "erased",
    "interaction": "erased",
    "anonymisation": "anonymised",
    "readmission": "readmitted",
}
"""Kind of a request -> the field that says when it was done. No other kind than a removal says *erased*."""


def statement(request: DoneRequest, record: Mapping[str, Any]) -> bytes:
    """Write what a receipt says: an in-toto statement (v1), JSON.

    The subject of the statement is what was published; the subject of the request is a keyed hash.

    Parameters
    ----------
    record : of the request's cycle: what it published; empty for a re-admission, which publishes nothing.
        Only where influence was removed do the models' proofs of it belong into the receipt.
    """
    models = record.get("models", {})
    digests = {}
    if record:
        digests[f"{record['version']:06d}/manifest.json"] = record["manifest_sha256"]
    for model in models.values():
        digests.update({f"{record['version']:06d}/{path}": sha for path, sha in model["files"].items()})
    done = {"done": _time(request.done_at), "erased": None}
    if request.outcome != "refused":
        done[_DONE[request.kind]] = done["done"]
    return msgspec.json.encode(
        {
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{"name": name, "digest": {"sha256": sha}} for name, sha in digests.items()],
            "predicateType": "urn:recunlearn:erasure-receipt:v1",
            "predicate": {
                "request": {
                    "seq": request.seq,
                    "id": request.request_id,
                    "kind": request.kind,
                    "subject_hash": request.subject.hex(),
                    "hash": "BLAKE2b-256, keyed",
                    "source": {"partition": request.partition, "offset": request.offset},
                    "requested": _time(request.requested_at),
                },
                "received": _time(request.received_at),
                "fenced": _time(request.fenced_at),
                **done,
                "outcome": request.outcome,
                "version": record.get("version"),
                "manifest_sha256": {
                    "before": record.get("parent_sha256"), "after": record.get("manifest_sha256"),
                },
                "models": _proofs(models) if _DONE[request.kind] == "erased" else {},
                "scan": record.get("scan"),
                "stores": record.get("stores", []),
                "kept": _KEPT[request.kind],
                "software": __version__,
            },
        }
    )  # fmt: skip


def _proofs(models: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    return {
        name: {key: value for key, value in model.items() if key != "files"} for name, model in models.items()
    }


def _time(seconds: float | None) -> str | None:
    return (
        None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds")
    )
