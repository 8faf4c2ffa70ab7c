"""A round over Flower: its QUERY messages carry the files of :mod:`~.exchange` between server and clients.

Flower moves bytes and finds the clients; masks, signatures and what each side remembers are ours. Every
message starts a new process, so what a silo remembers is in its directory and not in Flower's context.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from ....engine import durable
from ....engine.signing import SigningKey
from ....engine.state import StatePaths, WriterLock
from ....models.sums import Sums
from ..board import Board
from .exchange import Contents, begin, collect, said_path, take_part, terms_path, waited_for
from .party import Identity
from .terms import RoundError, Terms

if TYPE_CHECKING:
    from flwr.app import Message  # pyright: ignore[reportMissingImports]
    from flwr.serverapp import Grid  # pyright: ignore[reportMissingImports]

ACTION: Final = "secure_sums"
QUERY: Final = f"query.{ACTION}"
"""The type of the messages; a ClientApp answers them in ``@app.query(ACTION)``."""

RELAYED: Final = ("terms.json", "openings.json", "masked.json")
SAID: Final = ("opening.json", "masked.json", "masked.u64", "confirmation.json")
_RECORD, _ROUND, _PARTY = "files", "round", "party"


@dataclass(frozen=True)
class Silo:
    """What a client needs to answer.

    Attributes
    ----------
    root : its directory: what it remembers, and its copy of the board's files.
    me, coordinator : who it is, and whose terms it takes.
    contents : what it brings to a round.
    """

    root: Path
    me: Identity
    coordinator: Ed25519PublicKey
    contents: Contents


def answer(message: "Message", silo: Silo) -> "Message":
    """Answer a message of the server's: what a silo can say now.

    Raises
    ------
    RoundError, SumsError
        As ``exchange.take_part``; Flower hands the server an error then.
    StateInUseError
        Another process is this silo.
    """
    from flwr.app import ConfigRecord, Message, RecordDict  # pyright: ignore[reportMissingImports]

    asked = message.content.config_records[_RECORD]
    number, board = asked[_ROUND], Board(silo.root / "board")
    if not isinstance(number, int):
        raise RoundError(f"the message is for round {number!r}; a number is wanted")
    _write(terms_path(board, number).parent, RELAYED, asked)
    with WriterLock(StatePaths(silo.root)):
        take_part(board, silo.root, silo.me, silo.coordinator, number, silo.contents)
    said = said_path(board, silo.me.name, number, "opening").parent
    names = SAID if "masked.json" not in asked else tuple(name for name in SAID if name != "masked.u64")
    record = ConfigRecord({_PARTY: silo.me.name, **_read(said, names)})
    return Message(RecordDict({_RECORD: record}), reply_to=message)


def add_up(
    grid: "Grid", board: Board, terms: Terms, key: SigningKey, *, patience: float, timeout: float = 60.0
) -> Sums:
    """Run a round with all connected clients: the total.

    Parameters
    ----------
    grid : of the ServerApp.
    board : where the coordinator keeps the round: begun again after a crash, it goes on.
    terms, key : what the round is about; signed with the coordinator's key.
    patience : seconds after which a silo that has not answered is missing.
    timeout : seconds for each message.

    Raises
    ------
    RoundError
        A silo is missing (named), or one failed and has not said why on the board.
    SumsError
        As ``tally.total_of``.

    Notes
    -----
    Three messages to each client and back; the masked numbers go once, 8 bytes for each pair of items.
    """
    begin(board, terms, key)
    end, errors = time.monotonic() + patience, [""]
    while (total := collect(board, terms)) is None:
        what, missing = waited_for(board, terms)
        if time.monotonic() > end:
            raise RoundError(
                f"round {terms.round} has no {what} of {', '.join(missing)} after {patience:g} s "
                f"({errors[-1] or 'no answer'}); wait longer, or begin another round without them"
            )
        errors += _ask(grid, board, terms, timeout)
    return total


def _ask(grid: "Grid", board: Board, terms: Terms, timeout: float) -> list[str]:
    """Send everybody what the coordinator has, write down what comes back; the errors among it."""
    from flwr.app import ConfigRecord, Message, RecordDict  # pyright: ignore[reportMissingImports]

    files = _read(terms_path(board, terms.round).parent, RELAYED)
    messages = [
        Message(
            RecordDict({_RECORD: ConfigRecord({_ROUND: terms.round, **files})}),
            dst_node_id=node,
            message_type=QUERY,
        )
        for node in grid.get_node_ids()
    ]
    if not messages:
        time.sleep(0.5)
        return []
    errors = []
    for reply in grid.send_and_receive(messages, timeout=timeout):
        if reply.has_error():
            errors.append(f"a client failed: {reply.error.reason}")
            continue
        record = reply.content.config_records[_RECORD]
        party = record[_PARTY]
        if isinstance(party, str) and party in terms.parties:
            _write(said_path(board, party, terms.round, "opening").parent, SAID, record)
    return errors


def _read(folder: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in names if (folder / name).exists()}


def _write(folder: Path, names: tuple[str, ...], record: Mapping[str, object]) -> None:
    """Write the files that are new; what a silo or the coordinator said once stays."""
    durable.make_directory(folder, durable.SHARED_FOLDER)
    for name in names:
        content = record.get(name)
        if isinstance(content, bytes) and not (folder / name).exists():
            durable.replace(folder / name, content, durable.SHARED)
