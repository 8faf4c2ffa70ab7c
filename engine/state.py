"""The state directory: where everything is, its layout version, its settings, its one writer."""

import fcntl
import json
import os
import socket
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import tomli_w

from . import durable
from .closable import Closable

LAYOUT = 1
"""Version of the directory's layout; another one is refused, never guessed at."""


class StateError(Exception):
    """A state directory cannot be used as it is; the message names it and the way out."""


class StateInUseError(StateError):
    """Another process writes to this state directory."""


@dataclass(frozen=True, slots=True)
class StatePaths:
    """Where everything is in the state directory ``root``.

    Examples
    --------
    >>> StatePaths(Path("shop")).version(12).as_posix()
    'shop/versions/000012'
    """

    root: Path

    @property
    def config(self) -> Path:
        """Layout version, models and their settings, options."""
        return self.root / "config.toml"

    @property
    def ledger(self) -> Path:
        """The durable request ledger."""
        return self.root / "ledger.sqlite"

    @property
    def interactions(self) -> Path:
        """The system of record of what is kept: Parquet, partitioned by a hash of the user."""
        return self.root / "interactions"

    @property
    def journal(self) -> Path:
        """The embedded event source."""
        return self.root / "journal"

    @property
    def versions(self) -> Path:
        """Published versions, one directory each."""
        return self.root / "versions"

    @property
    def current(self) -> Path:
        """Which version is published: its number and the digest of its manifest."""
        return self.root / "CURRENT"

    @property
    def receipts(self) -> Path:
        """The log of signed erasure receipts."""
        return self.root / "receipts"

    @property
    def receipt_log(self) -> Path:
        """Its lines: a signed receipt, or a rotation of the key, each."""
        return self.receipts / "log.ndjson"

    @property
    def checkpoint(self) -> Path:
        """Its signed size and root."""
        return self.receipts / "checkpoint"

    @property
    def keys(self) -> Path:
        """Secret keys, for their owner only; ``keys = "/path"`` in ``[options]`` puts them elsewhere."""
        return self.root / _keys_folder(self.config)

    @property
    def fence_key(self) -> Path:
        """The key of the hashes that outlive the ids of erased users."""
        return self.keys / "fence.key"

    @property
    def receipt_key(self) -> Path:
        """The Ed25519 key that signs receipts."""
        return self.keys / "receipts.key"

    @property
    def next_receipt_key(self) -> Path:
        """The key that is about to take over, while it does."""
        return self.keys / "receipts-next.key"

    @property
    def receipt_public_key(self) -> Path:
        """Its public half: all that a third party needs."""
        return self.keys / "receipts.pub"

    @property
    def lock(self) -> Path:
        """Held by the one writer; says who that is."""
        return self.root / "lock"

    def version(self, number: int) -> Path:
        """Directory of version ``number``."""
        return self.versions / f"{number:06d}"


def _keys_folder(config: Path) -> str:
    """Read where the keys are; a configuration that cannot be read is for :func:`read_config` to refuse."""
    try:
        options = tomllib.loads(config.read_text(encoding="utf-8")).get("options", {})
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return "keys"
    return str(options.get("keys", "keys")) if isinstance(options, dict) else "keys"


def read_secret(path: Path) -> bytes:
    """Read a secret key.

    Raises
    ------
    StateError
        Anybody on the machine can read it, so it is no secret any more.
    FileNotFoundError
        It is missing.
    """
    mode = path.stat().st_mode & 0o777
    if mode & 0o007:
        raise StateError(
            f"{path} can be read or written by anybody (mode {mode:04o}): chmod 600 {path}, "
            "and if others had access to this machine, replace it"
        )
    return path.read_bytes()


@dataclass(frozen=True, slots=True)
class Config:
    """What config.toml says.

    Attributes
    ----------
    models : registry name -> the settings it is constructed with, in order; the first is the default.
    options : what can be set for the state itself.
    tables : the other tables, for who reads them: ``[format]``, ``[kafka]`` and so on.
    """

    models: Mapping[str, Mapping[str, Any]]
    options: Mapping[str, Any] = field(default_factory=dict)
    tables: Mapping[str, Any] = field(default_factory=dict)


_OWN = frozenset({"layout", "models", "options"})


def write_config(paths: StatePaths, config: Config) -> None:
    """Write config.toml durably. A setting that is None is left out: TOML has no null."""
    models = {
        name: {key: value for key, value in settings.items() if value is not None}
        for name, settings in config.models.items()
    }
    document = {"layout": LAYOUT, "options": dict(config.options), **config.tables, "models": models}
    durable.replace(paths.config, tomli_w.dumps(document).encode(), durable.SHARED)


def read_config(paths: StatePaths) -> Config:
    """Read config.toml.

    Raises
    ------
    StateError
        There is no state here, it is of another layout version, or the file cannot be read as TOML.
    """
    try:
        document = tomllib.loads(paths.config.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise StateError(
            f"{paths.root} is not a state directory (it has no config.toml); "
            f"make one with: recunlearn fit --data FILE --state {paths.root}"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise StateError(f"{paths.config} is not readable TOML ({error}); restore it from a backup") from None
    layout = document.get("layout")
    if layout != LAYOUT:
        raise StateError(
            f"{paths.config} says layout version {layout!r}, this is recunlearn for layout {LAYOUT}; "
            "use the release that wrote it, or fit a new state directory"
        )
    tables = {name: value for name, value in document.items() if name not in _OWN}
    return Config(document.get("models", {}), document.get("options", {}), tables)


class WriterLock(Closable):
    """The right to write to a state directory; held by one process at a time, given back on close.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     with WriterLock(StatePaths(Path(directory))) as lock:
    ...         lock.holder()["pid"] == os.getpid()
    True
    """

    def __init__(self, paths: StatePaths) -> None:
        """Take the lock.

        Raises
        ------
        StateInUseError
            Somebody else holds it; the message says who, where and since when.
        """
        self._path = paths.lock
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, durable.SHARED)
        self._file = os.fdopen(descriptor, "r+b", buffering=0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = self.holder()
            self._file.close()
            raise StateInUseError(
                f"{paths.root} is in use by process {holder.get('pid', '?')} on {holder.get('host', '?')} "
                f"since {holder.get('since', '?')}; one writer at a time: stop it, or wait for its end"
            ) from None
        self._write(
            {
                "pid": os.getpid(),
                "host": socket.gethostname(),
                "since": datetime.now(UTC).isoformat(timespec="seconds"),
            }
        )

    def holder(self) -> dict[str, Any]:
        """Say who holds the lock, as far as the file tells: pid, host, since."""
        try:
            holder = json.loads(self._path.read_bytes() or b"{}")
        except ValueError:
            return {}
        return holder if isinstance(holder, dict) else {}

    def close(self) -> None:
        """Give the lock back."""
        if not self._file.closed:
            self._file.truncate(0)
            self._file.close()

    def _write(self, holder: Mapping[str, Any]) -> None:
        # Advisory text for people: the lock itself is the kernel's, so nothing depends on a sync here.
        self._file.truncate(0)
        self._file.seek(0)
        self._file.write(json.dumps(holder).encode())
