"""`recunlearn cancel`: a request that whoever asked takes back, before erasing has begun."""

import time
from typing import TYPE_CHECKING, Annotated

import typer

from .console import AsJson, State, print_json

if TYPE_CHECKING:
    from ..engine.ledger import Ledger
    from ..engine.state import StatePaths

_READ_WITHIN_SECONDS = 5.0


def cancel(
    state: State,
    request_id: Annotated[str, typer.Argument(help="Id of the request, as its event has it.")],
    as_json: AsJson = False,
) -> None:
    """Take a request back, before erasing has begun; its user is served again, unless otherwise fenced."""
    from ..engine.fence import FenceKey
    from ..engine.ledger import Ledger
    from ..engine.state import StatePaths, read_config

    paths = StatePaths(state)
    read_config(paths)
    with Ledger(paths.ledger, FenceKey.load(paths)) as ledger:
        if not ledger.knows(request_id):
            _read_journal(paths, ledger, request_id)
        done = ledger.cancel(request_id)
        ledger.purge()
    if as_json:
        print_json(
            {
                "request_id": request_id,
                "kind": done.kind,
                "state": "cancelled",
                "before": not done.is_new,
                "fenced": done.is_fenced,
            }
        )
        return
    was = "is taken back" if done.is_new else "was taken back before"
    still = ", which another request or an erasure keeps fenced" if done.is_fenced else ""
    typer.echo(f"request {request_id} ({done.kind}) {was}{still}")


def _read_journal(paths: "StatePaths", ledger: "Ledger", request_id: str) -> None:
    """See to it that what waits in the journal is in the ledger: by a worker that runs, or else here."""
    from ..engine.state import StateInUseError, WriterLock
    from ..streaming.intake import resume, take_in
    from ..streaming.journal import PARTITION, Journal, backlog
    from .run import reader_of

    deadline = time.monotonic() + _READ_WITHIN_SECONDS
    while backlog(paths.journal, ledger.positions(PARTITION).get(PARTITION, 0)).records:
        try:
            with WriterLock(paths):
                journal = Journal(paths.journal)
                resume(journal, PARTITION, ledger)
                while records := journal.poll(0, 1000):
                    take_in(journal, PARTITION, ledger, records, reader_of(paths, None))
                return
        except StateInUseError:  # a worker, which reads it at any moment, or a fit
            if ledger.knows(request_id) or time.monotonic() > deadline:
                return
            time.sleep(0.05)
