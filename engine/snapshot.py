"""Immutable published versions in memory, and the reader that swaps to a new one without a pause."""

import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ..models.base import ForgettableModel, Interactions, row_of
from ..models.factorization import Factorization
from .closable import Closable
from .fence import Fence
from .files_in_use import FilesInUse
from .fold_in import fold_in, liked_row, support
from .following import Follower
from .id_index import IdIndex
from .item_index import Index, ItemIndex, build_item_index, require_index
from .requests import ExternalId
from .scheduling import Rest, no_rest, rest
from .state import StatePaths, read_config
from .version import (
    Manifest,
    VersionError,
    damaged_files,
    read_ids,
    read_manifest,
    read_models,
    read_while_current,
)

_POLL_SECONDS = 0.02
_RETRY_SECONDS = 1.0  # a damaged version is not hashed again at every look


class UnknownUserError(KeyError):
    """No such user is served: unknown, or forgotten; nobody can tell which."""

    def __str__(self) -> str:
        return f"user {self.args[0]!r} is not known"


class UnknownItemError(KeyError):
    """No such item is served."""

    def __str__(self) -> str:
        return f"item {self.args[0]!r} is not known"


class UnknownModelError(KeyError):
    """No such model is in the version."""

    def __str__(self) -> str:
        return f"there is no model {self.args[0]!r} in this version; it has {', '.join(self.args[1])}"


class Snapshot:
    """One published version: everything asked of it is answered from that version alone.

    Attributes
    ----------
    version : its number.
    manifest : all that it says about itself.
    models : names of its models; the first is the default.
    indexes : model -> the approximate index that narrows down its rankings, of those that were to have
        one; None: it would save nothing, every item is scored.

    Notes
    -----
    Thread-safe. It stays valid after the version is replaced and its files are purged; drop it then, since
    the memory it maps holds the old version until nobody uses it. A user who is fenced meanwhile is
    refused by it all the same.
    """

    def __init__(
        self,
        manifest: Manifest,
        models: dict[str, ForgettableModel],
        users: pl.Series,
        items: pl.Series,
        fence: Fence | None = None,
    ) -> None:
        self.manifest = manifest
        self.version = manifest.version
        self.models: tuple[str, ...] = tuple(models)
        self._models = models
        self.indexes: dict[str, ItemIndex | None] = {}
        self._users, self._items = IdIndex(users), IdIndex(items)
        self._fence = fence
        self._user_items: Interactions = next(iter(models.values())).user_items

    def recommend(
        self, user_id: ExternalId, N: int = 10, model: str | None = None
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Rank items for a user, without those they have.

        Parameters
        ----------
        user_id : external id; ``42`` and ``"42"`` are the same.
        N : how many items at the most.
        model : name of the model; None for the default.

        Returns
        -------
        item_ids, scores : [n <= N], best first. Ids are int64, or objects that are strings.

        Raises
        ------
        UnknownUserError
            Unknown, or forgotten, or fenced since this version was published.
        UnknownModelError
            There is no such model.
        """
        chosen = self._model(model)
        row = self._row(user_id)
        items, scores = chosen.recommend(row, None, N=N)
        return self._items.external(items), scores

    def recommend_many(
        self, user_ids: Sequence[ExternalId], N: int = 10, model: str | None = None
    ) -> list[tuple[NDArray[Any], NDArray[Any]] | None]:
        """Rank items for several users at once, in order; None for each who is not served.

        Raises
        ------
        UnknownModelError
            There is no such model.
        """
        chosen = self._model(model)
        rows = [self._find_row(user_id) for user_id in user_ids]
        known = np.array([row for row in rows if row is not None], dtype=np.int64)
        if not known.size:
            return [None] * len(rows)
        answers = iter(zip(*chosen.recommend(known, None, N=N), strict=True))
        return [None if row is None else self._external(*next(answers)) for row in rows]

    def recommend_for(
        self, item_ids: Sequence[ExternalId], N: int = 10, model: str | None = None
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Rank items for somebody who likes ``item_ids``, known or not: folded in, and nothing is kept.

        Items that this version does not have say nothing; without any that it has, nothing is ranked.

        Raises
        ------
        UnknownModelError
            There is no such model.
        """
        chosen = self._model(model)
        columns = (self._items.row(item_id) for item_id in item_ids)
        liked = np.array([column for column in columns if column is not None], dtype=np.int64)
        if not liked.size:
            return self._items.external(liked), np.zeros(0)
        items, scores = fold_in(chosen, liked_row(liked, chosen), N)
        return self._external(items[0], scores[0])

    def reasons(
        self, user_id: ExternalId, item_ids: Sequence[ExternalId], N: int = 3, model: str | None = None
    ) -> list[tuple[NDArray[Any], NDArray[Any]]]:
        """Say which of a user's items speak for each of ``item_ids``; see :func:`~.fold_in.support`.

        Returns
        -------
        For each item: ids and scores of at most ``N`` items of the user's own, the weightiest first.

        Raises
        ------
        UnknownUserError, UnknownItemError, UnknownModelError
            As :meth:`recommend` and :meth:`similar_items`.
        """
        chosen, row = self._model(model), self._row(user_id)
        columns = np.array([self._column(item_id) for item_id in item_ids], dtype=np.int64)
        found = support(chosen, row_of(self._user_items, row), columns, N)
        return [(self._items.external(items), scores) for items, scores in found]

    def similar_items(
        self, item_id: ExternalId, N: int = 10, model: str | None = None
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Rank the items most alike; as :meth:`recommend`.

        Raises
        ------
        UnknownItemError
            No user has the item.
        UnknownModelError
            There is no such model.
        """
        items, scores = self._model(model).similar_items(self._column(item_id), N=N)
        return self._items.external(items), scores

    def user_vector(self, user_id: ExternalId, model: str | None = None) -> NDArray[Any]:
        """Return a user's factors: [factors], read-only.

        Raises
        ------
        UnknownUserError
            As :meth:`recommend`.
        ValueError
            The model has no factors; ``model`` None means the first one that has.
        """
        row = self._row(user_id)
        vector: NDArray[Any] = self._factors("user_factors", model)[row]
        return vector

    def item_vector(self, item_id: ExternalId, model: str | None = None) -> NDArray[Any]:
        """Return an item's factors: [factors], read-only.

        Raises
        ------
        UnknownItemError
            No user has the item.
        ValueError
            The model has no factors; ``model`` None means the first one that has.
        """
        column = self._column(item_id)
        vector: NDArray[Any] = self._factors("item_factors", model)[column]
        return vector

    def has_user(self, user_id: ExternalId) -> bool:
        """Tell whether the user is served."""
        return self._find_row(user_id) is not None

    def has_item(self, item_id: ExternalId) -> bool:
        """Tell whether the version has the item."""
        return self._items.row(item_id) is not None

    def user_ids(self) -> list[ExternalId]:
        """Return the ids of all users of this version, ascending, fenced ones left out."""
        users: list[ExternalId] = self._users.series.to_list()
        return users if self._fence is None else self._fence.without_fenced(users)

    def index_items(self) -> None:
        """Build an approximate index for each factorisation, of the factors of this version alone."""
        for name, model in self._models.items():
            if isinstance(model, Factorization):
                model.shortlist = self.indexes[name] = build_item_index(model)

    def recalls(self) -> dict[str, float]:
        """Return the recall of each model that was to have an index; 1 where every item is scored."""
        return {name: 1.0 if index is None else index.recall for name, index in self.indexes.items()}

    def warm(self, rest: Rest = no_rest) -> None:
        """Ask each model once: what it derives or compiles at its first question, nobody then waits for."""
        if len(self._users) and len(self._items):
            for model in self._models.values():
                model.recommend(0, None)
                rest()
                model.similar_items(0)
                rest()

    def _external(self, items: NDArray[Any], scores: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Drop the padding of a batch's row, and name the items."""
        real = items >= 0
        return self._items.external(items[real]), scores[real]

    def _model(self, name: str | None) -> ForgettableModel:
        try:
            return self._models[self.models[0] if name is None else name]
        except KeyError:
            raise UnknownModelError(name, self.models) from None

    def _factors(self, attribute: str, name: str | None) -> NDArray[Any]:
        candidates = list(self._models.values()) if name is None else [self._model(name)]
        for model in candidates:
            factors = getattr(model, attribute, None)
            if factors is not None:
                read_only: NDArray[Any] = np.asarray(factors).view()
                read_only.flags.writeable = False
                return read_only
        raise ValueError(
            f"{name or 'no model of this version'} has {attribute}; ask a factorisation for vectors"
        )

    def _row(self, user_id: ExternalId) -> int:
        row = self._find_row(user_id)
        if row is None:
            raise UnknownUserError(user_id)
        return row

    def _find_row(self, user_id: ExternalId) -> int | None:
        """Find a user's row; None for who is unknown, and for who is fenced: the same look-ups for both."""
        row = self._users.row(user_id)
        fenced = self._fence is not None and self._fence.is_fenced(user_id)
        return None if fenced else row

    def _column(self, item_id: ExternalId) -> int:
        column = self._items.row(item_id)
        if column is None:
            raise UnknownItemError(item_id)
        return column


def load_snapshot(
    state_dir: str | Path, fence: Fence | None = None, *, mapped: bool = True, rest: Rest = no_rest
) -> Snapshot:
    """Load the published version, checking the digest of every file.

    If a newer version is published, and this one purged, while it is read, the newer one is loaded.

    Parameters
    ----------
    rest : called between short pieces of the work.

    Raises
    ------
    VersionError
        Nothing is published, a file is missing or altered, or CURRENT was set back past an erasure.
    """
    paths = StatePaths(Path(state_dir))
    return read_while_current(
        paths, lambda number, digest: _load_version(paths, number, digest, fence, mapped=mapped, rest=rest)
    )


def _load_version(
    paths: StatePaths, number: int, digest: str, fence: Fence | None, *, mapped: bool, rest: Rest
) -> Snapshot:
    if fence is not None and number < (newest := fence.published_version()):
        raise VersionError(
            f"{paths.current} names version {number}, but an erasure was published in version {newest}: "
            "going back past an erasure is refused; restore version "
            f"{newest}, or fit again"
        )
    manifest = read_manifest(paths, number, digest)
    directory = paths.version(number)
    damaged = damaged_files(directory, manifest.files, rest)
    if damaged:
        raise VersionError(
            f"version {number} is refused: {damaged[0]}; restore it from a backup, or fit again"
        )
    users, items = read_ids(directory, manifest)
    models = read_models(directory, manifest, mapped=mapped, rest=rest)
    return Snapshot(manifest, models, users, items, fence)


class SnapshotReader(Closable):
    """Follows the published version of a state directory, in any process, without ever making a caller wait.

    A background thread loads a new version beside the one in use, checks it, indexes its items if that is
    asked for, asks each of its models once, and swaps one attribute. It does so in pieces of less than a
    millisecond, and rests between them: 20 MB take some 150 ms, a gigabyte five seconds. The fence needs no
    following: every look-up asks the ledger.

    Attributes
    ----------
    paths : of the state directory.
    error : why the newest published version is not in use; None when it is.
    swaps : how many times a new version was swapped in.

    Notes
    -----
    Thread-safe. In a process that was forked off, the first :meth:`current` loads what was published
    meanwhile and starts a thread there; let workers fork before anything is ranked, as the thread pools of
    the libraries that rank do not survive a fork.

    Examples
    --------
    Serve from a state directory that ``recunlearn fit`` made::

        with SnapshotReader("state") as reader:
            snap = reader.current()
            item_ids, scores = snap.recommend(42, N=10)
    """

    def __init__(
        self, state_dir: str | Path, poll_seconds: float = _POLL_SECONDS, index: Index = "exact"
    ) -> None:
        """Load the published version and start to follow.

        Parameters
        ----------
        poll_seconds : how often CURRENT is looked at where the kernel does not tell of changes (inotify).
        index : "exact": every item is scored; "pq": factorisations rank by a product quantiser's candidates,
            built anew for each version before it shows; see :mod:`.item_index`.

        Raises
        ------
        StateError
            There is no state here, or no version that can be used; see :func:`load_snapshot`. There is no
            such index, or what it needs is not installed.
        """
        require_index(index)
        self._index = index
        self.paths = StatePaths(Path(state_dir))
        read_config(self.paths)
        self.fence = Fence(state_dir)
        self.error: Exception | None = None
        self.swaps = 0
        self._files = FilesInUse()
        self._poll_seconds = poll_seconds
        self._failed, self._retry_at = b"", 0.0
        self._resuming: dict[int, threading.Lock] = {}
        self._follower = self._new_follower()
        try:
            self._seen = self.paths.current.read_bytes() if self.paths.current.exists() else b""
            self._snapshot = self._load(no_rest)
        except BaseException:
            self.close()
            raise
        self._follower.start()

    def current(self) -> Snapshot:
        """Return the newest version that is loaded, at once. Use one snapshot for one answer."""
        if self._follower.process != os.getpid():
            self._resume()
        return self._snapshot

    def close(self) -> None:
        """Stop following. Snapshots are not to be used after it: nobody would tell them who is fenced."""
        self._follower.close()
        self._files.close()
        self.fence.close()

    def _new_follower(self) -> Follower:
        return Follower(self.paths.root, self._look, self._poll_seconds)

    def _resume(self) -> None:
        """Go on in a process that was forked off: only the thread that forked lives here."""
        # One lock for each process: another's may have been held when this one was forked off.
        with self._resuming.setdefault(os.getpid(), threading.Lock()):
            if self._follower.process == os.getpid():
                return
            self._follower.close()
            follower = self._new_follower()
            self._look(no_rest)  # somebody waits for it
            follower.start()
            self._follower = follower

    def _load(self, rest: Rest) -> Snapshot:
        snapshot = load_snapshot(self.paths.root, self.fence, rest=rest)
        if self._index != "exact":
            snapshot.index_items()
        snapshot.warm(rest)
        directory = self.paths.version(snapshot.version)
        self._files.keep(snapshot, (directory / name for name in snapshot.manifest.files))
        return snapshot

    def _look(self, rest: Rest = rest) -> None:
        """Swap to a new version if there is one."""
        self._files.close_unused()
        seen = b""
        try:
            seen = self.paths.current.read_bytes()
            if seen == self._seen:
                self.error = None
                return
            if seen == self._failed and time.monotonic() < self._retry_at:
                return
            snapshot = self._load(rest)
        except Exception as error:  # noqa: BLE001  whatever is wrong with it, the version in use goes on
            self._failed, self._retry_at = seen, time.monotonic() + _RETRY_SECONDS
            self.error = error.with_traceback(None)  # its frames would hold what was read of the version
            return
        self._seen, self.error = seen, None  # before it shows: who sees it sees no old error beside it
        if snapshot.version != self._snapshot.version:
            self.swaps += 1
            self._snapshot = snapshot
            self._files.close_unused()  # of the old one, unless somebody has it still
