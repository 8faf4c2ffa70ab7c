"""The ledger's intake: requests recorded once, their users fenced, positions and dead letters beside them."""

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import NamedTuple

from .ledger_fence import LedgerFence
from .ledger_file import LedgerError
from .ledger_letters import Coordinates, close_letters
from .ledger_records import DeadLetter, Received
from .requests import InteractionRemoval, Readmission, Request, canonical_id

_LOOKED_UP_AT_ONCE = 400


class _Hashed(NamedTuple):
    """A request with its keyed hashes: of its id, of its subject, of its user."""

    entry: Received
    key: bytes
    subject: bytes
    owner: bytes


class Checked(NamedTuple):
    """Requests that were looked up, to be recorded.

    Attributes
    ----------
    hashed : the requests. conflicts : places in them; these requests are not recorded.
    known : the keyed hashes of those ids that are recorded. as_of : of which moment that is.
    """

    hashed: Sequence[_Hashed]
    conflicts: Collection[int]
    known: Collection[bytes]
    as_of: tuple[int, int]


class Intake(LedgerFence):
    """What is asked: recorded, or taken back."""

    _intakes = 0

    def check(self, received: Sequence[Received]) -> Checked:
        """Look requests up, before they are recorded: which are known, and which conflict.

        A conflict is an id that was used for another subject, or another kind of request. It must not pass
        for a repetition: it would be a deletion that is silently lost.
        """
        as_of = self._as_of()
        hashed = [self._hashed_one(entry) for entry in received]
        known = self._known(one.key for one in hashed)
        return Checked(hashed, _conflicts(hashed, known), known.keys(), as_of)

    def _as_of(self) -> tuple[int, int]:
        """Return what changes with every intake: another connection's, or this one's."""
        (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        return version, self._intakes

    def _known(self, request_keys: Iterable[bytes]) -> dict[bytes, tuple[str, bytes]]:
        """Look up the requests that are recorded: keyed hash of the id -> kind and subject."""
        keys = sorted(set(request_keys))
        found = {}
        for start in range(0, len(keys), _LOOKED_UP_AT_ONCE):
            chunk = keys[start : start + _LOOKED_UP_AT_ONCE]
            places = ", ".join("?" * len(chunk))
            query = f"SELECT request_key, kind, subject FROM requests WHERE request_key IN ({places})"  # noqa: S608
            rows = self._connection.execute(query, chunk)
            found.update({key: (kind, subject) for key, kind, subject in rows})
        return found

    def _known_now(self, checked: Checked) -> Collection[bytes]:
        """Look requests up again: which are known by now; that one conflicts since then is an error."""
        known = self._known(one.key for one in checked.hashed)
        if _conflicts(checked.hashed, known).difference(checked.conflicts):
            raise LedgerError(
                f"{self._path}: another process has just used the id of a request for another subject, or "
                "another kind of request; nothing of this batch is recorded: read it again"
            )
        return known.keys()

    def record(
        self,
        received: Sequence[Received] | Checked,
        *,
        source: str = "",
        positions: Mapping[str, int] | None = None,
        dead_letters: Sequence[DeadLetter] = (),
        read_at_last: Collection[Coordinates] = (),
    ) -> int:
        """Record requests, fence their users and remember how far the source was read, all or nothing.

        Parameters
        ----------
        received : requests, looked up already or not. One whose id is known is a repetition and recorded
            once; one that conflicts is not recorded: see :meth:`check`.
        source, positions : partition -> next offset to read, stored in the same transaction.
        dead_letters : records of ``source`` that could not be read.
        read_at_last : dead letters of ``source`` that could be read now: they are none any more.

        Returns
        -------
        How many requests were new.

        Raises
        ------
        LedgerError
            Another process has used the id of one for something else since it was looked up.
        """
        now = time.time()
        checked = received if isinstance(received, Checked) else self.check(received)
        with self._transaction("record requests") as connection:
            known = set(checked.known)
            if checked.as_of != self._as_of():  # somebody else recorded meanwhile
                known.update(self._known_now(checked))
            new = []
            for one in checked.hashed:
                if one.key not in known:
                    known.add(one.key)
                    new.append(one)
            first = self._insert(new, now)
            self._intakes += 1
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
            connection.execute(  # as late as can be: the fence is up when this is committed
                "UPDATE requests SET fenced_at = ? WHERE seq >= ? AND fenced_at IS NOT NULL",
                (time.time(), first),
            )
        return len(new)

    def _insert(self, new: Sequence[_Hashed], now: float) -> int:
        """Insert requests with what belongs to them; returns the first one's number."""
        row = self._connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'requests'").fetchone()
        first = 1 + (0 if row is None else int(row[0]))
        numbered = list(enumerate(new, start=first))
        self._connection.executemany(
            "INSERT INTO requests (seq, request_key, kind, subject, source_partition, source_offset, "
            "requested_at, received_at, fenced_at, state) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [_row(seq, one, now) for seq, one in numbered],
        )
        self._connection.executemany(
            "INSERT INTO open_ids VALUES (?, ?, ?, ?)",
            [_clear_ids(seq, one.entry.request) for seq, one in numbered],
        )
        fenced = [
            (one.subject, one.owner, _fence_kind(one.entry.request), seq, seq)
            for seq, one in numbered
            if not isinstance(one.entry.request, Readmission)
        ]
        self._raise_fence(sorted(fenced, key=itemgetter(0)))  # page by page; of one subject the last is last
        self._connection.executemany(  # their ids are known again until they are admitted
            "UPDATE fence SET erased = 0 WHERE subject = ?",
            [(one.subject,) for one in new if isinstance(one.entry.request, Readmission)],
        )
        return first

    def _hashed_one(self, entry: Received) -> _Hashed:
        request = entry.request
        owner = self._key.user(request.user_id)
        subject = owner
        if isinstance(request, InteractionRemoval):
            subject = self._key.pair(request.user_id, request.item_id)
        return _Hashed(entry, self._key.request(request.request_id), subject, owner)

    def positions(self, source: str) -> dict[str, int]:
        """Return partition -> next offset to read, as of the last transaction."""
        return dict(
            self._connection.execute(
                "SELECT partition, next_offset FROM positions WHERE source = ?", (source,)
            )
        )


def _conflicts(hashed: Iterable[_Hashed], known: Mapping[bytes, tuple[str, bytes]]) -> set[int]:
    """Return the places of requests whose id is known, or was used before them, for something else."""
    seen, conflicts = dict(known), set()
    for place, one in enumerate(hashed):
        asked = (one.entry.request.kind, one.subject)
        if seen.setdefault(one.key, asked) != asked:
            conflicts.add(place)
    return conflicts


def _row(seq: int, one: _Hashed, now: float) -> tuple[object, ...]:
    request = one.entry.request
    waits = isinstance(request, Readmission)
    return (
        seq,
        one.key,
        request.kind,
        one.subject,
        one.entry.partition,
        one.entry.offset,
        None if request.requested_at is None else request.requested_at.timestamp(),
        now,
        None if waits else now,
        "received" if waits else "fenced",
    )


def _clear_ids(seq: int, request: Request) -> tuple[int, str, str, str | None]:
    item_id = canonical_id(request.item_id) if isinstance(request, InteractionRemoval) else None
    return seq, request.request_id, canonical_id(request.user_id), item_id


def _fence_kind(request: Request) -> str:
    return "interaction" if isinstance(request, InteractionRemoval) else "account"
