"""The ledger's way to take a request back, before erasing has begun."""

import time
from dataclasses import dataclass

from .ledger_fence import LedgerFence
from .ledger_file import LedgerError


@dataclass(frozen=True, slots=True)
class Cancelled:
    """What taking a request back came to.

    Attributes
    ----------
    kind : of the request.
    is_new : False if it had been taken back before.
    is_fenced : whether what it was about is fenced still, by another request or an earlier erasure.
    """

    kind: str
    is_new: bool
    is_fenced: bool


class Cancelling(LedgerFence):
    """Requests that whoever asked takes back."""

    def knows(self, request_id: str) -> bool:
        """Tell whether a request with this id was ever recorded."""
        return self._row_of(request_id) is not None

    def cancel(self, request_id: str) -> Cancelled:
        """Take a request back before it is taken up; the fence it alone put up comes down.

        Repeated, it says the same and does nothing. The id stays known: the same event, late or replayed,
        is a repetition of a request that was taken back, and asks for nothing.

        Raises
        ------
        LedgerError
            It is unknown, or erasing has begun.
        """
        with self._transaction("cancel a request") as connection:
            row = self._row_of(request_id)
            if row is None:
                raise LedgerError(f"request {request_id!r} is not in the ledger; was it read already?")
            seq, kind, subject, state = row
            is_new = state != "cancelled"
            if is_new:
                self._take_back(seq, subject, request_id)
            fenced = connection.execute("SELECT 1 FROM fence WHERE subject = ?", (subject,)).fetchone()
        return Cancelled(kind, is_new, fenced is not None)

    def taken_back(self, since_seq: int) -> set[int]:
        """Return the numbers, from ``since_seq`` on, of requests that were taken back."""
        rows = self._connection.execute(
            "SELECT seq FROM requests WHERE state = 'cancelled' AND seq >= ?", (since_seq,)
        )
        return {seq for (seq,) in rows}

    def _take_back(self, seq: int, subject: bytes, request_id: str) -> None:
        self._move([seq], "cancelled")
        self._connection.execute(
            "UPDATE requests SET request_id = ?, done_at = ? WHERE seq = ?",
            (self._unlinked(request_id, self._ids()[seq][1]), time.time(), seq),
        )
        self._drop_ids({seq})
        self._lower_fence(subject)
        self._mark_erased()

    def _row_of(self, request_id: str) -> tuple[int, str, bytes, str] | None:
        row: tuple[int, str, bytes, str] | None = self._connection.execute(
            "SELECT seq, kind, subject, state FROM requests WHERE request_key = ?",
            (self._key.request(request_id),),
        ).fetchone()
        return row
