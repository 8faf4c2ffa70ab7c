"""The ledger's fence: put up with a request, and lowered only by taking it back or by a re-admission."""

import time

from .ledger_file import LedgerFile


class LedgerFence(LedgerFile):
    """Who and what is kept out, as keyed hashes."""

    def _mark_erased(self) -> None:
        """Note of whom nothing may be left: no request of theirs is open, no id of theirs known."""
        self._connection.execute(
            "UPDATE fence SET erased = 1 WHERE erased = 0 AND owner NOT IN (SELECT owner FROM fence "
            "WHERE subject IN (SELECT subject FROM requests WHERE seq IN (SELECT seq FROM open_ids)))"
        )

    def admit(self) -> int:
        """Carry out the re-admissions that wait for no earlier request of their user; returns how many.

        The fence of the user's account, and those of their single interactions, come down as far as they
        were put up before the re-admission. Where the fence was put up later only, or not at all, nothing
        happens; where the deletion was asked later than the re-admission, it is refused.
        """
        if not self._admissible():
            return 0
        count = 0
        with self._transaction("admit users again"):
            while waiting := self._admissible():
                outcomes = [(row[0], self._admit(*row)) for row in waiting]
                for seq, outcome in outcomes:
                    self._move([seq], "refused" if outcome == "refused" else "admitted")
                self._clear_ids(outcomes, time.time())
                count += len(waiting)
            self._mark_erased()
        return count

    def _admissible(self) -> list[tuple[int, bytes, float | None, float]]:
        """Find the first waiting re-admission of each user without an earlier open request."""
        return self._connection.execute(
            "SELECT seq, subject, requested_at, received_at FROM requests JOIN open_ids AS asked USING (seq) "
            "WHERE state = 'received' AND NOT EXISTS (SELECT 1 FROM open_ids AS earlier "
            "WHERE earlier.user_id = asked.user_id AND earlier.seq < asked.seq) ORDER BY seq"
        ).fetchall()

    def _admit(self, seq: int, subject: bytes, asked: float | None, received: float) -> str:
        row = self._connection.execute("SELECT first FROM fence WHERE subject = ?", (subject,)).fetchone()
        if row is None or row[0] > seq:
            return "nothing"
        (deleted,) = self._connection.execute(
            "SELECT max(requested_at) FROM requests WHERE seq BETWEEN ? AND ? AND subject = ? "
            "AND kind != 'readmission' AND state != 'cancelled'",
            (row[0], seq, subject),
        ).fetchone()
        if asked is not None and deleted is not None and asked <= deleted:
            return "refused"
        self._connection.execute(
            "INSERT OR REPLACE INTO admissions VALUES (?, ?, ?)",
            (subject, seq, received if asked is None else asked),
        )
        self._lower_fence(subject)
        self._connection.execute(
            "DELETE FROM fence WHERE owner = ? AND last < ? AND kind = 'interaction'", (subject, seq)
        )
        return "readmitted"

    def _lower_fence(self, subject: bytes) -> None:
        """Set the fence of a subject to what its requests say that stand.

        Those that were neither taken back nor answered by a re-admission. O(requests since then).
        """
        row = self._connection.execute("SELECT owner FROM fence WHERE subject = ?", (subject,)).fetchone()
        if row is None:
            return
        first, last = self._connection.execute(
            "SELECT min(seq), max(seq) FROM requests WHERE subject = ?1 AND state != 'cancelled' "
            "AND kind != 'readmission' "
            "AND seq > coalesce((SELECT seq FROM admissions WHERE subject = ?2), 0)",
            (subject, row[0]),
        ).fetchone()
        if first is None:
            self._connection.execute("DELETE FROM fence WHERE subject = ?", (subject,))
        else:
            self._connection.execute(
                "UPDATE fence SET first = ?, last = ? WHERE subject = ?", (first, last, subject)
            )

    def fenced_users(self, *, erased_only: bool = False) -> set[bytes]:
        """Return the keyed hashes of users whose account is fenced, or only of those who are erased."""
        rows = self._connection.execute(
            "SELECT subject FROM fence WHERE kind = 'account' AND erased >= ?", (int(erased_only),)
        )
        return {subject for (subject,) in rows}

    def to_be_anonymised(self) -> set[bytes]:
        """Return the keyed hashes of users fenced by a waiting anonymisation alone: their rows stay."""
        rows = self._connection.execute(
            "SELECT subject FROM fence WHERE first IN "
            "(SELECT seq FROM open_requests WHERE kind = 'anonymisation') "
            "AND subject NOT IN (SELECT subject FROM open_requests WHERE kind = 'account')"
        )
        return {subject for (subject,) in rows}

    def fenced_pairs(self, *, erased_only: bool = False) -> tuple[set[bytes], set[bytes]]:
        """Return the keyed hashes of fenced single interactions, and those of the users they belong to."""
        rows = self._connection.execute(
            "SELECT subject, owner FROM fence WHERE kind = 'interaction' AND erased >= ?", (int(erased_only),)
        ).fetchall()
        return {subject for subject, _ in rows}, {owner for _, owner in rows}

    def admitted_since(self) -> dict[bytes, float]:
        """Return keyed hash of a user who was admitted again -> since when, Unix seconds."""
        return dict(self._connection.execute("SELECT subject, since FROM admissions"))
