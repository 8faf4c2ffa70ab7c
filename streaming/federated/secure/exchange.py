"""A round over the shared directory: who writes what where. Any transport of files moves it.

::

    secure/000003/terms.json openings.json masked.json       the coordinator's: terms, and what all said
    inbox/NAME/secure-000003/opening.json masked.json confirmation.json  masked.u64    silo NAME's
"""

import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeAlias

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from ....engine import durable
from ....engine.signing import SigningKey
from ....models.sums import Sums
from ..board import Board
from ..message import digest_of
from ..said import sign
from . import party
from .party import Identity, Memory
from .tally import total_of
from .terms import (
    A,
    Confirmation,
    Masked,
    Opening,
    RoundError,
    Terms,
    digest_of_all,
    read_all,
    read_said,
    read_terms,
    require_enough,
)

_log = logging.getLogger(__name__)

MEMORY: Final = "secure.json"

Contents: TypeAlias = Callable[[Terms], tuple[str, Sums]]
"""What a silo brings to a round: its idempotency key and the sums; "" and the sums of nothing, if nothing."""


def terms_path(board: Board, number: int) -> Path:
    """Return where the terms of a round are; what all said lies beside them."""
    return board.root / "secure" / f"{number:06d}" / "terms.json"


def said_path(board: Board, name: str, number: int, what: str) -> Path:
    """Return where a silo says its opening, masked or confirmation."""
    return board.inbox(name) / f"secure-{number:06d}" / f"{what}.json"


def numbers_path(board: Board, name: str, number: int) -> Path:
    """Return where the masked numbers of a silo are, little-endian."""
    return said_path(board, name, number, "masked").with_suffix(".u64")


def begin(board: Board, terms: Terms, key: SigningKey) -> None:
    """Publish the terms of a round, unless they are published.

    Raises
    ------
    RoundError
        There are too few silos, or the number has been used for other terms.
    """
    require_enough(terms)
    path, content = terms_path(board, terms.round), sign(terms, key)
    if not path.exists():
        durable.make_directory(path.parent, durable.SHARED_FOLDER)
        durable.replace(path, content, durable.SHARED)
    elif path.read_bytes() != content:
        raise RoundError(f"round {terms.round} has begun with other terms; give the next one another number")


def open_round(board: Board) -> int:
    """Return the number of the last round that has terms on the board; 0: there is none."""
    begun = (_number_of(path.parent) for path in (board.root / "secure").glob("*/terms.json"))
    return max(begun, default=0)


def remove_other_rounds(board: Board, number: int) -> None:
    """Remove what was said in other rounds than ``number``, their terms first: nobody takes part any more."""
    for folder in (*(board.root / "secure").glob("*"), *board.root.glob("inbox/*/secure-*")):
        if _number_of(folder) != number:
            with suppress(OSError):  # a silo is just writing there: next time
                durable.remove(folder)


def collect(board: Board, terms: Terms) -> Sums | None:
    """Take a round as far as it goes; the total, or None while silos have to answer first.

    What is not as its silo should have signed it is taken off the board: the silo writes it again. What
    everybody has been shown stays.

    Raises
    ------
    RoundError, SumsError
        The numbers are not those that were signed any more, or their total is no sums: as
        :func:`~.tally.total_of`.
    """
    folder = terms_path(board, terms.round).parent
    openings = _shown(folder / "openings.json") or _said_by_all(board, terms, Opening)
    if openings is None:
        return None
    _publish(folder / "openings.json", openings)
    context = digest_of_all(read_all(terms, Opening, openings))
    headers = _shown(folder / "masked.json") or _said_by_all(
        board, terms, Masked, lambda one: one.openings == context and _is_here(board, one, terms.round)
    )
    if headers is None:
        return None
    _publish(folder / "masked.json", headers)
    everybody = digest_of_all(read_all(terms, Masked, headers))
    confirmations = _said_by_all(board, terms, Confirmation, lambda one: one.everybody == everybody)
    if confirmations is None:
        return None
    return total_of(
        terms, headers, confirmations, lambda name: numbers_path(board, name, terms.round).read_bytes()
    )


def shown(board: Board, terms: Terms) -> dict[str, bytes]:
    """Return the signed headers of the masked sums, as everybody was shown them; {} before."""
    return _shown(terms_path(board, terms.round).with_name("masked.json")) or {}


def waited_for(board: Board, terms: Terms) -> tuple[str, list[str]]:
    """Name what a round waits for, and which silos have not said it.

    Once it is confirmations, some may have agreed: it goes on when the others are back. Before that, another
    round without them costs nothing.
    """
    folder = terms_path(board, terms.round).parent
    what = "confirmation"
    if not (folder / "masked.json").exists():
        what = "masked" if (folder / "openings.json").exists() else "opening"
    return what, [n for n in sorted(terms.parties) if not said_path(board, n, terms.round, what).exists()]


def take_part(
    board: Board, root: Path, me: Identity, coordinator: Ed25519PublicKey, number: int, contents: Contents
) -> bool:
    """Say what a silo can say now in a round; whether it has said all.

    Parameters
    ----------
    board, root : the shared directory, and the silo's own: what it remembers is in ``secure.json`` there. One
        process at a time may be a silo.
    me, coordinator : who this is, and whose terms it takes.
    number : of the round.
    contents : asked once all openings are there, and again after a crash: it must then say the same.

    Raises
    ------
    RoundError, SumsError
        As in :mod:`~.party`.
    """
    published, kept = terms_path(board, number), root / MEMORY
    if not published.exists():
        return False
    terms = read_terms(published.read_bytes(), coordinator)
    known = read_memory(kept)
    memory = party.enter(me, known, terms)
    if memory != known:  # a silo looks often while it waits
        _remember(kept, memory)
    mine = said_path(board, me.name, number, "opening")
    if not memory.everybody:
        durable.make_directory(mine.parent, durable.SHARED_FOLDER)
        if not mine.exists():
            durable.replace(mine, party.opening(me, memory), durable.SHARED)
        openings = _shown(published.with_name("openings.json"))
        if openings is None:
            return False
        if not mine.with_name("masked.json").exists():
            memory = _mask(board, kept, me, memory, terms, openings, contents)
        headers = _shown(published.with_name("masked.json"))
        if headers is None:
            return False
        memory = _remember(kept, party.confirm(me, memory, terms, headers))
    if not mine.with_name("confirmation.json").exists():
        durable.make_directory(mine.parent, durable.SHARED_FOLDER)
        durable.replace(mine.with_name("confirmation.json"), party.confirmation(me, memory), durable.SHARED)
    return True


def _mask(
    board: Board,
    kept: Path,
    me: Identity,
    memory: Memory,
    terms: Terms,
    openings: dict[str, bytes],
    contents: Contents,
) -> Memory:
    """Remember what is masked, then say it: the numbers before the header that names them."""
    key, sums = contents(terms)
    memory, masked = party.mask(me, memory, terms, openings, sums, key)
    _remember(kept, memory)
    numbers = numbers_path(board, me.name, terms.round)
    durable.replace(numbers, masked.astype("<u8").tobytes(), durable.SHARED)
    durable.replace(numbers.with_suffix(".json"), party.masked_header(me, memory), durable.SHARED)
    return memory


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


def _said_by_all(
    board: Board, terms: Terms, kind: type[A], is_sound: Callable[[A], bool] = lambda _: True
) -> dict[str, bytes] | None:
    """Read what each silo said, once all have; what is not sound goes, and is waited for again."""
    paths = {
        name: said_path(board, name, terms.round, kind.__name__.lower()) for name in sorted(terms.parties)
    }
    if not all(path.exists() for path in paths.values()):
        return None
    contents = {name: path.read_bytes() for name, path in paths.items()}
    for name, content in contents.items():
        try:
            sound = is_sound(read_said(terms, kind, name, content))
        except RoundError as error:
            _log.warning("%s", error)
            sound = False
        if not sound:
            _log.warning("the %s of silo %s is set aside", kind.__name__.lower(), name)
            durable.remove(paths[name])
    return contents if all(path.exists() for path in paths.values()) else None


def _is_here(board: Board, one: Masked, number: int) -> bool:
    path = numbers_path(board, one.party, number)
    return path.exists() and digest_of(path.read_bytes()) == one.vector


def _number_of(folder: Path) -> int:
    number = folder.name.removeprefix("secure-")
    return int(number) if number.isdecimal() else 0


def _publish(path: Path, said: dict[str, bytes]) -> None:
    if not path.exists():
        durable.replace(path, msgspec.json.encode(said), durable.SHARED)


def _shown(path: Path) -> dict[str, bytes] | None:
    """Read what the coordinator shows everybody; None before."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, bytes])
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise RoundError(f"{path} cannot be read ({error}); ask the coordinator") from None
