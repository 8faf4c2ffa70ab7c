"""The ledger's dead letters: records that could not be read as a request, duties that are not fulfilled."""

from collections.abc import Collection
from typing import TypeAlias

from .ledger_connection import Connection
from .ledger_file import LedgerFile
from .ledger_records import DeadLetter

Coordinates: TypeAlias = tuple[str, int]
"""Partition and offset of a record."""


class Letters(LedgerFile):
    """What was set aside and waits for somebody; the bytes are where the source keeps them."""

    def open_letters(self, source: str) -> dict[Coordinates, DeadLetter]:
        """Return the dead letters of ``source``, in the order of their coordinates."""
        rows = self._connection.execute(
            "SELECT partition, offset, reason FROM dead_letters WHERE source = ? ORDER BY partition, offset",
            (source,),
        )
        return {(partition, offset): DeadLetter(partition, offset, why) for partition, offset, why in rows}

    def close_letters(self, source: str, coordinates: Collection[Coordinates]) -> int:
        """Note that somebody found these records to ask for nothing; returns how many were open."""
        with self._transaction("close dead letters") as connection:
            return close_letters(connection, source, coordinates)


def close_letters(connection: Connection, source: str, coordinates: Collection[Coordinates]) -> int:
    """Take dead letters off the ledger, within a transaction."""
    before = connection.total_changes()
    connection.executemany(
        "DELETE FROM dead_letters WHERE source = ? AND partition = ? AND offset = ?",
        [(source, partition, offset) for partition, offset in coordinates],
    )
    return connection.total_changes() - before
