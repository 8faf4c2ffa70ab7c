"""The ledger's intake: requests recorded once, their users fenced, positions and dead letters beside them."""

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from .ledger_fence import LedgerFence
from .ledger_file import LedgerError
from .ledger_insert import Hashed, insert_requests, known_requests
from .ledger_letters import Coordinates, close_letters
from .ledger_records import DeadLetter, Received
from .requests import InteractionRemoval


class Checked(NamedTuple):
    """Requests that were looked up, to be recorded.

    Attributes
    ----------
    hashed : the requests. conflicts : places in them; these requests are not recorded.
    new : those that are recorded: of an id that was not known, the first. as_of : of which moment that is.
    """

    hashed: Sequence[Hashed]
    conflicts: Collection[int]
    new: Sequence[Hashed]
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
        hashed = [self._with_hashes(entry) for entry in received]
        conflicts, new = _compare(hashed, known_requests(self._connection, hashed))
        return Checked(hashed, conflicts, new, as_of)

    def _as_of(self) -> tuple[int, int]:
        """Return what changes with every intake: another connection's, or this one's."""
        (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        return version, self._intakes

    def _new_now(self, checked: Checked) -> Sequence[Hashed]:
        """Look requests up again: which are new by now; that one conflicts since then is an error."""
        conflicts, new = _compare(checked.hashed, known_requests(self._connection, checked.hashed))
        if conflicts.difference(checked.conflicts):
            raise LedgerError(
                f"{self._path}: another process has just used the id of a request for another subject, or "
                "another kind of request; nothing of this batch is recorded: read it again"
            )
        return new

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
            # Somebody else may have recorded meanwhile.
            new = checked.new if checked.as_of == self._as_of() else self._new_now(checked)
            first = insert_requests(connection, new, now)
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

    def _with_hashes(self, entry: Received) -> Hashed:
        request, key = entry.request, self._key
        subject = owner = key.user(request.user_id)
        if type(request) is InteractionRemoval:
            subject = key.pair(request.user_id, request.item_id)
        return Hashed(request, key.request(request.request_id), subject, owner, entry.partition, entry.offset)

    def positions(self, source: str) -> dict[str, int]:
        """Return partition -> next offset to read, as of the last transaction."""
        return dict(
            self._connection.execute(
                "SELECT partition, next_offset FROM positions WHERE source = ?", (source,)
            )
        )


def _compare(
    hashed: Iterable[Hashed], known: Mapping[bytes, tuple[str, bytes]]
) -> tuple[set[int], list[Hashed]]:
    """Return the places of requests whose id is known, or used before them, for something else; and the new.

    New is, of each id that is not known, the first request.
    """
    conflicts, new = set[int](), list[Hashed]()
    seen: dict[bytes, Hashed] = {}
    for place, one in enumerate(hashed):
        if one.key in known:
            asked = known[one.key]
        elif (first := seen.setdefault(one.key, one)) is one:
            new.append(one)
            continue
        else:
            asked = (first.request.kind, first.subject)
        if asked != (one.request.kind, one.subject):
            conflicts.add(place)
    return conflicts, new
