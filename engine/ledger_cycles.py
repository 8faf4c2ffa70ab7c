"""The ledger's part in an erasure cycle: taken up, published, erased; or failed and tried again."""

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from .ledger_cancel import Cancelling
from .ledger_file import LedgerError
from .ledger_records import Cycle, Pending
from .requests import AccountDeletion, Anonymisation, InteractionRemoval, Readmission, Request


class TakenBackError(LedgerError):
    """Requests were taken back before a cycle could take them up; nothing was done.

    Attributes
    ----------
    seqs : their numbers: plan again without them.
    """

    def __init__(self, seqs: set[int]) -> None:
        super().__init__(f"{len(seqs)} requests were cancelled: they cannot become erasing")
        self.seqs = seqs


class Cycles(Cancelling):
    """Requests on their way from waiting to done."""

    def pending(self, limit: int = -1) -> list[Pending]:
        """Return up to ``limit`` requests that wait to be erased, oldest first."""
        rows = self._connection.execute(
            "SELECT seq, kind, open_ids.request_id, user_id, item_id, requested_at "
            "FROM requests JOIN open_ids USING (seq) WHERE state = 'fenced' ORDER BY seq LIMIT ?",
            (limit,),
        )
        return [Pending(seq, _request(*columns)) for seq, *columns in rows]

    def begin_cycle(self, version: int, outcomes: Mapping[int, str]) -> int:
        """Take requests up: they are erasing from here on. Returns the cycle's number.

        Parameters
        ----------
        version : the version that will be without them.
        outcomes : seq -> ``"removed"``, ``"anonymised"``, or ``"nothing"`` where nothing of the subject was
            kept.

        Raises
        ------
        TakenBackError
            Some of them were cancelled meanwhile.
        """
        with self._transaction("begin a cycle") as connection:
            if outcomes and (gone := self.taken_back(min(outcomes)) & outcomes.keys()):
                raise TakenBackError(gone)
            connection.execute("INSERT INTO cycles (version, state) VALUES (?, 'open')", (version,))
            cycle = connection.last_insert_rowid()
            self._move(list(outcomes), "erasing")
            connection.executemany(
                "UPDATE requests SET cycle = ?, outcome = ?, attempts = attempts + 1 WHERE seq = ?",
                [(cycle, outcome, seq) for seq, outcome in outcomes.items()],
            )
        return cycle

    def publish_cycle(self, cycle: int, record: Mapping[str, Any]) -> None:
        """Note that the cycle's version is the published one; ``record``: JSON-ready, for the receipts."""
        with self._transaction("mark a cycle published") as connection:
            connection.execute(
                "UPDATE cycles SET state = 'published', record = ? WHERE cycle = ?",
                (msgspec.json.encode(record), cycle),
            )

    def finish_cycle(self, cycle: int, record: Mapping[str, Any]) -> int:
        """Everything is purged: mark the cycle's requests done and clear their ids. Returns how many."""
        with self._transaction("mark requests erased") as connection:
            rows = connection.execute(
                "SELECT seq, kind, outcome FROM requests WHERE cycle = ? AND state = 'erasing'", (cycle,)
            ).fetchall()
            self._move([seq for seq, kind, _ in rows if kind != "anonymisation"], "erased")
            self._move([seq for seq, kind, _ in rows if kind == "anonymisation"], "anonymised")
            self._clear_ids([(seq, outcome) for seq, _, outcome in rows], time.time())
            self._mark_erased()
            connection.execute(
                "UPDATE cycles SET state = 'finished', record = ? WHERE cycle = ?",
                (msgspec.json.encode(record), cycle),
            )
        return len(rows)

    def note_scan(self, cycle: int, scan: Mapping[str, Any]) -> None:
        """Add to a cycle's record what the search for remains found; JSON-ready."""
        record = {**self.cycle(cycle).record, "scan": scan}
        with self._transaction("note a scan") as connection:
            connection.execute(
                "UPDATE cycles SET record = ? WHERE cycle = ?", (msgspec.json.encode(record), cycle)
            )

    def abandon_cycle(self, cycle: int) -> None:
        """Drop a cycle that did not publish: its requests wait again."""
        with self._transaction("abandon a cycle") as connection:
            rows = connection.execute(
                "SELECT seq FROM requests WHERE cycle = ? AND state = 'erasing'", (cycle,)
            ).fetchall()
            self._move([seq for (seq,) in rows], "fenced")
            connection.execute("UPDATE requests SET cycle = NULL, outcome = NULL WHERE cycle = ?", (cycle,))
            connection.execute("DELETE FROM cycles WHERE cycle = ?", (cycle,))

    def unfinished_cycles(self) -> list[Cycle]:
        """Return the cycles that a crash may have cut off, oldest first."""
        rows = self._connection.execute(
            "SELECT cycle, version, state, record FROM cycles WHERE state != 'finished' ORDER BY cycle"
        )
        return [_cycle(*row) for row in rows]

    def cycle(self, cycle: int) -> Cycle:
        """Return one cycle with its record."""
        row = self._connection.execute(
            "SELECT cycle, version, state, record FROM cycles WHERE cycle = ?", (cycle,)
        ).fetchone()
        if row is None:
            raise LedgerError(f"{self._path} knows no cycle {cycle}")
        return _cycle(*row)

    def subjects(self, cycle: int) -> list[tuple[str, str | None]]:
        """Return the clear (user id, item id or None) of the requests of a cycle that is not finished."""
        return self._connection.execute(
            "SELECT user_id, item_id FROM requests JOIN open_ids USING (seq) "
            "WHERE cycle = ? AND state = 'erasing'",
            (cycle,),
        ).fetchall()

    def waiting_users(self) -> set[str]:
        """Return the clear ids of users with a request that is not done: the ledger holds them still."""
        rows = self._connection.execute("SELECT DISTINCT user_id FROM open_ids")
        return {user for (user,) in rows}

    def published_version(self) -> int:
        """Return the newest version that an erasure was published in; 0 if there is none."""
        row = self._connection.execute("SELECT max(version) FROM cycles WHERE state != 'open'").fetchone()
        return int(row[0] or 0)

    def fail(self, seq: int, reason: str) -> bool:
        """Mark a request that a model could not forget. ``reason`` must not name anybody.

        Returns
        -------
        False if it was taken back meanwhile: then it is no duty any more.
        """
        with self._transaction("mark a request failed") as connection:
            if seq in self.taken_back(seq):
                return False
            self._move([seq], "failed")
            connection.execute(
                "UPDATE requests SET reason = ?, cycle = NULL, outcome = NULL WHERE seq = ?", (reason, seq)
            )
        return True

    def retry_failed(self) -> int:
        """Put failed requests back among those that wait; returns how many."""
        with self._transaction("retry failed requests") as connection:
            rows = connection.execute("SELECT seq FROM requests WHERE state = 'failed'").fetchall()
            self._move([seq for (seq,) in rows], "fenced")
        return len(rows)


def _request(
    kind: str, request_id: str, user_id: str, item_id: str | None, requested_at: float | None
) -> Request:
    at = None if requested_at is None else datetime.fromtimestamp(requested_at, UTC)
    if kind == InteractionRemoval.kind and item_id is not None:
        return InteractionRemoval(request_id, user_id, item_id, at)
    kinds: Mapping[str, type[AccountDeletion | Anonymisation | Readmission]] = {
        each.kind: each for each in (AccountDeletion, Anonymisation, Readmission)
    }
    return kinds[kind](request_id, user_id, at)


def _cycle(cycle: int, version: int, state: str, record: bytes | None) -> Cycle:
    return Cycle(cycle, version, state, msgspec.json.decode(record) if record else {})
