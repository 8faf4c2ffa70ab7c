"""`recunlearn readmit`: people who come back under an id that was erased."""

import json
from typing import Annotated

import typer

from .console import AsJson, State, print_json, wrong_use
from .forget import event


def readmit(
    state: State,
    user: Annotated[list[str], typer.Option(help="Account to admit again; repeat it.")],
    as_json: AsJson = False,
) -> None:
    """Admit erased users again: their later data is taken, and nothing that was erased comes back."""
    from ..engine.state import StatePaths, read_config
    from ..streaming import journal

    paths = StatePaths(state)
    read_config(paths)
    if not all(user):
        wrong_use("--user is empty; name the id of an account")
    payloads = [event("account.readmitted", user_id=one) for one in user]
    journal.append(paths.journal, payloads)
    if as_json:
        ids = [json.loads(payload)["id"] for payload in payloads]
        print_json({"appended": len(payloads), "request_ids": ids})
    else:
        typer.echo(f"{len(payloads):,} requests are in the journal; next: recunlearn run --state {state}")
