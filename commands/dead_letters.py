"""`recunlearn dead-letters`: records that could not be read, listed, read again, or discarded."""

import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .console import REQUESTS_FAILED, AsJson, State, not_so, print_json, wrong_use
from .kafka_options import KafkaOptions
from .options import flattened
from .run import Format, reader_of

if TYPE_CHECKING:
    from ..engine.ledger import Ledger
    from ..engine.state import StatePaths
    from ..streaming.dead_letters import LetterStore

app = typer.Typer(help="List, read again and discard records that could not be read.", no_args_is_help=True)

Source = Annotated[str, typer.Option(help="Whose dead letters: journal or kafka.")]
Partition = Annotated[str, typer.Argument(help="As `list` shows it.")]
Offset = Annotated[int, typer.Argument(help="As `list` shows it.", min=0)]


@app.command("list")
@flattened
def list_letters(
    state: State, source: Source = "journal", as_json: AsJson = False, *, kafka: KafkaOptions
) -> None:
    """List the records that wait: where they were, how large they are, why. Never what is in them."""
    with _opened(state, source, kafka) as (store, ledger, name):
        letters = {letter.coordinates: letter for letter in store.letters()}
        rows: list[dict[str, Any]] = []
        for coordinates, entry in ledger.open_letters(name).items():
            letter = letters.get(coordinates)
            value = letter.record.value if letter else None
            rows.append(
                {
                    "partition": entry.partition,
                    "offset": entry.offset,
                    "reason": entry.reason,
                    "set_aside": letter.at if letter else None,
                    "bytes": None if value is None else len(value),
                    "lost": letter is None,
                }
            )
    if as_json:
        print_json({"dead_letters": rows})
        return
    for row in rows:
        size = "its bytes are lost" if row["lost"] else f"{row['bytes'] or 0:,} bytes"
        typer.echo(f"{row['partition']} {row['offset']}  {row['reason']}  ({size})")
    typer.echo(f"{len(rows):,} records wait")


@app.command("show")
@flattened
def show_letter(
    state: State, partition: Partition, offset: Offset, source: Source = "journal", *, kafka: KafkaOptions
) -> None:
    """Write one record's value to standard output, as it came. It may name somebody."""
    with _opened(state, source, kafka) as (store, _, _):
        for letter in store.letters():
            if letter.coordinates == (partition, offset):
                sys.stdout.buffer.write(letter.record.value or b"")
                return
    not_so(f"there is no dead letter {partition} {offset}; list them: recunlearn dead-letters list")


@app.command("replay")
@flattened
def replay_letters(
    state: State,
    wire_format: Format = None,
    source: Source = "journal",
    as_json: AsJson = False,
    *,
    kafka: KafkaOptions,
) -> None:
    """Read them again, with today's format and mapping; what can be read is recorded and fenced at once."""
    from ..engine.state import StatePaths
    from ..streaming.dead_letters import replay

    read = reader_of(StatePaths(state), wire_format)
    with _opened(state, source, kafka) as (store, ledger, name):
        done = replay(store, name, ledger, read)
    lost, remaining = len(done.lost), len(done.remaining)
    if as_json:
        print_json({"recorded": done.recorded, "read": done.read, "remaining": remaining, "lost": lost})
    else:
        typer.echo(
            f"{done.read:,} records could be read now, {done.recorded:,} requests are new; "
            f"{remaining:,} remain"
        )
    if lost:
        typer.secho(f"of {lost:,} records the bytes are lost; ask whoever sent them", err=True, fg="red")
    if remaining or lost:
        raise typer.Exit(REQUESTS_FAILED)


@app.command("discard")
@flattened
def discard_letter(
    state: State,
    partition: Partition,
    offset: Offset,
    yes: Annotated[
        bool, typer.Option("--yes", help="I looked at it: it asks for nothing, or was asked for again.")
    ] = False,
    source: Source = "journal",
    *,
    kafka: KafkaOptions,
) -> None:
    """Close one record for good: it is no duty. Its bytes go."""
    from ..streaming.dead_letters import discard

    if not yes:
        wrong_use("a record that is discarded is never carried out: say --yes if it asks for nothing")
    with _opened(state, source, kafka) as (store, ledger, name):
        if not discard(store, name, ledger, [(partition, offset)]):
            not_so(f"there is no dead letter {partition} {offset}; list them: recunlearn dead-letters list")
    typer.echo(f"{partition} {offset} is discarded")


@contextmanager
def _opened(state: Path, source: str, kafka: KafkaOptions) -> "Iterator[tuple[LetterStore, Ledger, str]]":
    """Open where the bytes are, and the ledger; yields also the source's name in the ledger."""
    from ..engine.fence import FenceKey
    from ..engine.ledger import Ledger
    from ..engine.state import StatePaths, read_config

    if source not in _STORES:
        wrong_use(f"there is no source {source!r}; there are {', '.join(_STORES)}")
    paths = StatePaths(state)
    read_config(paths)
    name, store = _STORES[source](paths, kafka)
    with closing(store), Ledger(paths.ledger, FenceKey.load(paths)) as ledger:
        yield store, ledger, name


def _of_journal(paths: "StatePaths", kafka: KafkaOptions) -> "tuple[str, LetterStore]":
    del kafka
    from ..streaming.journal import PARTITION, letter_files

    return PARTITION, letter_files(paths.journal)


def _of_kafka(paths: "StatePaths", kafka: KafkaOptions) -> "tuple[str, LetterStore]":
    from ..streaming.kafka import letters_of

    settings = kafka.settings(paths)
    return f"kafka:{settings.topic}", letters_of(settings)


_STORES = {"journal": _of_journal, "kafka": _of_kafka}
