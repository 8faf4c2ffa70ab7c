"""The ledger's intake: requests recorded once, their users fenced, positions and dead letters beside them."""

import sqlite3
import time
from collections.abc import Collection, Mapping, Sequence

from .ledger_file import LedgerError, LedgerFile
from .ledger_letters import Coordinates, close_letters
from .ledger_records import DeadLetter, Received
from .requests import InteractionRemoval, Request, canonical_id


class Intake(LedgerFile):
    """What is asked: recorded, or taken back."""

    def conflicts(self, received: Sequence[Received]) -> set[int]:
        """Find requests whose id was used for another subject before; int: places in ``received``.

        Such a request must not pass for a repetition: it would be a deletion that is silently lost.
        """
        seen: dict[str, bytes] = {}
        found = set()
        for place, entry in enumerate(received):
            request_id, subject = entry.request.request_id, self._subject(entry.request)
            known = self._known_subject(request_id) or seen.setdefault(request_id, subject)
            if known != subject:
                found.add(place)
        return found

    def _known_subject(self, request_id: str) -> bytes | None:
        row = self._connection.execute(
            "SELECT subject FROM requests WHERE request_id IN (?, ?)", (request_id, self._hashed(request_id))
        ).fetchone()
        return None if row is None else row[0]

    def record(
        self,
        received: Sequence[Received],
        *,
        source: str = "",
        positions: Mapping[str, int] | None = None,
        dead_letters: Sequence[DeadLetter] = (),
        read_at_last: Collection[Coordinates] = (),
    ) -> int:
        """Record requests, fence their users and remember how far the source was read, all or nothing.

        Parameters
        ----------
        received : requests; one whose id is known already is a repetition and recorded once.
        source, positions : partition -> next offset to read, stored in the same transaction.
        dead_letters : records of ``source`` that could not be read.
        read_at_last : dead letters of ``source`` that could be read now: they are none any more.

        Returns
        -------
        How many requests were new.
        """
        now = time.time()
        new = 0
        with self._transaction("record requests") as connection:
            for entry in received:
                new += self._insert(connection, entry, now)
            connection.executemany(
                "INSERT INTO dead_letters VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT DO UPDATE SET reason = excluded.reason",
                [(source, letter.partition, letter.offset, letter.reason, now) for letter in dead_letters],
            )
            close_letters(connection, source, read_at_last)
            connection.executemany(
                "INSERT INTO positions VALUES (?, ?, ?) "
                "ON CONFLICT DO UPDATE SET next_offset = excluded.next_offset",
                [(source, partition, offset) for partition, offset in (positions or {}).items()],
            )
        return new

    def _insert(self, connection: sqlite3.Connection, entry: Received, now: float) -> int:
        request = entry.request
        if self._known_subject(request.request_id) is not None:
            return 0
        item_id = canonical_id(request.item_id) if isinstance(request, InteractionRemoval) else None
        kind = "account" if item_id is None else "interaction"
        subject = self._subject(request)
        cursor = connection.execute(
            "INSERT INTO requests (request_id, kind, user_id, item_id, subject, source_partition, "
            "source_offset, requested_at, received_at, fenced_at, state) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'fenced')",
            (
                request.request_id, kind, canonical_id(request.user_id), item_id, subject,
                entry.partition, entry.offset,
                request.requested_at.timestamp() if request.requested_at else None, now, now,
            ),
        )  # fmt: skip
        connection.execute(
            "INSERT OR IGNORE INTO fence (subject, owner, kind, seq) VALUES (?, ?, ?, ?)",
            (subject, self._key.user(request.user_id), kind, cursor.lastrowid),
        )
        return 1

    def _subject(self, request: Request) -> bytes:
        if isinstance(request, InteractionRemoval):
            return self._key.pair(request.user_id, request.item_id)
        return self._key.user(request.user_id)

    def positions(self, source: str) -> dict[str, int]:
        """Return partition -> next offset to read, as of the last transaction."""
        return dict(
            self._connection.execute(
                "SELECT partition, next_offset FROM positions WHERE source = ?", (source,)
            )
        )

    def cancel(self, request_id: str) -> None:
        """Take a request back before it is taken up; the fence it alone put up comes down.

        Raises
        ------
        LedgerError
            It is unknown, or erasing has begun.
        """
        with self._transaction("cancel a request") as connection:
            row = connection.execute(
                "SELECT seq, subject FROM requests WHERE request_id = ?", (request_id,)
            ).fetchone()
            if row is None:
                raise LedgerError(f"request {request_id!r} is not in the ledger; was it read already?")
            seq, subject = row
            self._move(seq, "cancelled")
            connection.execute("UPDATE requests SET user_id = NULL, item_id = NULL WHERE seq = ?", (seq,))
            connection.execute(
                "DELETE FROM fence WHERE subject = ?1 AND NOT EXISTS "
                "(SELECT 1 FROM requests WHERE subject = ?1 AND state != 'cancelled')",
                (subject,),
            )
