"""`recunlearn forget`: deletion requests appended to the embedded journal."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from .console import AsJson, State, not_so, print_json, wrong_use


def forget(
    state: State,
    user: Annotated[list[str] | None, typer.Option(help="Account to delete; repeat it.")] = None,
    interaction: Annotated[
        list[str] | None, typer.Option(help="Single interaction to remove, USER:ITEM; repeat it.")
    ] = None,
    anonymise: Annotated[
        list[str] | None,
        typer.Option(help="Account to anonymise: the rows stay, under a random id; repeat it."),
    ] = None,
    file: Annotated[
        Path | None, typer.Option(help="A file: a simple JSON event a line, or a user id a line.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Ask for deletions: append requests to the state's journal, for `recunlearn run` to carry out."""
    from ..engine.state import StatePaths, read_config

    read_config(StatePaths(state))
    payloads = [_account_event(text) for text in user or []]
    payloads += [_interaction_event(text) for text in interaction or []]
    payloads += [_account_event(text, "account.anonymised", "--anonymise") for text in anonymise or []]
    rejected: list[dict[str, Any]] = []
    if file is not None:
        from_file, rejected = _events_of_file(file)
        payloads += from_file
    if not payloads and not rejected:
        wrong_use("name whom to forget: --user ID, --interaction USER:ITEM, --anonymise ID or --file FILE")
    ask(state, payloads, as_json, {"rejected": rejected})
    for row in rejected:
        typer.secho(f"{file}, line {row['line']}: {row['reason']}", err=True, fg="yellow")
    if rejected:
        raise typer.Exit(1)


def ask(state: Path, payloads: list[bytes], as_json: bool, beside: Mapping[str, Any]) -> None:
    """Append events to a state's journal, and say so; ``beside``: what else the JSON says."""
    from ..engine.state import StatePaths
    from ..streaming import journal

    if payloads:
        journal.append(StatePaths(state).journal, payloads)
    if as_json:
        ids = [json.loads(payload)["id"] for payload in payloads]
        print_json({"appended": len(payloads), "request_ids": ids, **beside})
    else:
        typer.echo(f"{len(payloads):,} requests are in the journal; next: recunlearn run --state {state}")


def _account_event(user_id: str, kind: str = "account.deleted", option: str = "--user") -> bytes:
    if not user_id:
        wrong_use(f"{option} is empty; name the id of an account")
    return event(kind, user_id=user_id)


def _interaction_event(text: str) -> bytes:
    user_id, colon, item_id = text.partition(":")
    if not (user_id and colon and item_id) or ":" in item_id:
        wrong_use(
            f"--interaction {text!r} is not USER:ITEM; ids with a colon: use --file with a JSON event a line"
        )
    return event("interaction.removed", user_id=user_id, item_id=item_id)


def event(kind: str, **ids: str) -> bytes:
    """Write a simple JSON event of now, with an id of its own."""
    import uuid
    from datetime import UTC, datetime

    event = {"id": str(uuid.uuid4()), "type": kind, **ids, "time": datetime.now(UTC).isoformat()}
    return json.dumps(event).encode("utf-8", "surrogateescape")


def _events_of_file(path: Path) -> tuple[list[bytes], list[dict[str, Any]]]:
    """Read a file of events or user ids; returns payloads, and the lines that are neither."""
    from ..streaming.events import parse_simple_json
    from ..streaming.source import Record
    from ..streaming.strict_json import UnreadableEvent

    try:
        lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        not_so(f"{path} cannot be read: {error.strerror}")
    payloads: list[bytes] = []
    rejected: list[dict[str, Any]] = []
    for number, raw in enumerate(lines, start=1):
        line = raw.strip()
        if not line:
            continue
        try:
            payload = line if line.startswith(b"{") else _account_event(line.decode())
            parse_simple_json(Record("file", number, payload))
        except UnicodeDecodeError:
            rejected.append({"line": number, "reason": "not UTF-8"})
        except UnreadableEvent as error:
            rejected.append({"line": number, "reason": str(error)})
        else:
            payloads.append(payload)
    return payloads, rejected
