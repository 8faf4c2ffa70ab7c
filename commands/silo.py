"""`recunlearn silo`: keeps its rows at home and sends their sums to a coordinator."""

import time
from pathlib import Path
from typing import Annotated

import typer

from .console import AsJson, not_so, print_json, wrong_use
from .coordinator import Every, Once, read_lines

app = typer.Typer(help="Keep rows at home, and send their sums to a coordinator.", no_args_is_help=True)

Root = Annotated[Path, typer.Option("--state", help="The silo's own directory.")]


@app.command()
def join(
    state: Root,
    board: Annotated[Path, typer.Option(help="The directory that coordinator and silos share.")],
    name: Annotated[str, typer.Option(help="What the silo is called in the federation.")],
    coordinator_key: Annotated[
        Path, typer.Option(help="The coordinator's public key, from a source that you trust.")
    ],
    data: Annotated[Path, typer.Option(help="CSV, TSV, NDJSON or Parquet file of interactions.")],
    user_col: Annotated[str, typer.Option(help="Column of user ids.")] = "user_id",
    item_col: Annotated[str, typer.Option(help="Column of item ids.")] = "item_id",
    value_col: Annotated[str | None, typer.Option(help="Column of values; none: all are 1.")] = None,
    patience: Annotated[
        float | None,
        typer.Option(help="Seconds after which a deletion goes out although its batch is small; a week."),
    ] = None,
    secure: Annotated[
        bool,
        typer.Option("--secure", help="Send nothing but masked sums; refuse a federation that adds others."),
    ] = False,
) -> None:
    """Make a silo of a file of interactions; its public key is for the coordinator."""
    from ..engine.formats import InteractionFileError
    from ..engine.signing import ReceiptError
    from ..engine.tables import read_interactions
    from ..streaming.federated.silo import DEFAULT_PATIENCE
    from ..streaming.federated.silo import join as make

    try:
        table = read_interactions(data, user_col=user_col, item_col=item_col, value_col=value_col)
        key = make(
            state, board, name, table.frame, coordinator_key.read_bytes(),
            DEFAULT_PATIENCE if patience is None else patience, secure=secure,
        )  # fmt: skip
    except InteractionFileError as error:
        not_so(str(error))
    except ReceiptError as error:
        wrong_use(f"{coordinator_key}: {error}")
    typer.echo(f"{state} is silo {name}: {table.frame['user_id'].n_unique():,} users; its public key: {key}")


@app.command()
def trust(
    state: Root,
    peer: Annotated[
        list[str],
        typer.Option(
            help="NAME=FILE: another silo and its public key, as that silo gave it to you; repeat it."
        ),
    ],
) -> None:
    """Take other silos' keys: sums are masked together with the silos that are known here, and no others."""
    from ..engine.signing import ReceiptError
    from ..streaming.federated.silo import Silo

    with Silo(state) as silo:
        for one in peer:
            name, _, file = one.partition("=")
            if not name or not file:
                wrong_use(f"--peer {one}: name the silo and the file of its key, NAME=FILE")
            try:
                silo.trust(name, Path(file).read_bytes())
            except (ReceiptError, OSError) as error:
                wrong_use(f"--peer {one}: {error}")
        typer.echo(f"{silo.state.party} masks sums with: {', '.join(sorted(silo.state.peers))}")


@app.command()
def forget(
    state: Root,
    user: Annotated[list[str] | None, typer.Option(help="Account to delete; repeat it.")] = None,
    file: Annotated[Path | None, typer.Option(help="A file: a user id a line.")] = None,
) -> None:
    """Ask for users of this silo to be forgotten: they are out with the next batch."""
    from ..streaming.federated.silo_state import ask

    users = list(user or [])
    if file is not None:
        users += read_lines(file)
    if not users:
        wrong_use("name whom to forget: --user ID or --file FILE")
    typer.echo(f"{ask(state, users):,} requests are waiting; next: recunlearn silo run --state {state}")


@app.command()
def run(
    state: Root,
    once: Once = False,
    flush: Annotated[
        bool, typer.Option("--flush", help="Send a deletion now, however small its batch.")
    ] = False,
    every: Every = 1.0,
) -> None:
    """Send sums and deletions, answer what is asked, read the answers; until it is stopped."""
    from ..streaming.federated.silo import QUESTION_PATIENCE, Silo

    with Silo(state) as silo:
        while True:
            step = silo.step(flush=flush, stay=0.0 if once else QUESTION_PATIENCE)
            if step.sent or step.erased or once:
                by = f" by version {step.version}" if step.version else ""
                typer.echo(
                    f"{step.sent} messages sent; {step.erased} users are out{by}; {len(silo.state.pending)} "
                    f"wait for a batch, {len(silo.state.outgoing)} messages unanswered"
                )
            if once or silo.state.left:
                break
            time.sleep(every)


@app.command()
def leave(state: Root) -> None:
    """Ask the coordinator to forget this silo as a whole."""
    from ..streaming.federated.silo import Silo

    with Silo(state) as silo:
        silo.leave()
        typer.echo("asked to leave; the receipt comes with: recunlearn silo run")


@app.command()
def recommend(
    state: Root,
    user: Annotated[str, typer.Option(help="A user of this silo.")],
    n: Annotated[int, typer.Option("-n", help="How many items at the most.", min=1)] = 10,
    as_json: AsJson = False,
) -> None:
    """Rank items for a user of this silo, from the published model of all and the row that stayed here."""
    from ..streaming.federated.home import recommend as rank

    items = rank(state, user, n)
    if as_json:
        print_json({"items": [{"item_id": item, "score": score} for item, score in items]})
        return
    for item, score in items:
        typer.echo(f"{item}  {score:.4f}")


@app.command()
def status(state: Root, as_json: AsJson = False) -> None:
    """Say where this silo stands, and in which version each of its messages counts."""
    from ..streaming.federated.silo_state import read_state

    at = read_state(state)
    done = [
        {"key": one.key, "kind": one.kind, "erased": one.erased, "epoch": one.epoch, "version": one.version}
        for one in at.done
    ]
    document = {
        "silo": at.party, "epoch": at.epoch, "waiting": len(at.pending), "unanswered": len(at.outgoing),
        "left": at.left, "done": done,
    }  # fmt: skip
    if as_json:
        print_json(document)
        return
    typer.echo(
        f"{at.party}: epoch {at.epoch}, {len(at.pending)} users wait for a batch, {len(at.outgoing)} "
        f"messages unanswered{', has left' if at.left else ''}"
    )
    for one in done:
        typer.echo(f"  {one['key']} ({one['kind']}, {one['erased']} users out): version {one['version']}")
