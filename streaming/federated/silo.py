"""A silo: keeps its rows, sends their sums, forgets its users, serves them from what is published.

``silo.json`` is the commit point. A message is committed to before it is written, with a file of the rows
that it sums up, and is a function of those: so it can be written again, the same bytes, until it is answered.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import polars as pl

from ...engine import durable
from ...engine.closable import Closable
from ...engine.signing import SigningKey, public_pem, read_public_key
from ...engine.state import StatePaths, WriterLock
from ...models.sums import SumsError, weigh_rows
from .board import RECEIPT_TYPE, REFUSAL_TYPE, Board, Charter, Receipt, Refusal, read_signed
from .message import FORMAT, FederationError, Kind, digest_of
from .rounds.sealing import ByProducts
from .sealing import Letters, Sealing, answered_as
from .secure.sealing import UnderMasks
from .silo_rows import matrix_of, read_rows, write_rows
from .silo_state import (
    DONE_KEPT,
    STATE,
    Done,
    Outgoing,
    Pending,
    SiloState,
    read_state,
    write_state,
)

DEFAULT_PATIENCE: Final = 7 * 86_400.0
"""Seconds: a week, of the month that the GDPR gives (article 12.3)."""

QUESTION_PATIENCE: Final = 10.0
"""Seconds that a silo stays in a solve without being asked, before it looks around again."""

_FIRST_ROWS: Final = "rows-000000-000000.parquet"


@dataclass(frozen=True)
class SiloStep:
    """What one look at the board came to: messages sent, users who are out, and in which version they are."""

    sent: int
    erased: int
    version: int | None


def join(
    root: Path,
    board: Path,
    party: str,
    frame: pl.DataFrame,
    coordinator: bytes,
    patience: float = DEFAULT_PATIENCE,
    *,
    secure: bool = False,
) -> Path:
    """Make a silo's directory: its key, its rows, its state; returns the file of its public key.

    Parameters
    ----------
    frame : ``user_id``, ``item_id`` and ``value``; copied.
    coordinator : the coordinator's public key, PEM, from a source that is trusted.
    secure : nothing but masked sums leaves this silo.

    Raises
    ------
    FederationError
        There is a silo already.
    ReceiptError
        The key is none.
    """
    paths = StatePaths(root)
    if (root / STATE).exists():
        raise FederationError(f"{root} has a silo already; use another directory")
    read_public_key(coordinator)
    durable.make_directory(paths.keys)
    durable.make_directory(root / "requests")
    SigningKey.create(paths)
    columns = [
        pl.col("user_id").cast(pl.String),
        pl.col("item_id").cast(pl.String),
        pl.col("value").cast(pl.Float64),
    ]
    write_rows(root / _FIRST_ROWS, frame.select(columns))
    state = SiloState(
        FORMAT, str(board.resolve()), party, coordinator.decode(), patience, epoch=0, sequence=0,
        rows=_FIRST_ROWS, pending=[], outgoing=[], done=[], items=0, catalogue="", left=False,
        secure=secure,
    )  # fmt: skip
    write_state(root, state)
    return paths.receipt_public_key


class Silo(Closable):
    """The one process that sends a silo's sums: open it, :meth:`step`, close it."""

    def __init__(self, root: Path) -> None:
        """Open a silo's directory.

        Raises
        ------
        FederationError
            There is none, or its state cannot be read.
        StateInUseError
            Another process has it open.
        """
        self._root, self.state = root, read_state(root)
        self._lock = WriterLock(StatePaths(root))
        self.state = read_state(root)  # as it is now that nobody else writes it
        self._key = SigningKey.create(StatePaths(root))
        self._coordinator = read_public_key(self.state.coordinator.encode())
        self.board = Board(Path(self.state.board))
        self._letters = Letters(root, self.board, self.state, self._key)

    def close(self) -> None:
        """Give the directory back."""
        self._lock.close()

    def _sealing(self, charter: Charter, stay: float = 0.0) -> Sealing:
        """Choose how messages leave: masked, if the silo joined so; else as the federation says."""
        if self.state.secure:
            return UnderMasks(self._letters, self._coordinator)
        if charter.products:
            return ByProducts(self._letters, self._coordinator, stay)
        return self._letters

    def step(self, *, flush: bool = False, stay: float = 0.0) -> SiloStep:
        """Take up requests, read answers, send what is due, answer what is asked.

        Parameters
        ----------
        flush : send a deletion now, however few users are waiting.
        stay : seconds to wait for the next question, where a coordinator asks for products.

        Raises
        ------
        FederationError
            The coordinator has not let this silo in, or has refused a message: the error says why.
        """
        self._take_up_requests()
        charter = self.board.read_charter(self._coordinator)
        erased, sent = self._read_answers(charter.epoch), 0
        if self.state.left:
            erased += self._erase_here()
        elif not self._is_leaving() or self.state.party in charter.parties:  # else the receipt is to come
            self._require_a_place(charter)
            sealing = self._sealing(charter, stay)
            if charter.epoch != self.state.epoch:
                self._enter(charter)
            elif self._is_due(charter, flush) and not sealing.holds(charter):
                self._send_deletion()
            sent = sealing.send(charter)
        self._tidy()
        return SiloStep(sent, erased, self.state.done[-1].version if self.state.done else None)

    def leave(self) -> None:
        """Ask to be forgotten as a whole, all sums; :meth:`step` sees the answer."""
        state = self.state
        if state.left or self._is_leaving():
            return
        charter = self.board.read_charter(self._coordinator)
        if state.epoch != charter.epoch:
            raise FederationError(
                "the silo has not entered this epoch yet; run it first: recunlearn silo run"
            )
        self._commit_message("leave", "", 0)
        self._sealing(charter).send(charter)

    def trust(self, name: str, public_key: bytes) -> None:
        """Take another silo's public key, PEM, as that silo gave it: sums are masked among those only.

        Raises
        ------
        FederationError
            This silo masks nothing.
        ReceiptError
            The key is none.
        """
        if not self.state.secure:
            raise FederationError(
                f"silo {self.state.party} sends its sums in the open and needs no other's key; to mask them: "
                "recunlearn silo join --secure"
            )
        self.state.peers[name] = public_pem(read_public_key(public_key)).decode()
        write_state(self._root, self.state)

    def _is_leaving(self) -> bool:
        return any(one.kind == "leave" for one in self.state.outgoing)

    def _take_up_requests(self) -> None:
        """Make pending who is asked to be forgotten and is here; then drop the requests."""
        requests = sorted((self._root / "requests").glob("*.json"))
        if not requests:
            return
        waiting = {one.user for one in self.state.pending}
        here = set(read_rows(self._root / self.state.rows)["user_id"].unique().to_list()) - waiting
        for path in requests:
            wanted = here & set(msgspec.json.decode(path.read_bytes(), type=list[str]))
            here -= wanted
            self.state.pending += [Pending(user, time.time()) for user in sorted(wanted)]
        write_state(self._root, self.state)
        for path in requests:
            durable.remove(path)

    def _read_answers(self, epoch: int) -> int:
        """Note what the coordinator says of the messages that are out; how many users are out by it.

        In a new epoch a refusal is no matter: everything is summed up again.
        """
        state, erased = self.state, 0
        for one in list(state.outgoing):
            answered = self.board.receipt_of(answered_as(state, one))
            receipt = read_signed(answered, RECEIPT_TYPE, self._coordinator, Receipt)
            if receipt is not None:
                self._require_own(receipt.key, receipt.party, one)
                state.outgoing.remove(one)
                state.done.append(Done(receipt.key, one.kind, one.erases, receipt.epoch, receipt.version))
                del state.done[:-DONE_KEPT]
                state.left |= one.kind == "leave"
                erased += one.erases
                write_state(self._root, state)
                continue
            place = self.board.refusal(state.party, state.epoch, one.sequence)
            refusal = read_signed(place, REFUSAL_TYPE, self._coordinator, Refusal)
            if refusal is not None and epoch == state.epoch:
                raise FederationError(
                    f"the coordinator refused message {refusal.key}: {refusal.why}; look into it, "
                    "then have a new epoch begun: recunlearn coordinator extend --again"
                )
        return erased

    def _require_own(self, key: str, party: str, one: Outgoing) -> None:
        own = answered_as(self.state, one)
        if (key, party) != (own, self.state.party):
            raise FederationError(
                f"the receipt in the place of {own} is for {key}: the board is not in order"
            )

    def _require_a_place(self, charter: Charter) -> None:
        """Check that the charter has this silo, sums as it gives them, and a catalogue that only grew."""
        state = self.state
        if charter.secure != state.secure:
            ours, theirs = ("masked", "in the open") if state.secure else ("in the open", "masked")
            raise FederationError(
                f"silo {state.party} joined to send sums {ours}, and the federation adds them {theirs}; if "
                "that is what is wanted, join from another directory: recunlearn silo join"
            )
        public = StatePaths(self._root).receipt_public_key.read_text()
        if charter.parties.get(state.party) != public:
            raise FederationError(
                f"the federation has no silo {state.party!r} with this key; have it admitted: recunlearn "
                f"coordinator admit --name {state.party} --key {StatePaths(self._root).receipt_public_key}"
            )
        if charter.epoch < state.epoch:
            raise FederationError(
                f"the board is in epoch {charter.epoch}, this silo was in {state.epoch} already"
            )
        lines = self.board.catalogue.read_bytes().splitlines(keepends=True)[: state.items]
        if state.items and digest_of(b"".join(lines)) != state.catalogue:
            raise FederationError(
                "the catalogue is not what it was with more at its end: columns would be mixed up"
            )

    def _enter(self, charter: Charter) -> None:
        """Begin an epoch: sum up everybody who stays. Who was to be forgotten is never in it."""
        state = self.state
        gone = [one.user for one in state.pending]
        before = read_rows(self._root / state.rows)
        stay = before.filter(~pl.col("user_id").is_in(gone)) if gone else before
        matrix = matrix_of(stay, self.board.read_catalogue(charter))
        try:  # before anything changes
            weigh_rows(matrix, charter.statistic)
        except SumsError as error:
            raise FederationError(f"the rows of {state.party} have no exact sums: {error}") from None
        erases = len(gone) + sum(one.erases for one in state.outgoing)
        is_leaving = self._is_leaving()
        rows = f"rows-{charter.epoch:06d}-000001.parquet"
        write_rows(self._root / rows, stay)
        state.epoch, state.sequence, state.outgoing, state.pending = charter.epoch, 0, [], []
        state.rows, state.items, state.catalogue = rows, charter.statistic.n_items, charter.catalogue
        self._add_message("rows", rows, erases)
        if is_leaving:  # the wish to leave outlives the epoch that it was said in
            self._add_message("leave", "", 0)
        write_state(self._root, state)

    def _is_due(self, charter: Charter, flush: bool) -> bool:
        pending = self.state.pending
        if not pending or self._is_leaving():  # with a silo all its sums go: no message of it counts after
            return False
        oldest = min(one.since for one in pending)
        return flush or len(pending) >= charter.batch or time.time() - oldest >= self.state.patience

    def _send_deletion(self) -> None:
        """Commit to the deletion of all who wait: their rows leave what is kept."""
        place, gone, leaving = self._part()
        write_rows(self._root / f"leaving-{place}.parquet", leaving)
        self._commit_message("deletion", f"leaving-{place}.parquet", gone)

    def _erase_here(self) -> int:
        """Drop the rows of all who wait, at a silo that left: its sums are in nothing; how many users."""
        if not self.state.pending:
            return 0
        _, gone, _ = self._part()
        self.state.sequence += 1
        write_state(self._root, self.state)
        return gone

    def _part(self) -> tuple[str, int, pl.DataFrame]:
        """Write what is kept without all who wait, to be committed to; where, how many users, their rows."""
        state = self.state
        gone = [one.user for one in state.pending]
        before = read_rows(self._root / state.rows)
        leaves = pl.col("user_id").is_in(gone)
        place = f"{state.epoch:06d}-{state.sequence + 1:06d}"
        write_rows(self._root / f"rows-{place}.parquet", before.filter(~leaves))
        state.pending, state.rows = [], f"rows-{place}.parquet"
        return place, len(gone), before.filter(leaves)

    def _commit_message(self, kind: Kind, rows: str, erases: int) -> None:
        self._add_message(kind, rows, erases)
        write_state(self._root, self.state)

    def _add_message(self, kind: Kind, rows: str, erases: int) -> None:
        state = self.state
        state.sequence += 1
        state.outgoing.append(Outgoing(state.sequence, kind, rows, erases))

    def _tidy(self) -> None:
        """Remove the rows that nothing needs any more: of users who are out, above all."""
        named = {self.state.rows} | {one.rows for one in self.state.outgoing}
        for path in self._root.glob("*.parquet*"):
            if path.name not in named:
                durable.remove(path)
