"""`recunlearn run`: the worker that carries deletions out."""

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import typer

from .console import REQUESTS_FAILED, AsJson, State, not_so, print_json, wrong_use
from .kafka_options import KafkaOptions
from .logs import log_to_stderr
from .options import flattened
from .outgoing_options import OutgoingOptions
from .status import status_of
from .watch_options import WatchOptions

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from ..engine.engine import Engine
    from ..engine.state import StatePaths
    from ..streaming.formats import Reader
    from ..streaming.journal import Journal
    from ..streaming.source import EventSource
    from ..streaming.worker import Batching, Worker

    Opened: TypeAlias = tuple[str, Callable[[], EventSource]]
    """A source's name in the ledger, and what opens it."""

_STANDBY_SECONDS = 0.25

SolvePriority: TypeAlias = Literal["normal", "low", "idle"]
"""What a solve takes of the processor: a share, a tenth of one where others want it, or what is left."""

Format = Annotated[
    str | None, typer.Option("--format", help="How events are written; default: [format] name, or auto.")
]


@flattened
def run(
    state: State,
    source: Annotated[str, typer.Option(help="Where events come from: journal or kafka.")] = "journal",
    wire_format: Format = None,
    once: Annotated[bool, typer.Option("--once", help="Work off what is there, then exit.")] = False,
    batch_size: Annotated[
        int, typer.Option(help="Requests at most that one solve forgets.", min=1)
    ] = 100_000,
    batch_age: Annotated[
        float, typer.Option(help="Seconds for which a request may wait for company.", min=0)
    ] = 0.0,
    standby: Annotated[
        bool, typer.Option("--standby", help="Wait while another worker has this state, then take over.")
    ] = False,
    stop_within: Annotated[
        float,
        typer.Option(help="After SIGTERM, seconds for the batch at hand; then it is cut off.", min=0),
    ] = 60.0,
    solve_priority: Annotated[
        SolvePriority,
        typer.Option(help="A solve's: low makes way for a server beside it, idle still more."),
    ] = "low",
    as_json: AsJson = False,
    *,
    kafka: KafkaOptions,
    outgoing: OutgoingOptions,
    watching: WatchOptions,
) -> None:
    """Carry out deletions as they arrive: record, fence, forget, publish, purge."""
    from ..engine.state import StatePaths
    from ..streaming.worker import Worker

    if source not in _SOURCES:
        wrong_use(f"there is no source {source!r}; there are {', '.join(_SOURCES)}")
    read = reader_of(StatePaths(state), wire_format)
    log_to_stderr(watching.log_format)
    with (
        _executor(solve_priority) as executor,
        _engine(state, standby, executor) as engine,
        outgoing.announcer(engine.paths, kafka) as announcer,
        watching.watch(lambda: status_of(engine.paths), announcer) as watch,
    ):
        name, open_source = _SOURCES[source](engine, kafka)
        worker = Worker(
            engine,
            open_source,
            name,
            once=once,
            read=read,
            batching=_batching(engine.paths, batch_size, batch_age),
            on_lost=kafka.on_lost,
            watch=watch,
        )
        gc.freeze()  # what is loaded stays: the collector need not look through it during each intake
        with _stopped_by_signals(worker, stop_within):
            report = worker.run()
        version, errors = engine.manifest.version, engine.delivery.errors
    if as_json:
        print_json({"version": version, **vars(report)})
    else:
        typer.echo(
            f"version {version}: {report.recorded:,} requests recorded, {report.erased:,} erased, "
            f"{report.failed:,} failed, {report.dead_letters:,} records set aside"
        )
    if announcer is not None and announcer.error is not None:
        not_so(f"announcements wait for the next run: {announcer.error}")
    if errors:
        not_so("requests are not erased until every store confirms: " + "; ".join(errors.values()))
    if report.failed or report.dead_letters:
        raise typer.Exit(REQUESTS_FAILED)


def _executor(priority: SolvePriority) -> "AbstractContextManager[Executor | None]":
    from ..engine.scheduling import thread_that_makes_way

    return nullcontext() if priority == "normal" else thread_that_makes_way(priority)


def _engine(state: Path, standby: bool, executor: "Executor | None") -> "Engine":
    """Become the state's writer; as a standby, wait until nobody else is."""
    from ..engine.engine import Engine
    from ..engine.state import StateInUseError

    waits = False
    while True:
        try:
            return Engine.open(state, executor)
        except StateInUseError as error:
            if not standby:
                raise
            if not waits:
                typer.echo(f"standing by: {error}", err=True)
            waits = True
            time.sleep(_STANDBY_SECONDS)


def _batching(paths: "StatePaths", size: int, age: float) -> "Batching":
    from ..engine.deadline import due_seconds
    from ..engine.state import read_config
    from ..streaming.worker import Batching

    return Batching(size, age, due_seconds(read_config(paths).options))


def _from_journal(engine: "Engine", kafka: KafkaOptions) -> "Opened":
    del kafka
    from ..streaming.journal import PARTITION

    return PARTITION, lambda: _journal(engine)


def _from_kafka(engine: "Engine", kafka: KafkaOptions) -> "Opened":
    from ..streaming.kafka import KafkaSource

    settings = kafka.settings(engine.paths)
    return f"kafka:{settings.topic}", lambda: KafkaSource(settings)


_SOURCES = {"journal": _from_journal, "kafka": _from_kafka}


def _journal(engine: "Engine") -> "Journal":
    """Open the journal, without the dead letters that a crash left after they were closed."""
    from ..engine.fence import FenceKey
    from ..engine.ledger import Ledger
    from ..streaming.journal import PARTITION, Journal, letter_files

    with Ledger(engine.paths.ledger, FenceKey.load(engine.paths)) as ledger:
        letter_files(engine.paths.journal).keep(ledger.open_letters(PARTITION))
    return Journal(engine.paths.journal)


def reader_of(paths: "StatePaths", wire_format: str | None) -> "Reader":
    """Make the reader of the state's ``[format]``; ``wire_format`` is used instead of its name."""
    from ..engine.state import read_config
    from ..streaming.formats import FormatError, Reader

    table = read_config(paths).tables.get("format", {})
    try:
        return Reader.of(table if wire_format is None else {**table, "name": wire_format})
    except FormatError as error:
        wrong_use(str(error))


@contextmanager
def _stopped_by_signals(worker: "Worker", within: float) -> Iterator[None]:
    """SIGTERM and SIGINT end the worker after the batch it is at, or after ``within`` seconds.

    Then the process ends where it is: the next start finishes the batch, or does it again.
    """
    import signal
    import socket
    import threading

    told, teller = socket.socketpair()
    teller.setblocking(False)
    ended = threading.Event()

    def wait() -> None:
        if told.recv(1):
            worker.stop()
            if not ended.wait(within):
                _cut_off()

    # A handler runs when the main thread comes back from a solve's compiled code; this byte is sent at once.
    wakeup = signal.set_wakeup_fd(teller.fileno(), warn_on_full_buffer=False)
    before = {number: signal.signal(number, _hear) for number in (signal.SIGTERM, signal.SIGINT)}
    waiting = threading.Thread(target=wait, name="stop", daemon=True)
    waiting.start()
    try:
        yield
    finally:
        ended.set()
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup)
        teller.close()
        waiting.join()
        told.close()


def _hear(*_: object) -> None:
    """Do nothing: that there is a handler keeps the signal from ending the process."""


def _cut_off() -> None:
    import os

    os.write(2, b"the batch at hand takes too long: it is cut off, and done again at the next start\n")
    os._exit(143)
