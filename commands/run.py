"""`recunlearn run`: the worker that carries deletions out."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from .console import REQUESTS_FAILED, AsJson, State, not_so, print_json, wrong_use
from .logs import log_to_stderr
from .options import flattened
from .outgoing_options import OutgoingOptions
from .status import status_of
from .watch_options import WatchOptions

if TYPE_CHECKING:
    from ..engine.engine import Engine
    from ..engine.state import StatePaths
    from ..streaming.formats import Reader
    from ..streaming.journal import Journal
    from ..streaming.worker import Worker


Format = Annotated[
    str | None, typer.Option("--format", help="How events are written; default: [format] name, or auto.")
]


@flattened
def run(
    state: State,
    source: Annotated[str, typer.Option(help="Where events come from: journal.")] = "journal",
    wire_format: Format = None,
    once: Annotated[bool, typer.Option("--once", help="Work off what is there, then exit.")] = False,
    as_json: AsJson = False,
    *,
    outgoing: OutgoingOptions,
    watching: WatchOptions,
) -> None:
    """Carry out deletions as they arrive: record, fence, forget, publish, purge."""
    from ..engine.engine import Engine
    from ..engine.state import StatePaths
    from ..streaming.worker import Worker

    if source != "journal":
        wrong_use(f"there is no source {source!r}; there is journal")
    read = reader_of(StatePaths(state), wire_format)
    log_to_stderr(watching.log_format)
    with (
        Engine.open(state) as engine,
        outgoing.announcer(engine.paths) as announcer,
        watching.watch(lambda: status_of(engine.paths), announcer) as watch,
    ):
        worker = Worker(
            engine,
            lambda: _journal(engine),
            once=once,
            read=read,
            watch=watch,
        )
        with _stopped_by_signals(worker):
            report = worker.run()
        version = engine.manifest.version
    if as_json:
        print_json({"version": version, **vars(report)})
    else:
        typer.echo(
            f"version {version}: {report.recorded:,} requests recorded, {report.erased:,} erased, "
            f"{report.failed:,} failed, {report.dead_letters:,} records set aside"
        )
    if announcer is not None and announcer.error is not None:
        not_so(f"announcements wait for the next run: {announcer.error}")
    if report.failed or report.dead_letters:
        raise typer.Exit(REQUESTS_FAILED)


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
def _stopped_by_signals(worker: "Worker") -> Iterator[None]:
    """SIGTERM and SIGINT end the worker after the batch it is at."""
    import signal

    before = {
        number: signal.signal(number, lambda *_: worker.stop()) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
