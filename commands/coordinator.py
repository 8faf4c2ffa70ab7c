"""`recunlearn coordinator`: adds up what silos send, publishes models of all, answers each message."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .console import AsJson, not_so, print_json, wrong_use

if TYPE_CHECKING:
    from ..streaming.federated.coordinator_state import CoordinatorState, Rounds, Solves

app = typer.Typer(help="Add up the sums of silos: their rows stay with them.", no_args_is_help=True)

Root = Annotated[Path, typer.Option("--state", help="The coordinator's own directory.")]
Once = Annotated[bool, typer.Option("--once", help="Do what there is to do, then exit.")]
Every = Annotated[float, typer.Option(help="Seconds between two looks at the board.", min=0.01)]
ITEMS = "Item ids, one a line, in the order of their columns."


@app.command()
def init(
    state: Root,
    board: Annotated[Path, typer.Option(help="The directory that coordinator and silos share.")],
    items: Annotated[Path, typer.Option(help=ITEMS)],
    federation: Annotated[str, typer.Option(help="What the federation is called.")] = "federation",
    model: Annotated[str, typer.Option(help="ease, item_knn or spectral_mf.")] = "ease",
    settings: Annotated[str, typer.Option(help="Arguments of the model, as JSON.")] = "{}",
    batch: Annotated[
        int | None, typer.Option(help="Users that a deletion should have at the least.", min=1)
    ] = None,
    patience: Annotated[
        float | None,
        typer.Option(
            help="Seconds after which an epoch, round or solve goes on without silos that are away; else it "
            "waits."
        ),
    ] = None,
    fractions: Annotated[
        bool, typer.Option("--fractions", help="Values are not whole numbers (item_knn only).")
    ] = False,
    secure: Annotated[
        bool, typer.Option("--secure", help="Add sums under masks: see the total of all silos only.")
    ] = False,
    products: Annotated[
        bool,
        typer.Option(
            "--products", help="Take no sums: ask silos for products with their rows (spectral_mf only)."
        ),
    ] = False,
    round_every: Annotated[
        float | None,
        typer.Option(help="With --secure: seconds between rounds of deletions; a day.", min=0.0),
    ] = None,
) -> None:
    """Make a coordinator: its key, its catalogue of items, the model that it is to make."""
    from ..streaming.federated.coordinator import Coordinator
    from ..streaming.federated.coordinator_state import (
        DEFAULT_BATCH,
        DEFAULT_ROUND_EVERY,
        found_federation,
    )

    if round_every is not None and not secure:
        wrong_use("--round-every is for sums under masks: add --secure")
    every = DEFAULT_ROUND_EVERY if round_every is None else round_every
    try:
        arguments: dict[str, Any] = json.loads(settings)
        found_federation(
            state, board, federation, read_lines(items), model, arguments,
            batch=batch or DEFAULT_BATCH, patience=patience, fractions=fractions,
            round_every=every if secure else None, products=products,
        )  # fmt: skip
    except (ValueError, TypeError) as error:
        wrong_use(str(error))
    with Coordinator(state) as coordinator:
        typer.echo(
            f"{board} is the board of {federation}: {len(coordinator.state.items):,} items, {model}; the "
            f"key, for the silos: {board / coordinator.board.public_key.name}"
        )


@app.command()
def admit(
    state: Root,
    name: Annotated[str, typer.Option(help="What the silo is called.")],
    key: Annotated[Path, typer.Option(help="Its public key: receipts.pub, as it gave it to you.")],
) -> None:
    """Let a silo in, under its public key."""
    from ..engine.signing import ReceiptError
    from ..streaming.federated.coordinator import Coordinator

    with Coordinator(state) as coordinator:
        try:
            coordinator.admit(name, key.read_bytes())
        except ReceiptError as error:
            wrong_use(f"{key}: {error}")
        typer.echo(f"{name} is in; {len(coordinator.state.parties)} silos")


@app.command()
def dismiss(state: Root, name: Annotated[str, typer.Option(help="What the silo is called.")]) -> None:
    """Forget a whole silo, present or not; under masks, the others are asked for their sums again."""
    from ..streaming.federated.coordinator import Coordinator

    with Coordinator(state) as coordinator:
        coordinator.dismiss(name)
        step = coordinator.step()
        typer.echo(f"{name} is out of {_where(coordinator.state.epoch, step.published)}")


@app.command()
def extend(
    state: Root,
    items: Annotated[Path | None, typer.Option(help=ITEMS)] = None,
    again: Annotated[bool, typer.Option("--again", help="Begin a new epoch even if no item is new.")] = False,
) -> None:
    """Append items to the catalogue, and begin a new epoch: every silo sends its sums again."""
    from ..streaming.federated.coordinator import Coordinator

    if items is None and not again:
        wrong_use("name what is new: --items FILE; or --again")
    with Coordinator(state) as coordinator:
        new = coordinator.extend(read_lines(items) if items else [], again=again)
        typer.echo(f"{new:,} items are new; epoch {coordinator.state.epoch}")


@app.command()
def run(state: Root, once: Once = False, every: Every = 1.0) -> None:
    """Take in what silos send, publish, answer; until it is stopped."""
    from ..streaming.federated.coordinator import Coordinator

    with Coordinator(state) as coordinator:
        while True:
            step = coordinator.step()
            if step.taken or step.refused or step.published or once:
                typer.echo(
                    f"{step.taken} messages taken in, {step.refused} refused; "
                    f"{_where(coordinator.state.epoch, step.published)}"
                )
            if once:
                break
            time.sleep(every)


@app.command(name="round")
def begin_round(state: Root) -> None:
    """Begin a round of deletions before its time, at the next look (sums under masks)."""
    from ..streaming.federated.coordinator_state import read_state
    from ..streaming.federated.secure.adding import ask_for_round

    if read_state(state).rounds is None:
        wrong_use("each deletion comes by itself here; rounds are for sums under masks: init --secure")
    ask_for_round(state)
    typer.echo(f"a round is asked for; next: recunlearn coordinator run --state {state}")


@app.command()
def status(state: Root, as_json: AsJson = False) -> None:
    """Say where the federation stands: epoch, version, each silo, and who is waited for."""
    from ..streaming.federated.coordinator_state import read_state

    at = read_state(state)
    document: dict[str, Any] = {"federation": at.federation, "epoch": at.epoch, "version": at.version}
    if at.rounds is not None:
        document |= _rounds_of(at, at.rounds)
    else:
        document |= _silos_of(at) if at.solves is None else _solves_of(at, at.solves)
    if as_json:
        print_json(document)
        return
    typer.echo(f"{at.federation}: epoch {at.epoch}, version {at.version}")
    if (rounds := document.get("rounds")) is not None:
        open_round = (
            f"; round {rounds['open']} ({rounds['what']}) waits for: {', '.join(rounds['waits_for'])}"
        )
        typer.echo(f"  {rounds['users']:,} users in all{open_round if rounds['open'] else ''}")
    if solve := document.get("solve"):
        waits = ", ".join(solve["waits_for"])
        typer.echo(f"  solve {solve['open']} " + (f"waits for: {waits}" if waits else "is on its way"))
    for name, one in document["silos"].items():
        said = "in the total" if rounds else f"{one['users']:,} users, {one['messages']} messages"
        gap = f"; waiting for message {one['missing']}: later ones are here" if one.get("missing") else ""
        nothing = "no sums yet" if at.solves is None else "not in what is published"
        typer.echo(f"  {name}: {said if one['here'] else nothing}{gap}")


def _silos_of(at: "CoordinatorState") -> dict[str, Any]:
    from ..streaming.federated.board import Board

    board = Board(Path(at.board))
    return {
        "silos": {
            name: {
                "users": party.users,
                "messages": party.sequence,
                "here": bool(party.sums),
                "missing": board.missing(name, at.epoch, party.sequence),
            }
            for name, party in at.parties.items()
        }
    }


def _solves_of(at: "CoordinatorState", solves: "Solves") -> dict[str, Any]:
    from ..streaming.federated.board import Board
    from ..streaming.federated.rounds.adding import waits_for

    document = _silos_of(at)
    for name, one in document["silos"].items():
        one["here"] = name in solves.members
    if solves.asked:
        document["solve"] = {"open": solves.number, "waits_for": waits_for(Board(Path(at.board)), at)}
    return document


def _rounds_of(at: "CoordinatorState", rounds: "Rounds") -> dict[str, Any]:
    from ..streaming.federated.board import Board
    from ..streaming.federated.secure.adding import waits_for

    what, missing = waits_for(Board(Path(at.board)), at)
    return {
        "silos": {name: {"here": name in rounds.members} for name in at.parties},
        "rounds": {
            "users": rounds.users,
            "open": rounds.number if rounds.asked else 0,
            "what": rounds.what,
            "waits_for": [f"{what} of {name}" for name in missing],
        },
    }


def read_lines(path: Path) -> list[str]:
    """Read a file of ids, one a line; blank lines are left out."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        not_so(f"{path} cannot be read: {error}")
    return [line.strip() for line in lines if line.strip()]


def _where(epoch: int, version: int | None) -> str:
    return f"epoch {epoch}, version {version} published" if version else f"epoch {epoch}, nothing published"
