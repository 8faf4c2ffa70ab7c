"""The ledger's intake: requests recorded once, their users fenced, positions and dead letters beside them."""

import time
from collections.abc import Collection, Iterable, Mapping, Sequence

from .ledger_fence import LedgerFence
from .ledger_letters import Coordinates, close_letters
from .ledger_records import DeadLetter, Received
from .requests import InteractionRemoval, Readmission, Request, canonical_id

_LOOKED_UP_AT_ONCE = 400


class Intake(LedgerFence):
    """What is asked: recorded, or taken back."""

    def conflicts(self, received: Sequence[Received]) -> set[int]:
        """Find requests whose id was used for something else before; int: places in ``received``.

        Another subject, or another kind of request. It must not pass for a repetition: it would be a
        deletion that is silently lost.
        """
        seen = self._known(entry.request.request_id for entry in received)
        found = set()
        for place, entry in enumerate(received):
            asked = (entry.request.kind, self._subject(entry.request))
            if seen.setdefault(entry.request.request_id, asked) != asked:
                found.add(place)
        return found

    def _known(self, request_ids: Iterable[str]) -> dict[str, tuple[str, bytes]]:
        """Look up the requests that are recorded: id -> kind and subject."""
        by_key = {self._key.request(request_id): request_id for request_id in request_ids}
        keys = list(by_key)
        found = {}
        for start in range(0, len(keys), _LOOKED_UP_AT_ONCE):
            chunk = keys[start : start + _LOOKED_UP_AT_ONCE]
            places = ", ".join("?" * len(chunk))
            query = f"SELECT request_key, kind, subject FROM requests WHERE request_key IN ({places})"  # noqa: S608
            rows = self._connection.execute(query, chunk)
            found.update({by_key[key]: (kind, subject) for key, kind, subject in rows})
        return found

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
        with self._transaction("record requests") as connection:
            known = set(self._known(entry.request.request_id for entry in received))
            new = []
            for entry in received:
                if entry.request.request_id not in known:
                    known.add(entry.request.request_id)
                    new.append(entry)
            self._insert(new, now)
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
        return len(new)

    def _insert(self, new: Sequence[Received], now: float) -> None:
        row = self._connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'requests'").fetchone()
        numbered = list(enumerate(new, start=1 + (0 if row is None else row[0])))
        self._connection.executemany(
            "INSERT INTO requests (seq, request_key, kind, subject, source_partition, source_offset, "
            "requested_at, received_at, fenced_at, state) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [self._row(seq, entry, now) for seq, entry in numbered],
        )
        self._connection.executemany(
            "INSERT INTO open_ids VALUES (?, ?, ?, ?)",
            [_clear_ids(seq, entry.request) for seq, entry in numbered],
        )
        self._raise_fence(
            (self._subject(request), self._key.user(request.user_id), _fence_kind(request), seq, seq)
            for seq, request in ((seq, entry.request) for seq, entry in numbered)
            if not isinstance(request, Readmission)
        )
        self._connection.executemany(  # their ids are known again until they are admitted
            "UPDATE fence SET erased = 0 WHERE subject = ?",
            [(self._subject(entry.request),) for entry in new if isinstance(entry.request, Readmission)],
        )

    def _row(self, seq: int, entry: Received, now: float) -> tuple[object, ...]:
        request = entry.request
        waits = isinstance(request, Readmission)
        return (
            seq,
            self._key.request(request.request_id),
            request.kind,
            self._subject(request),
            entry.partition,
            entry.offset,
            None if request.requested_at is None else request.requested_at.timestamp(),
            now,
            None if waits else now,
            "received" if waits else "fenced",
        )

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


def _clear_ids(seq: int, request: Request) -> tuple[int, str, str, str | None]:
    item_id = canonical_id(request.item_id) if isinstance(request, InteractionRemoval) else None
    return seq, request.request_id, canonical_id(request.user_id), item_id


def _fence_kind(request: Request) -> str:
    return "interaction" if isinstance(request, InteractionRemoval) else "account"
