"""`recunlearn readmit`: people who come back under an id that was erased."""

from typing import Annotated

import typer

from .console import AsJson, State, wrong_use
from .forget import ask, event


def readmit(
    state: State,
    user: Annotated[list[str], typer.Option(help="Account to admit again; repeat it.")],
    as_json: AsJson = False,
) -> None:
    """Admit erased users again: their later data is taken, and nothing that was erased comes back."""
    from ..engine.state import StatePaths, read_config

    read_config(StatePaths(state))
    if not all(user):
        wrong_use("--user is empty; name the id of an account")
    ask(state, [event("account.readmitted", user_id=one) for one in user], as_json, {})
