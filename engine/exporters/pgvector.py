"""A version in PostgreSQL with pgvector: a table for each version, a view that names the one to read.

::

    SCHEMA.vectors                (model text, side text, id text, embedding vector): the view to read
    SCHEMA.current                one row: label, version, manifest_sha256
    SCHEMA.vectors_LABEL          the table of one version

A table is filled, named by the view, and noted, in one transaction; the one before is dropped, not emptied:
a deleted row stays in the pages of its table, a dropped table's file is gone when the transaction ends.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any, LiteralString, cast

import numpy as np
import psycopg
from psycopg import sql

from .. import durable
from .protocol import StoreError, StoreSettings
from .vectors import Block, Side, VersionVectors, block_of

_COLUMNS = ("text", "text", "text", "bytea")  # a vector in binary: int16 size, int16 0, float4s, big-endian
_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,40}")
_OPTIONS = frozenset({"schema", "username", "unlogged", "lock_timeout"})


class PgVectorStore:
    """One connection to PostgreSQL.

    Options: ``schema`` (``recunlearn``), for one state alone; ``username``; ``unlogged = true``: vectors are
    not written to the write-ahead log, so standbys have none, and after a crash of the server they are pushed
    again; ``lock_timeout``: seconds (2) to wait for a transaction that still reads an old version, while
    other readers wait behind.
    """

    def __init__(self, settings: StoreSettings) -> None:
        options = settings.options
        settings.refuse_others(_OPTIONS)
        self._settings, self._name = settings, settings.name
        self._schema = str(options.get("schema", "recunlearn"))
        if not _SCHEMA.fullmatch(self._schema):
            raise StoreError(
                f"[[export]] {settings.name}: schema {self._schema!r}: small letters, digits and _ only"
            )
        self._unlogged = bool(options.get("unlogged", False))
        self._lock_timeout = float(options.get("lock_timeout", 2.0))
        self._open: psycopg.Connection[Any] | None = None

    def held(self) -> str | None:
        """Return the digest in ``current``."""
        with self._answered():
            row = self._connection().execute(self._sql("SELECT manifest_sha256 FROM {current}")).fetchone()
            return None if row is None else str(row[0])

    def push(self, vectors: VersionVectors) -> None:
        """Fill a table, and lead the view to it, in one transaction."""
        with self._answered():
            connection, label = self._connection(), vectors.label
            with connection.transaction():
                if f"vectors_{label}" in [name for names in self._tables() for name in names]:
                    connection.execute(self._sql("TRUNCATE {table}", label))  # of something else
                else:
                    self._make_table(connection, label)
                self._copy(connection, vectors)
                durable.reached(f"lead readers of {self._name} to {label}")
                self._lead_to(connection, vectors)
            durable.reached(f"readers of {self._name} are led to {label}")

    def purge(self) -> Mapping[str, str]:
        """Drop the tables of other versions, and let a checkpoint remove their files."""
        with self._answered():
            connection = self._connection()
            for name in self._tables()[1]:
                connection.execute(self._sql("DROP TABLE {table}", name.removeprefix("vectors_")))
                durable.reached(f"a table is dropped in {self._name}")
            row = connection.execute(
                "SELECT bool_or(pg_has_role(oid, 'USAGE')) FROM pg_roles WHERE rolname = 'pg_checkpoint'"
            ).fetchone()
            if row is not None and row[0]:  # without the right to, the server's next one does it
                connection.execute("CHECKPOINT")
            kept = "none" if self._unlogged else "kept by the server until it is recycled or archived"
            return {"tables": "dropped", "write-ahead log": kept}

    def read(self) -> Sequence[Block]:
        """Copy the whole view out."""
        with self._answered():
            connection = self._connection()
            if not self._tables()[0]:
                return []
            statement = self._sql(
                "COPY (SELECT model, side, id, embedding FROM {view} ORDER BY model, side, id) "
                "TO STDOUT (FORMAT binary)"
            )
            with connection.cursor() as cursor, cursor.copy(statement) as copy:
                copy.set_types(_COLUMNS)
                rows = [cast(tuple[str, Side, str, bytes], row) for row in copy.rows()]
            return [
                block_of(model, side, [(text, _little_endian(content)) for _, _, text, content in own])
                for (model, side), own in groupby(rows, key=lambda row: row[:2])
            ]

    def others(self) -> Sequence[str]:
        """Name the tables that are not the current version's."""
        with self._answered():
            return self._tables()[1]

    def close(self) -> None:
        """Close the connection."""
        if self._open is not None:
            self._open.close()
            self._open = None

    @contextmanager
    def _answered(self) -> Iterator[None]:
        """Tell an error without what PostgreSQL quotes: it may be an id."""
        try:
            yield
        except (psycopg.Error, ValueError, OSError) as error:
            self.close()  # whatever state it is in: the next call connects anew
            raise StoreError(f"store {self._name}: {_said(error)}") from None

    def _connection(self) -> psycopg.Connection[Any]:
        if self._open is None or self._open.closed:
            self._open = psycopg.connect(
                self._settings.url,
                user=self._settings.options.get("username"),
                password=self._settings.password,
                connect_timeout=5,
                application_name="recunlearn",
                autocommit=True,
            )
            self._open.execute("SELECT set_config('lock_timeout', %s, false)", (f"{self._lock_timeout:g}s",))
            self._prepare(self._open)
        return self._open

    def _prepare(self, connection: psycopg.Connection[Any]) -> None:
        """Make the extension, the schema and the table ``current``, where they are not there."""
        made = connection.execute("SELECT to_regclass(%s)", (f"{self._schema}.current",)).fetchone()
        if made is not None and made[0] is not None:
            return
        with connection.transaction():
            connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
            connection.execute(self._sql("CREATE SCHEMA IF NOT EXISTS {schema}"))
            connection.execute(
                self._sql(
                    "CREATE TABLE {current} (one boolean PRIMARY KEY DEFAULT true CHECK (one), "
                    "label text NOT NULL, version bigint NOT NULL, manifest_sha256 text NOT NULL)"
                )
            )

    def _sql(self, text: LiteralString, label: str = "") -> sql.Composed:
        return sql.SQL(text).format(
            schema=sql.Identifier(self._schema),
            current=sql.Identifier(self._schema, "current"),
            view=sql.Identifier(self._schema, "vectors"),
            table=sql.Identifier(self._schema, f"vectors_{label}"),
            kind=sql.SQL("UNLOGGED TABLE" if self._unlogged else "TABLE"),
        )

    def _make_table(self, connection: psycopg.Connection[Any], label: str) -> None:
        connection.execute(
            self._sql(
                'CREATE {kind} {table} (model text, side text, id text COLLATE "C", '
                "embedding vector NOT NULL, PRIMARY KEY (model, side, id))",
                label,
            )
        )
        # No statistics: ANALYZE would copy ids and vectors into a catalogue that is never dropped.
        for column in ("id", "embedding"):
            connection.execute(
                self._sql("ALTER TABLE {table} ALTER COLUMN ", label)
                + sql.Identifier(column)
                + sql.SQL(" SET STATISTICS 0")
            )

    def _copy(self, connection: psycopg.Connection[Any], vectors: VersionVectors) -> None:
        statement = self._sql("COPY {table} FROM STDIN (FORMAT binary)", vectors.label)
        with connection.cursor() as cursor, cursor.copy(statement) as copy:
            copy.set_types(_COLUMNS)
            for block in vectors.blocks:
                size = block.vectors.shape[1].to_bytes(2, "big") + b"\0\0"
                for text, row in zip(block.ids, block.vectors.astype(">f4"), strict=True):
                    copy.write_row((block.model, block.side, text, size + row.tobytes()))

    def _lead_to(self, connection: psycopg.Connection[Any], vectors: VersionVectors) -> None:
        connection.execute(
            self._sql(
                "CREATE OR REPLACE VIEW {view} AS SELECT model, side, id, embedding FROM {table}",
                vectors.label,
            )
        )
        connection.execute(
            self._sql(
                "INSERT INTO {current} (label, version, manifest_sha256) VALUES (%s, %s, %s) "
                "ON CONFLICT (one) DO UPDATE SET label = excluded.label, version = excluded.version, "
                "manifest_sha256 = excluded.manifest_sha256"
            ),
            (vectors.label, vectors.version, vectors.manifest_sha256),
        )

    def _tables(self) -> tuple[list[str], list[str]]:
        """Return the tables of the current version (one, or none) and of others."""
        connection = self._connection()
        current = connection.execute(self._sql("SELECT label FROM {current}")).fetchone()
        own = f"vectors_{current[0]}" if current else ""
        rows = connection.execute(
            "SELECT tablename FROM pg_tables WHERE schemaname = %s "
            "AND tablename ~ '^vectors_[0-9]+_[0-9a-f]{12}$' ORDER BY 1",
            (self._schema,),
        ).fetchall()
        names = [str(name) for (name,) in rows]
        return [name for name in names if name == own], [name for name in names if name != own]


def _little_endian(content: bytes) -> bytes:
    """Turn pgvector's binary form into little-endian float32s."""
    return np.frombuffer(content, dtype=">f4", offset=4).astype("<f4").tobytes()


def _said(error: Exception) -> str:
    """Say what is wrong, and the way out; of an error about data (classes 22, 23) no more than its name."""
    state: str = getattr(error, "sqlstate", None) or ""
    if not state:
        return str(error).strip().partition("\n")[0]
    message = cast(psycopg.Error, error).diag.message_primary
    told = type(error).__name__ if state[:2] in ("22", "23") else message
    return f"PostgreSQL: {told} ({state}){_WAYS_OUT.get(state, '')}"


_WAYS_OUT: Mapping[str, str] = {
    "42501": "; grant the role CREATE on the database, or make the schema and the extension for it",
    "0A000": "; install pgvector on the server",
    "58P01": "; install pgvector on the server",
    "55P03": "; a transaction still reads an old version: end it",
    "22021": "; an id has a character that PostgreSQL's text cannot hold",
}
"""SQLSTATE -> what to do."""
