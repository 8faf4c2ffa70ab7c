"""The ledger's sources: which one the positions belong to, so that another of the same name is told apart."""

from .ledger_file import LedgerFile


class Sources(LedgerFile):
    """Who was read, beside how far."""

    def source_identity(self, source: str) -> str | None:
        """Return the identity that was noted for ``source``; None if there is none."""
        row = self._connection.execute("SELECT identity FROM sources WHERE source = ?", (source,)).fetchone()
        return None if row is None else str(row[0])

    def note_source(self, source: str, identity: str) -> None:
        """Note who ``source`` is; if it was another one before, its positions mean nothing and go."""
        with self._transaction("note a source") as connection:
            connection.execute(
                "DELETE FROM positions WHERE source = ?1 AND EXISTS "
                "(SELECT 1 FROM sources WHERE source = ?1 AND identity != ?2)",
                (source, identity),
            )
            connection.execute(
                "INSERT INTO sources VALUES (?, ?) ON CONFLICT DO UPDATE SET identity = excluded.identity",
                (source, identity),
            )
