"""The published version in every store that ``[[export]]`` names, and the proof that nothing else is there.

For each version, and at each start, a store is asked what it holds, and nothing is believed from memory: so a
push that was cut off, a store that was set back, and one that was added since, all end with the published
version alone.
"""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self, TypeAlias

import msgspec

from . import durable
from .closable import Closable
from .exporters.protocol import StoreError, StoreSettings, VectorStore
from .exporters.registry import open_store, store_settings
from .exporters.vectors import VersionVectors, digest_of, read_vectors
from .state import StatePaths
from .version import read_current, read_manifest

_FIRST_WAIT, _LONGEST_WAIT = 1.0, 300.0
_log = logging.getLogger(__name__)


class Confirmation(msgspec.Struct, frozen=True):
    """What a store was found to hold, for receipts.

    Attributes
    ----------
    name, kind : of the store.
    version : the only one that it holds.
    users, items : how many vectors.
    vectors_sha256 : over what was read back from it, equal to that of the published version.
    confirmed : when, RFC 3339.
    files : what was done about the server's own files.
    """

    name: str
    kind: str
    version: int
    users: int
    items: int
    vectors_sha256: str
    confirmed: str
    files: dict[str, str]


Confirm: TypeAlias = Callable[[], Sequence[Confirmation] | None]
"""What :meth:`Delivery.confirm` is: None while a store has not confirmed."""


@dataclass(frozen=True)
class _Target:
    settings: StoreSettings
    store: VectorStore


class Delivery(Closable):
    """Keeps the stores of a state at its published version.

    Attributes
    ----------
    errors : store -> why it has not confirmed the published version; empty when all have.
    """

    def __init__(self, paths: StatePaths, targets: Sequence[_Target]) -> None:
        self.errors: dict[str, str] = {}
        self._paths, self._targets = paths, targets
        self._confirmed: dict[str, tuple[str, Confirmation]] = {}
        self._wait, self._not_before = 0.0, 0.0

    @classmethod
    def of(cls, paths: StatePaths) -> Self:
        """Make the connections that the state's config.toml asks for; none is used yet.

        Raises
        ------
        StateError
            A store cannot be meant as it is written, or its driver is not installed.
        """
        return cls(paths, [_Target(one, open_store(one)) for one in store_settings(paths)])

    @property
    def is_due(self) -> bool:
        """Whether a store waits for the published version, and it is time to try again."""
        return bool(self._targets) and not self._has_all() and time.monotonic() >= self._not_before

    def confirm(self) -> list[Confirmation] | None:
        """Bring the published version to every store, and nothing else; None until all confirm.

        A store that does not is an error in the log, and is tried again when :attr:`is_due` says so: after a
        second, and twice as long each time, up to five minutes.
        """
        if not self._targets:
            return []
        if self.is_due:
            self._try_all()
        return [found for _, found in self._confirmed.values()] if self._has_all() else None

    @staticmethod
    def later(paths: StatePaths) -> Confirm:
        """Stand in where nothing is to be delivered, as in a fit: no store confirms, if there is any."""
        return lambda: None if store_settings(paths) else []

    def close(self) -> None:
        """Close the connections; all, whatever one raises."""
        with ExitStack() as held:
            for target in self._targets:
                held.callback(target.store.close)

    def _has_all(self) -> bool:
        _, digest = read_current(self._paths)
        return all(self._has(target, digest) for target in self._targets)

    def _has(self, target: _Target, digest: str) -> bool:
        return self._confirmed.get(target.settings.name, ("", None))[0] == digest

    def _try_all(self) -> None:
        number, digest = read_current(self._paths)
        vectors = read_vectors(self._paths, read_manifest(self._paths, number, digest), digest)
        expected = digest_of(vectors.blocks)
        self.errors = {}
        for target in self._targets:
            name = target.settings.name
            try:
                if not self._has(target, digest):
                    self._confirmed[name] = (digest, _delivered(target, vectors, expected))
            except StoreError as error:
                self.errors[name] = str(error)
        self._wait = min(_LONGEST_WAIT, max(_FIRST_WAIT, 2 * self._wait)) if self.errors else 0.0
        self._not_before = time.monotonic() + self._wait
        for said in self.errors.values():
            _log.error("%s; requests wait for it, next try in %.0f s", said, self._wait)


def check_stores(paths: StatePaths) -> dict[str, str]:
    """Ask every store whether it holds the published version and nothing else, and change nothing.

    A store that a worker is about to push to is behind for a moment.

    Returns
    -------
    Name of the store -> what is wrong; empty if nothing is.

    Raises
    ------
    StateError
        Nothing is published, or a store cannot be meant as it is written in config.toml.
    """
    number, digest = read_current(paths)
    vectors = read_vectors(paths, read_manifest(paths, number, digest), digest)
    expected = digest_of(vectors.blocks)
    found = {}
    for settings in store_settings(paths):
        with closing(open_store(settings)) as store:
            try:
                found[settings.name] = _wrong(_Target(settings, store), vectors, expected)
            except StoreError as error:
                found[settings.name] = str(error)
    return found


def _wrong(target: _Target, vectors: VersionVectors, expected: str) -> str:
    """Say what a store holds else than a version, whose digest of vectors is expected; empty if nothing."""
    store, name = target.store, target.settings.name
    if others := store.others():
        return f"store {name} has {len(others)} of other versions, as {others[0]}"
    if store.held() != vectors.manifest_sha256:
        return f"store {name} does not have version {vectors.version}"
    if digest_of(store.read()) != expected:
        return f"store {name} has other vectors than those of version {vectors.version}"
    return ""


def _gives_back(store: VectorStore, expected: str) -> bool:
    try:
        return digest_of(store.read()) == expected
    except StoreError:  # what is no vector at all; and if it does not answer, the push will say so
        return False


def _delivered(target: _Target, vectors: VersionVectors, expected: str) -> Confirmation:
    """Bring a version to one store, erase every other there, and read back what it holds.

    Parameters
    ----------
    expected : the digest of the version's vectors.

    Raises
    ------
    StoreError
        It does not answer, or holds something else afterwards.
    """
    store, settings = target.store, target.settings
    started = time.perf_counter()
    if store.held() != vectors.manifest_sha256:
        store.push(vectors)
    elif not _gives_back(store, expected):
        _log.error("store %s does not hold what was pushed to it; it is pushed again", settings.name)
        store.push(vectors)
    durable.reached(f"version {vectors.version} is in {settings.name}")
    files = store.purge()
    durable.reached(f"{settings.name} is purged")
    if wrong := _wrong(target, vectors, expected):
        raise StoreError(f"{wrong}: does something else write there?")
    taken = time.perf_counter() - started
    _log.info("version %d is in %s, and nothing else: %.2f s", vectors.version, settings.name, taken)
    return Confirmation(
        settings.name,
        settings.kind,
        vectors.version,
        vectors.count("users"),
        vectors.count("items"),
        expected,
        datetime.now(UTC).isoformat(timespec="microseconds"),
        dict(files),
    )
