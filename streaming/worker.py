"""The loop: the intake on threads of its own, pending requests -> engine on the main one.

So a request is durable and its user fenced within moments, however long a solve takes; what arrives
during a solve joins the next batch.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..engine.deadline import due_seconds
from ..engine.engine import Engine
from ..engine.fence import FenceKey
from ..engine.ledger import Ledger, Pending
from .formats import Read, Reader
from .intake import Intake, Taken, resume
from .source import EventSource, SourceError
from .watch import Watch

_LOOK_SECONDS = 1.0  # another process may record, too: `dead-letters replay`
_INTAKE_ENDS_SECONDS = 20.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Batching:
    """When a batch closes: whichever comes first.

    Attributes
    ----------
    size : requests; at most so many are forgotten in one solve.
    age : seconds for which the oldest request may wait for company. 0: at once; then a batch is what
        arrived during the solve before it.
    due : seconds in which a request is due. No request waits for company longer than half of them.

    Examples
    --------
    >>> Batching(size=1000, age=3600, due=60).seconds_left(count=1, waited=10)
    20.0
    >>> Batching(size=1000, age=3600).seconds_left(count=1000, waited=10)
    0.0
    """

    size: int = 100_000
    age: float = 0.0
    due: float = due_seconds({})

    def seconds_left(self, count: int, waited: float) -> float:
        """Return for how long a batch of ``count`` stays open when the oldest has ``waited`` seconds."""
        return 0.0 if count >= self.size else max(0.0, min(self.age, self.due / 2) - waited)


@dataclass
class WorkerReport:
    """What a worker did: requests recorded, erased and failed, records set aside, versions published."""

    recorded: int = 0
    erased: int = 0
    failed: int = 0
    dead_letters: int = 0
    versions: int = 0


class Worker:
    """Works off deletion events until it is told to stop, or until there are none.

    Parameters
    ----------
    engine : the writer of the state.
    open_source : makes the source, on the intake's thread.
    source_name : under which the ledger keeps positions: ``"journal"``, or the topic's name.
    once : end when the source is drained and nothing waits.
    read : record -> what it asks for; CloudEvents and simple JSON unless it is given.
    batching : when a batch closes.
    on_lost : see :func:`~.intake.resume`.
    patience : seconds after which an intake that does not come back ends the worker: its client hangs.
    watch : is told of each poll, intake and batch.
    """

    def __init__(
        self,
        engine: Engine,
        open_source: Callable[[], EventSource],
        source_name: str = "journal",
        *,
        once: bool = False,
        read: Read | None = None,
        batching: Batching = Batching(),
        on_lost: str = "stop",
        patience: float = 300.0,
        watch: Watch | None = None,
    ) -> None:
        self.report = WorkerReport()
        self._engine, self._open_source, self._source_name = engine, open_source, source_name
        self._once, self._read, self._watch = once, read or Reader(), watch or Watch()
        self._batching, self._on_lost, self._patience = batching, on_lost, patience
        self._seen_at = time.monotonic()
        self._stop, self._arrived = threading.Event(), threading.Event()
        self._intake_ended = threading.Event()
        self._intake_error: BaseException | None = None

    def stop(self) -> None:
        """End after the batch that is being worked off; safe in a signal handler."""
        self._stop.set()
        self._arrived.set()

    def run(self) -> WorkerReport:
        """Work until stopped, or drained if ``once``.

        Raises
        ------
        Exception
            Whatever ended the intake or the engine; all that was recorded waits for the next run.
        """
        intake = threading.Thread(target=self._take_in_all, name="intake", daemon=True)
        self._seen_at = time.monotonic()
        intake.start()
        try:
            self._work()
        finally:
            self.stop()
            intake.join(_INTAKE_ENDS_SECONDS)
        if self._intake_error is not None:
            raise self._intake_error
        return self.report

    def _work(self) -> None:
        while not self._stop.is_set():
            self._arrived.clear()
            drained = self._intake_ended.is_set()
            batch = self._engine.pending(self._batching.size)
            wait = _LOOK_SECONDS
            if batch:
                oldest = self._engine.ledger.oldest_waiting() or time.time()
                left = self._batching.seconds_left(len(batch), time.time() - oldest)
                if left == 0 or drained:
                    self._forget(batch)
                    continue
                wait = min(left, _LOOK_SECONDS)
            elif drained:
                return
            self._look_after_intake()
            self._arrived.wait(wait)

    def _forget(self, batch: Sequence[Pending]) -> None:
        _log.info("forgetting a batch of %d requests", len(batch))
        self._watch.began(len(batch))
        started, before = time.time(), self._engine.manifest.version
        report = self._engine.apply(batch)
        self.report.erased += report.erased
        self.report.failed += report.failed
        self.report.versions += report.version - before
        first = min(request.seq for request in batch)
        timings = self._engine.ledger.timings(first - 1)
        self._watch.ended(report, [done - received for _, received, _, done in timings if done >= started])

    def _look_after_intake(self) -> None:
        """End where the source's client hangs: whoever started this process starts it again."""
        silent = time.monotonic() - self._seen_at
        if silent > self._patience and not self._intake_ended.is_set():
            raise SourceError(f"{self._source_name} has not been read for {silent:.0f} s: its client hangs")

    def _take_in_all(self) -> None:
        """Run the intake: the thread's main function."""
        try:
            with Ledger(self._engine.paths.ledger, FenceKey.load(self._engine.paths)) as ledger:
                source = self._open_source()
                try:
                    resume(source, self._source_name, ledger, self._on_lost)
                    self._poll_until_told(source, ledger)
                finally:
                    source.close()
        except BaseException as error:  # noqa: BLE001  handed to the main thread, which raises it
            self._intake_error = error
            self._stop.set()
        finally:
            self._intake_ended.set()
            self._arrived.set()

    def _poll_until_told(self, source: EventSource, ledger: Ledger) -> None:
        with Intake(source, self._source_name, ledger, self._read, self._note) as intake:
            while not self._stop.is_set():
                self._seen_at = time.monotonic()
                is_quiet = not intake.poll()
                self._watch.polled(source)
                if is_quiet and self._once and source.is_exhausted():
                    return

    def _note(self, taken: Taken) -> None:
        """Be told that records are durable: on the thread that records them."""
        self.report.recorded += taken.recorded
        self.report.dead_letters += taken.dead_letters
        self._watch.took_in(taken.records, taken.recorded, taken.dead_letters)
        self._arrived.set()
