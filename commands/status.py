"""`recunlearn status`: what is published, and how requests stand."""

from typing import TYPE_CHECKING, Any

import typer

from .console import AsJson, State, print_json, shown

if TYPE_CHECKING:
    from ..engine.state import StatePaths


def status_of(paths: "StatePaths") -> dict[str, Any]:
    """Report on a state, with what waits in its journal."""
    from ..engine.fence import FenceKey
    from ..engine.ledger import Ledger
    from ..engine.state import read_config
    from ..engine.status import state_status
    from ..streaming.journal import PARTITION, backlog

    read_config(paths)
    with Ledger(paths.ledger, FenceKey.load(paths)) as ledger:
        position = ledger.positions("journal").get(PARTITION, 0)
    waiting = backlog(paths.journal, position)
    return state_status(paths, waiting.records, waiting.oldest)


def status(state: State, as_json: AsJson = False) -> None:
    """Say what is published, how well it is proved, and how requests stand."""
    from ..engine.state import StatePaths

    report = status_of(StatePaths(state))
    if as_json:
        print_json(report)
        return
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.print(
        f"version {report['version']}: {report['users']:,} users, {report['items']:,} items, "
        f"{report['interactions']:,} interactions"
    )
    requests = report["requests"]
    console.print(
        f"requests: {requests['pending']:,} pending ({requests['fenced']:,} of them fenced), "
        f"{requests['erased']:,} erased, {requests['failed']:,} failed; "
        f"oldest pending: {report['oldest_pending_seconds']:.1f} s",
        soft_wrap=True,
    )
    others = ", ".join(f"{count:,} {what}" for what, count in report["other_requests"].items() if count)
    if others:
        console.print(f"other requests: {others}")
    if report["waiting_for_stores"]:
        console.print(
            f"{report['waiting_for_stores']:,} of them published here, not confirmed by every store yet"
        )
    due = report["due"]
    if due["next"] is not None:
        console.print(f"to be done by {due['next']}", soft_wrap=True)
    table = Table("model", "exact", "bound", "erased at least", "certified")
    for name, proof in report["models"].items():
        table.add_row(
            name, *(shown(proof[key]) for key in ("exact", "bound", "erased_at_least", "certified"))
        )
    console.print(table)
    if due["overdue"]:
        typer.secho(
            f"{due['overdue']:,} requests are overdue: they were to be done within "
            f"{due['within_seconds'] / 86_400:g} days",
            err=True,
            fg="red",
        )
    for reader in report["old_readers"]:
        typer.secho(
            "process {pid} ({command}) still maps version {version}, which is purged".format(**reader),
            err=True,
            fg="yellow",
        )
    if requests["failed"]:
        typer.secho(
            "there are duties that are not fulfilled: see the log of recunlearn run", err=True, fg="red"
        )
