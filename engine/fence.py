"""The fence: keyed hashes that outlive erased ids, and the look-up that stops serving at once."""

import hashlib
import os
import secrets
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import durable
from .ledger_connection import check_pages, close_untouched, connect, read_noted
from .ledger_count import check_not_older, read_count
from .ledger_schema import FENCE_KEY, TRANSACTIONS
from .requests import ExternalId, canonical_id
from .state import StateError, StatePaths, read_secret

_KEY_BYTES = 32


class FenceKey:
    """The key of the hashes by which the ledger and the receipts know erased users.

    Without the key a hash says nothing; with it, a guessed id can be checked. It may be destroyed one day:
    then late events can no longer be fenced, and nobody can be looked up any more.

    Examples
    --------
    >>> key = FenceKey(bytes(32))
    >>> key.user(42) == key.user("42"), key.user("42") == key.pair("42", "7")
    (True, False)
    """

    def __init__(self, secret: bytes, path: Path | None = None) -> None:
        if len(secret) != _KEY_BYTES:
            raise StateError(
                f"{path or 'a fence key'} must have {_KEY_BYTES} bytes, not {len(secret)}; "
                "restore it from a backup"
            )
        self._secret, self._path = secret, path
        self._keyed: dict[bytes, hashlib.blake2b] = {}

    @classmethod
    def create(cls, paths: StatePaths) -> "FenceKey":
        """Load the state's key, or make one (mode 0600) if it has none."""
        if not paths.fence_key.exists():
            durable.make_directory(paths.keys, mode=0o700)
            durable.create_bytes(paths.fence_key, secrets.token_bytes(_KEY_BYTES), mode=0o600)
        return cls.load(paths)

    @classmethod
    def load(cls, paths: StatePaths) -> "FenceKey":
        """Load the state's key.

        Raises
        ------
        StateError
            It is missing or not a key: without it erased users cannot be recognised.
        """
        try:
            return cls(read_secret(paths.fence_key), paths.fence_key)
        except FileNotFoundError:
            raise StateError(
                f"{paths.fence_key} is missing: without it erased users cannot be recognised; "
                "restore it from a backup"
            ) from None

    def user(self, user_id: ExternalId) -> bytes:
        """Hash a user's id: 32 bytes."""
        return self._hash(b"user", canonical_id(user_id))

    def pair(self, user_id: ExternalId, item_id: ExternalId) -> bytes:
        """Hash one interaction of a user: 32 bytes."""
        return self._hash(b"pair", canonical_id(user_id), canonical_id(item_id))

    def request(self, request_id: str) -> bytes:
        """Hash the id of a request, which may give away whose it is: 32 bytes."""
        return self._hash(b"request", request_id)

    def setting(self, name: str, value: str) -> bytes:
        """Hash a setting of the configuration, which may be a secret: 32 bytes."""
        return self._hash(b"setting", name, value)

    def check_value(self) -> bytes:
        """Return what the ledger notes of the key, and what tells nothing of it: 32 bytes."""
        return self._hash(b"check")

    def check(self, noted: bytes | None) -> None:
        """Compare the key with what the ledger noted of it.

        Raises
        ------
        StateError
            It is another key: no erased user would be recognised by it.
        """
        if noted != self.check_value():
            raise StateError(
                f"{self._path or 'the fence key'} is damaged, or not the key that the ledger was made with: "
                "whoever is erased or fenced would be served again; restore it from a backup"
            )

    def _hash(self, domain: bytes, *parts: str) -> bytes:
        keyed = self._keyed.get(domain)
        if keyed is None:
            keyed = hashlib.blake2b(key=self._secret, person=domain, digest_size=32)
            self._keyed[domain] = keyed
        digest = keyed.copy()  # half the time of making one
        for part in parts:
            content = part.encode()
            digest.update(len(content).to_bytes(8, "big") + content)  # no two lists of parts: the same bytes
        return digest.digest()


class Fence:
    """Who must not be served any more: one indexed look-up in the ledger, never cached, so never stale.

    A user is fenced from the moment their request is durable in the ledger, in whatever process it was
    recorded. Thread-safe, and safe in a process that was forked off: a look-up takes some ten microseconds.
    A ledger that was put in the place of another one, as a restored backup is, is the one that is asked.
    """

    def __init__(self, state_dir: str | Path) -> None:
        """Open the fence of a state directory for reading.

        Raises
        ------
        StateError
            There is no ledger or no fence key.
        """
        paths = StatePaths(Path(state_dir))
        self._key = FenceKey.load(paths)
        self._ledger = paths.ledger.absolute()
        self._forked_from: list[_Connected] = []
        self._connected = _Connected(self._ledger, self._key)

    def is_fenced(self, user_id: ExternalId) -> bool:
        """Tell whether an account deletion of ``user_id`` was ever recorded."""
        try:
            subject = self._key.user(user_id)
        except (TypeError, ValueError):  # no id at all, so nobody's
            return False
        # One row either way: a third of a microsecond more for somebody who is there would tell who was.
        ((fenced,),) = self._select("SELECT EXISTS (SELECT 1 FROM fence WHERE subject = ?)", subject)
        return bool(fenced)

    def without_fenced(self, user_ids: Sequence[ExternalId]) -> list[ExternalId]:
        """Return the users who are not fenced, in order."""
        fenced = {subject for (subject,) in self._select("SELECT subject FROM fence WHERE kind = 'account'")}
        return [user for user in user_ids if not fenced or self._key.user(user) not in fenced]

    def published_version(self) -> int:
        """Return the newest version that an erasure was published in; an older one must not be served."""
        ((newest,),) = self._select("SELECT max(version) FROM cycles WHERE state != 'open'")
        return int(newest or 0)

    def close(self) -> None:
        """Release the ledger."""
        self._connected.close()

    def _select(self, statement: str, *parameters: bytes) -> list[tuple[Any, ...]]:
        connected = self._connected
        if connected.process != os.getpid():
            # SQLite forbids using a connection across a fork, and even closing it: it is kept, unused.
            self._forked_from.append(connected)
            connected = self._connected = _Connected(self._ledger, self._key)
        with connected.lock:
            if connected.file != _identity_of(self._ledger) and connected is self._connected:
                self._connected = _Connected(self._ledger, self._key)
                connected.connection.close()
            if connected is self._connected:
                return connected.connection.execute(statement, parameters).fetchall()
        return self._select(statement, *parameters)


class _Connected:
    """A connection to the ledger, the process it may be used in, the lock under which, and to which file."""

    def __init__(self, ledger: Path, key: FenceKey) -> None:
        self.process, self.lock = os.getpid(), threading.Lock()
        self.file = _identity_of(ledger)
        if self.file is None:
            raise StateError(
                f"{ledger} is missing, which says who must not be served; restore it from a backup, "
                f"or is {ledger.parent} no state directory?"
            )
        counted = read_count(ledger)
        self.connection = connect(ledger)
        try:
            self.connection.execute("PRAGMA query_only=ON")
            check_pages(self.connection)
            noted = read_noted(self.connection)
            key.check(noted[FENCE_KEY])
            check_not_older(ledger, noted[TRANSACTIONS], counted)
        except BaseException:
            close_untouched(self.connection)
            raise

    def close(self) -> None:
        """Close it where it may be: not in a process that was forked off."""
        if self.process == os.getpid():
            with self.lock:
                self.connection.close()


def _identity_of(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from another one of its name: device and inode; None: it is not there."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
