"""The erasure cycle: requests in, a version without them published, everything that held them purged.

The order of steps, each durable before the next begins::

    ledger: erasing -> forget in every model -> write the new version beside the old -> flip CURRENT
    -> ledger: published -> purge old versions and partitions -> the same in every store of ``[[export]]``
    -> ledger: erased, ids cleared -> empty the write-ahead log -> receipts

A crash after any step ends, after the next start, in the state that no crash would have led to: before
the flip the cycle is done again, after it the rest is finished (:meth:`Engine.open`). While a store does
not confirm, cycles go on to be published, and their requests stay *erasing*.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ParamSpec, Self, TypeAlias, TypeVar

import msgspec
import numpy as np
import polars as pl

from .. import __version__
from ..models.base import ForgettableModel
from .anonymous import new_ids, under_new_ids
from .closable import Closable
from .config_notes import take_over
from .deadline import warn_of_overdue
from .delivery import Confirm, Confirmation, Delivery
from .fence import FenceKey
from .id_index import IdIndex
from .interactions import rewrite_store
from .ledger import Ledger, Pending, TakenBackError
from .purge import ScanResult, purge, scan_for_ids
from .readers import ReaderWatch
from .receipts import ReceiptLog, give_receipts
from .removal import Removal, plan_removal
from .signing import ReceiptError
from .state import StatePaths, WriterLock, read_config
from .version import (
    Manifest,
    Store,
    VersionError,
    damaged_files,
    read_current,
    read_ids,
    read_manifest,
    read_models,
    set_current,
    write_version,
)
from .witness import check_against_ledger

P = ParamSpec("P")
T = TypeVar("T")

Scan: TypeAlias = Callable[[StatePaths, set[str]], ScanResult]

_log = logging.getLogger(__name__)


class ForgettingError(Exception):
    """A model could not forget; nothing was published. The message names the model and the error's class."""


@dataclass(frozen=True)
class CycleReport:
    """What a batch came to.

    Attributes
    ----------
    version : the published version after it.
    erased, failed : how many requests.
    seconds : wall time of each phase: forget, publish, purge.
    """

    version: int
    erased: int
    failed: int
    seconds: Mapping[str, float] = field(default_factory=dict)


class Engine(Closable):
    """The one writer of a state directory, with its models in memory.

    Examples
    --------
    Work off all that waits, in a state that :func:`~.fitting.fit` made::

        with Engine.open("state") as engine:
            report = engine.apply(engine.pending())
    """

    def __init__(
        self,
        paths: StatePaths,
        lock: WriterLock,
        ledger: Ledger,
        receipts: ReceiptLog | None,
        delivery: Delivery,
        apart: Executor | None = None,
    ) -> None:
        self.paths = paths
        self.ledger = ledger
        self.delivery = delivery
        self._lock, self._receipts, self._executor = lock, receipts, apart
        self._readers = ReaderWatch(paths)
        self._was_cut_off = False
        self._load()

    @classmethod
    def open(cls, state_dir: str | Path, apart: Executor | None = None) -> Self:
        """Take the writer's lock, finish or clean what a crash cut off, and load the published version.

        Requests that failed before wait again.

        Parameters
        ----------
        apart : where a cycle forgets and writes the next version: what takes long, and holds no lock of the
            ledger's. The caller shuts it down after the engine. None: the thread that calls.

        Raises
        ------
        StateError
            No state, another layout, in use by another writer, damaged, or set back past an erasure.
        """
        paths = StatePaths(Path(state_dir))
        read_config(paths)
        with ExitStack() as opened:
            lock = opened.enter_context(WriterLock(paths))
            delivery = opened.enter_context(Delivery.of(paths))
            key = FenceKey.load(paths)
            ledger = opened.enter_context(Ledger(paths.ledger, key))
            ledger.check_pages()
            take_over(paths, ledger, key)
            receipts = open_receipts(paths, ledger)
            recover(paths, ledger, receipts, delivery.confirm)
            ledger.retry_failed()
            warn_of_overdue(paths, ledger)
            engine = cls(paths, lock, ledger, receipts, delivery, apart)
            opened.pop_all()  # what is open is the engine's now
            return engine

    def _load(self) -> None:
        """Take the published version into memory, dropping whatever a failed attempt left in the models."""
        number, self._digest = read_current(self.paths)
        self.manifest: Manifest = read_manifest(self.paths, number, self._digest)
        directory = self.paths.version(number)
        damaged = damaged_files(directory, self.manifest.files)
        if damaged:
            raise VersionError(f"{damaged[0]}; restore it from a backup, or fit again")
        self._users, self._items = (IdIndex(ids) for ids in read_ids(directory, self.manifest))
        self.models: dict[str, ForgettableModel] = read_models(directory, self.manifest, mapped=False)

    def apply(self, batch: Sequence[Pending]) -> CycleReport:
        """Erase a batch of requests and publish one version without them.

        If a model cannot forget the batch, it is halved until the requests it cannot forget are alone:
        those are marked failed, and the others are erased.

        Raises
        ------
        OSError, StateError
            The disk or the state is not as it must be; the requests wait, and the next start goes on.
        """
        self._go_on()
        if not batch:
            return CycleReport(self.manifest.version, 0, 0)
        self._was_cut_off = True
        try:
            report: CycleReport | None = self._cycle(batch)
        except ForgettingError as error:
            self._load()
            if len(batch) == 1:
                failed = self.ledger.fail(batch[0].seq, str(error))
                _log.error("a request failed: %s", error)
                report = CycleReport(self.manifest.version, 0, int(failed))
            else:
                report = None
        self._was_cut_off = False
        return report or self._apply_halves(batch)

    def pending(self, limit: int = -1) -> list[Pending]:
        """Return up to ``limit`` requests that wait to be erased, oldest first.

        Re-admissions, which no model has to do with, are carried out here, with their receipts; and what
        waits for a store is finished if the store confirms now.
        """
        self._readers.look()
        self._go_on()
        if self.delivery.is_due:
            self._finish()
        if self.ledger.admit():
            self.ledger.purge()  # of the ids in what asked: one that was refused is erased
            if self._receipts is not None:
                give_receipts(self.ledger, self._receipts, self.paths)
        return self.ledger.pending(limit)

    def _go_on(self) -> None:
        """After a cycle that an error cut off, do what the next start would do."""
        if self._was_cut_off:
            recover(self.paths, self.ledger, self._receipts, self.delivery.confirm)
            self._load()
            self._was_cut_off = False

    def _apply_halves(self, batch: Sequence[Pending]) -> CycleReport:
        half = len(batch) // 2
        first, second = self.apply(batch[:half]), self.apply(batch[half:])
        return CycleReport(second.version, first.erased + second.erased, first.failed + second.failed)

    def _cycle(self, batch: Sequence[Pending]) -> CycleReport:
        started = time.perf_counter()
        removal, version, cycle = self._take_up(batch)
        if cycle is None:
            return CycleReport(self.manifest.version, 0, 0)
        try:
            renamed = new_ids(self._users.series.gather(removal.anonymous), self._users.series)
            next_version = None if removal.is_empty() else self._apart(self._forget, removal, renamed)
        except ForgettingError:
            self.ledger.abandon_cycle(cycle)
            raise
        forgot = time.perf_counter()
        if next_version is not None:
            digest = self._apart(self._write, version, removal, renamed, *next_version)
            self._publish(version, digest, *next_version)
        self.ledger.publish_cycle(cycle, cycle_record(self.manifest, self._digest))
        published = time.perf_counter()
        erased = self._finish()
        seconds = {
            "forget": forgot - started,
            "publish": published - forgot,
            "purge": time.perf_counter() - published,
        }
        self._readers.purged()
        phases = ", ".join(f"{name} {taken:.2f} s" for name, taken in seconds.items())
        _log.info("version %d: %d requests erased: %s", self.manifest.version, erased, phases)
        return CycleReport(self.manifest.version, erased, 0, seconds)

    def _take_up(self, batch: Sequence[Pending]) -> tuple[Removal, int, int | None]:
        """Plan a batch and begin its cycle, without what is taken back meanwhile; None: nothing is left."""
        while True:
            removal = plan_removal(batch, self._users, self._items, self._user_items)
            version = self.manifest.version + (0 if removal.is_empty() else 1)
            try:
                return removal, version, self.ledger.begin_cycle(version, removal.outcomes) if batch else None
            except TakenBackError as error:
                batch = [one for one in batch if one.seq not in error.seqs]

    @property
    def _user_items(self) -> Any:
        return next(iter(self.models.values())).user_items

    def _forget(
        self, removal: Removal, renamed: pl.DataFrame
    ) -> tuple[dict[str, ForgettableModel], pl.Series, pl.Series]:
        """Forget in every model; returns the models and ids without empty rows and columns."""
        users, items = self._users.series, self._items.series
        rows = columns = np.empty(0, dtype=np.int64)
        restricted: dict[str, ForgettableModel] = {}
        for name, model in self.models.items():
            try:
                model.forget(
                    users=removal.users, pair_users=removal.pair_users, pair_items=removal.pair_items
                )
                if not restricted:
                    columns = np.unique(model.user_items.indices).astype(np.int64)
                    items = self._items.series.gather(columns)
                    kept = np.flatnonzero(np.diff(model.user_items.indptr)).astype(np.int64)
                    users = under_new_ids(self._users.series.gather(kept), renamed)
                    order = users.arg_sort().to_numpy().astype(np.int64)
                    rows, users = kept[order], users.gather(order)
                restricted[name] = model.restrict(rows, columns)
            except Exception as error:
                # The class alone: a message may quote an id or a row.
                raise ForgettingError(f"model {name} could not forget: {type(error).__name__}") from error
        return restricted, users, items

    def _publish(
        self,
        version: int,
        digest: str,
        models: dict[str, ForgettableModel],
        users: pl.Series,
        items: pl.Series,
    ) -> None:
        """Flip CURRENT to a version that is written."""
        manifest = read_manifest(self.paths, version, digest)
        set_current(self.paths, version, digest)
        self.manifest, self._digest = manifest, digest
        self.models = models
        self._users, self._items = IdIndex(users), IdIndex(items)

    def _write(
        self,
        version: int,
        removal: Removal,
        renamed: pl.DataFrame,
        models: dict[str, ForgettableModel],
        users: pl.Series,
        items: pl.Series,
    ) -> str:
        """Write the next version beside the published one, durably; returns the digest of its manifest."""
        old = Store(self.manifest.interactions, self.manifest.partitions)
        store = rewrite_store(self.paths, old, version, removal.user_ids, removal.pair_ids, renamed)
        return write_version(
            self.paths,
            version,
            models,
            users,
            items,
            store,
            software=__version__,
            parent=self._digest,
            covers=sorted(removal.outcomes),
        )

    def _finish(self) -> int:
        """Do what follows the flip of CURRENT; returns how many requests are erased by it."""

        def scan(paths: StatePaths, users: set[str]) -> ScanResult:
            return self._apart(scan_for_ids, paths, users)

        return finish(self.paths, self.ledger, self.manifest, self._receipts, self.delivery.confirm, scan)

    def _apart(self, call: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """Call, on the executor if there is one, and wait for it."""
        if self._executor is None:
            return call(*arguments, **named)
        return self._executor.submit(call, *arguments, **named).result()

    def close(self) -> None:
        """Release the stores, the ledger and the writer's lock, in this order; all, whatever one raises."""
        with ExitStack() as held:
            for one in (self._readers, self._lock, self.ledger, self.delivery):
                held.callback(one.close)


def open_receipts(paths: StatePaths, ledger: Ledger) -> ReceiptLog | None:
    """Open the receipt log; None, loudly, if it is damaged: erasing does not wait for its repair.

    Raises
    ------
    LedgerError
        The log shows that the ledger was set back.
    """
    try:
        log = ReceiptLog(paths)
        check_against_ledger(paths, ledger, log)
    except ReceiptError as error:
        _log.error("receipts wait until the log is restored: %s", error)
        return None
    return log


def recover(paths: StatePaths, ledger: Ledger, receipts: ReceiptLog | None, confirm: Confirm) -> None:
    """Finish the cycles that had published when they were cut off, drop the others, and purge again.

    Parameters
    ----------
    confirm : as :meth:`~.delivery.Delivery.confirm`.

    Raises
    ------
    VersionError
        Nothing is published, its manifest is damaged, or CURRENT was set back past an erasure.
    """
    number, digest = read_current(paths)
    newest = ledger.published_version()
    if number < newest:
        raise VersionError(
            f"{paths.current} names version {number}, but an erasure was published in version {newest}: "
            f"going back past an erasure is refused; restore version {newest}, or fit again"
        )
    manifest = read_manifest(paths, number, digest)
    for cycle in ledger.unfinished_cycles():
        if cycle.version > number:
            ledger.abandon_cycle(cycle.cycle)
            continue
        if cycle.state == "open":
            ledger.publish_cycle(cycle.cycle, cycle_record(manifest, digest))
    finish(paths, ledger, manifest, receipts, confirm)
    ledger.admit()
    ledger.purge()
    if receipts is not None:
        give_receipts(ledger, receipts, paths)


def finish(
    paths: StatePaths,
    ledger: Ledger,
    manifest: Manifest,
    receipts: ReceiptLog | None,
    confirm: Confirm,
    scan: Scan = scan_for_ids,
) -> int:
    """Do what follows the flip of CURRENT: purge, and once every store confirms, end the published cycles.

    Parameters
    ----------
    scan : looks for what is left of users: :func:`~.purge.scan_for_ids`, wherever it is to run.

    Returns
    -------
    How many requests are erased by it.
    """
    purge(paths, manifest)
    stores = confirm()
    if stores is None:
        return 0
    cycles = [cycle for cycle in ledger.unfinished_cycles() if cycle.state == "published"]
    return sum(_end(paths, ledger, cycle.cycle, receipts, stores, scan) for cycle in cycles)


def _end(
    paths: StatePaths,
    ledger: Ledger,
    cycle: int,
    receipts: ReceiptLog | None,
    stores: Sequence[Confirmation],
    scan: Scan,
) -> int:
    """Mark a cycle's requests erased, empty the log, look for remains, give receipts; returns how many."""
    users = {user for user, item in ledger.subjects(cycle) if item is None}
    record = {**ledger.cycle(cycle).record, "stores": msgspec.to_builtins(stores)}
    erased = ledger.finish_cycle(cycle, record)
    ledger.admit()
    ledger.purge()
    result = scan(paths, users - ledger.waiting_users())
    if result.found:  # somebody may have asked again meanwhile: then their id is no remains
        result = scan(paths, users - ledger.waiting_users())
    if result.found:
        _log.error("remains of erased users were found in %s", ", ".join(result.found))
    ledger.note_scan(cycle, msgspec.to_builtins(result))
    if receipts is not None:
        give_receipts(ledger, receipts, paths)
    return erased


def cycle_record(manifest: Manifest, digest: str) -> dict[str, Any]:
    """Say what was published, for receipts; the ledger keeps it, since the version may soon be replaced."""
    return {
        "version": manifest.version,
        "manifest_sha256": digest,
        "parent_sha256": manifest.parent,
        "created": manifest.created,
        "models": {
            name: {
                **msgspec.to_builtins(model.proof),
                "files": {
                    path: record.sha256
                    for path, record in manifest.files.items()
                    if path.startswith(f"{name}/")
                },
            }
            for name, model in manifest.models.items()
        },
    }
