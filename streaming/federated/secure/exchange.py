"""A round over the shared directory: who writes what where. Any transport of files moves it.

::

    secure/000003/terms.json openings.json masked.json       the coordinator's: terms, and what all said
    inbox/NAME/secure-000003/opening.json masked.json confirmation.json  masked.u64    silo NAME's
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeAlias

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from ....engine import durable
from ....engine.signing import SigningKey
from ....engine.state import StatePaths, WriterLock
from ....models.sums import Sums
from ..board import Board
from . import party
from .party import Identity, Memory
from .tally import total_of
from .terms import Masked, Opening, RoundError, Terms, read_all, read_terms, require_enough, sign

MEMORY: Final = "secure.json"

Contents: TypeAlias = Callable[[Terms], tuple[str, Sums]]
"""What a silo brings to a round: its idempotency key and the sums; "" and the sums of nothing, if nothing."""


def terms_path(board: Board, number: int) -> Path:
    """Return where the terms of a round are; what all said lies beside them."""
    return board.root / "secure" / f"{number:06d}" / "terms.json"


def said_path(board: Board, name: str, number: int, what: str) -> Path:
    """Return where a silo says its opening, masked or confirmation."""
    return board.inbox(name) / f"secure-{number:06d}" / f"{what}.json"


def begin(board: Board, terms: Terms, key: SigningKey) -> None:
    """Publish the terms of a round.

    Raises
    ------
    RoundError
        There are too few silos, or the number has been used for other terms.
    """
    require_enough(terms)
    path, content = terms_path(board, terms.round), sign(terms, key)
    if path.exists() and path.read_bytes() != content:
        raise RoundError(f"round {terms.round} has begun with other terms; give the next one another number")
    durable.make_directory(path.parent, durable.SHARED_FOLDER)
    durable.replace(path, content, durable.SHARED)


def collect(board: Board, terms: Terms) -> Sums | None:
    """Take a round as far as it goes; the total, or None while silos have to answer first.

    Raises
    ------
    RoundError, SumsError
        What a silo sent is not what it should be: as :func:`~.tally.total_of`.
    """
    openings = _said_by_all(board, terms, "opening")
    if openings is None:
        return None
    read_all(terms, Opening, openings)
    _publish(terms_path(board, terms.round).with_name("openings.json"), openings)
    headers = _said_by_all(board, terms, "masked")
    if headers is None:
        return None
    read_all(terms, Masked, headers)
    _publish(terms_path(board, terms.round).with_name("masked.json"), headers)
    confirmations = _said_by_all(board, terms, "confirmation")
    if confirmations is None:
        return None

    def numbers(name: str) -> bytes:
        return said_path(board, name, terms.round, "masked").with_suffix(".u64").read_bytes()

    return total_of(terms, headers, confirmations, numbers)


def waited_for(board: Board, terms: Terms) -> tuple[str, list[str]]:
    """Name what a round waits for, and of whom; ("", []): nothing.

    A silo that has no confirmation yet may have agreed: a round that waits for that goes on when it is back.
    Before that, another round without the silo costs nothing.
    """
    for what in ("opening", "masked", "confirmation"):
        missing = [n for n in sorted(terms.parties) if not said_path(board, n, terms.round, what).exists()]
        if missing:
            return what, missing
    return "", []


def take_part(
    board: Board, root: Path, me: Identity, coordinator: Ed25519PublicKey, number: int, contents: Contents
) -> bool:
    """Say what a silo can say now in a round; whether it has said all.

    Parameters
    ----------
    board, root : the shared directory, and the silo's own: what it remembers is in ``secure.json`` there.
    me, coordinator : who this is, and whose terms it takes.
    number : of the round.
    contents : asked once all openings are there, and again after a crash: it must then say the same.

    Raises
    ------
    RoundError, SumsError
        As in :mod:`~.party`.
    StateInUseError
        Another process is this silo.
    """
    with WriterLock(StatePaths(root)):
        return _take_part(board, root / MEMORY, me, coordinator, number, contents)


def _take_part(
    board: Board, kept: Path, me: Identity, coordinator: Ed25519PublicKey, number: int, contents: Contents
) -> bool:
    published = terms_path(board, number)
    if not published.exists():
        return False
    terms = read_terms(published.read_bytes(), coordinator)
    known = read_memory(kept)
    memory = party.enter(me, known, terms)
    if memory != known:  # a silo looks often while it waits
        _remember(kept, memory)
    mine = said_path(board, me.name, number, "opening")
    if not mine.exists():
        durable.make_directory(mine.parent, durable.SHARED_FOLDER)
        durable.replace(mine, party.opening(me, memory), durable.SHARED)
    openings = _published(published.with_name("openings.json"))
    if openings is None:
        return False
    header = mine.with_name("masked.json")
    if memory.private:
        key, sums = contents(terms)
        memory, masked = party.mask(me, memory, terms, openings, sums, key)
        _remember(kept, memory)
        durable.replace(header.with_suffix(".u64"), masked.astype("<u8").tobytes(), durable.SHARED)
        durable.replace(header, party.masked_header(me, memory), durable.SHARED)
        memory = _remember(kept, party.sent(memory))
    headers = _published(published.with_name("masked.json"))
    if headers is None:
        return False
    memory = _remember(kept, party.confirm(me, memory, terms, headers))
    durable.replace(mine.with_name("confirmation.json"), party.confirmation(me, memory), durable.SHARED)
    return True


def read_memory(path: Path) -> Memory:
    """Read what a silo remembers; nothing, before its first round.

    Raises
    ------
    RoundError
        It cannot be read.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Memory)
    except FileNotFoundError:
        return Memory()
    except msgspec.DecodeError as error:
        raise RoundError(f"{path} cannot be read ({error}); restore it from a backup") from None


def _remember(path: Path, memory: Memory) -> Memory:
    durable.replace(path, msgspec.json.encode(memory))
    return memory


def _said_by_all(board: Board, terms: Terms, what: str) -> dict[str, bytes] | None:
    paths = {name: said_path(board, name, terms.round, what) for name in terms.parties}
    if not all(path.exists() for path in paths.values()):
        return None
    return {name: path.read_bytes() for name, path in paths.items()}


def _publish(path: Path, said: dict[str, bytes]) -> None:
    if not path.exists():
        durable.replace(path, msgspec.json.encode(said), durable.SHARED)


def _published(path: Path) -> dict[str, bytes] | None:
    if not path.exists():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, bytes])
    except msgspec.DecodeError as error:
        raise RoundError(f"{path} cannot be read ({error}); ask the coordinator") from None
