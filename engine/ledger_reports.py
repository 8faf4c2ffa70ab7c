"""What the ledger tells: receipts due, counts, ages, and who is fenced. It changes nothing but receipts."""

from collections.abc import Mapping

from .ledger_file import LedgerFile
from .ledger_records import DoneRequest
from .request_states import TRANSITIONS


class Reports(LedgerFile):
    """Read-outs for receipts, status, fits and verification."""

    def without_receipt(self) -> list[DoneRequest]:
        """Return the requests that are done and have no receipt yet, oldest first."""
        rows = self._connection.execute(
            "SELECT seq, request_id, kind, subject, source_partition, source_offset, requested_at, "
            "received_at, fenced_at, done_at, outcome, cycle FROM done_requests "
            "WHERE receipt IS NULL ORDER BY seq"
        )
        return [DoneRequest(*row) for row in rows]

    def last_receipt(self) -> int:
        """Return the highest place in the receipt log that is noted; -1 if there is none."""
        (last,) = self._connection.execute("SELECT max(receipt) FROM requests").fetchone()
        return -1 if last is None else int(last)

    def receipt_places(self) -> dict[int, int]:
        """Return number of the request -> place of its receipt in the log, for all that have one."""
        return dict(self._connection.execute("SELECT seq, receipt FROM requests WHERE receipt IS NOT NULL"))

    def done_count(self) -> int:
        """Return how many requests are done: each has a receipt, or is about to get one."""
        (count,) = self._connection.execute("SELECT count(*) FROM done_requests").fetchone()
        return int(count)

    def note_receipts(self, indices: Mapping[int, int]) -> None:
        """Remember the receipts of requests: seq -> index in the receipt log."""
        with self._transaction("note receipts") as connection:
            connection.executemany(
                "UPDATE requests SET receipt = ? WHERE seq = ?", [(i, seq) for seq, i in indices.items()]
            )
            # What a cycle published is in its receipts now: without this the ledger grows with each cycle.
            connection.execute(
                "UPDATE cycles SET record = NULL WHERE record IS NOT NULL AND state = 'finished' "
                "AND cycle < (SELECT max(cycle) FROM cycles) AND cycle NOT IN "
                "(SELECT cycle FROM done_requests WHERE receipt IS NULL AND cycle IS NOT NULL)"
            )

    def counts(self) -> dict[str, int]:
        """Return state -> how many requests are in it (every state), and ``dead_letters``."""
        counts = dict.fromkeys(TRANSITIONS, 0)
        counts.update(self._connection.execute("SELECT state, count(*) FROM requests GROUP BY state"))
        (counts["dead_letters"],) = self._connection.execute("SELECT count(*) FROM dead_letters").fetchone()
        return counts

    def oldest_pending(self) -> float | None:
        """Return when the oldest request that is not erased yet was received: Unix seconds."""
        oldest: float | None
        (oldest,) = self._connection.execute("SELECT min(received_at) FROM open_requests").fetchone()
        return oldest

    def oldest_waiting(self) -> float | None:
        """Return when the oldest request that a batch may take up was received: Unix seconds."""
        oldest: float | None
        (oldest,) = self._connection.execute(
            "SELECT min(received_at) FROM requests WHERE state = 'fenced'"
        ).fetchone()
        return oldest

    def oldest_asked(self) -> float | None:
        """Return when the oldest open duty was asked, or came where that is not known; Unix seconds."""
        oldest: float | None
        (oldest,) = self._connection.execute(
            "SELECT min(at) FROM (SELECT min(coalesce(requested_at, received_at), received_at) AS at "
            "FROM open_requests UNION ALL SELECT at FROM dead_letters)"
        ).fetchone()
        return oldest

    def overdue(self, since: float) -> int:
        """Return how many open requests and dead letters are of ``since`` (Unix seconds) or older."""
        (count,) = self._connection.execute(
            "SELECT (SELECT count(*) FROM open_requests "
            "WHERE min(coalesce(requested_at, received_at), received_at) <= ?1) + "
            "(SELECT count(*) FROM dead_letters WHERE at <= ?1)",
            (since,),
        ).fetchone()
        return int(count)

    def waiting_for_stores(self) -> int:
        """Return how many requests are published here, and not confirmed by every store yet."""
        (count,) = self._connection.execute(
            "SELECT count(*) FROM requests JOIN cycles USING (cycle) "
            "WHERE requests.state = 'erasing' AND cycles.state = 'published'"
        ).fetchone()
        return int(count)

    def failures(self) -> list[tuple[str, str]]:
        """Return (request id, reason) of each failed request."""
        return self._connection.execute(
            "SELECT open_ids.request_id, reason FROM requests JOIN open_ids USING (seq) "
            "WHERE state = 'failed' ORDER BY seq"
        ).fetchall()

    def timings(self, since_seq: int = 0) -> list[tuple[str, float, float, float]]:
        """Return (request id, received, fenced, erased) of erased requests after ``since_seq``."""
        return self._connection.execute(
            "SELECT request_id, received_at, fenced_at, done_at FROM requests "
            "WHERE state = 'erased' AND seq > ? ORDER BY seq",
            (since_seq,),
        ).fetchall()

    def texts(self) -> list[str]:
        """Return every text that the ledger holds of requests that are done: no id must be among them."""
        rows = self._connection.execute(
            "SELECT request_id, reason FROM requests WHERE seq NOT IN (SELECT seq FROM open_ids)"
        )
        return [text for row in rows for text in row if text]
