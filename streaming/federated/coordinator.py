"""The coordinator: takes in what silos send, publishes models of all, answers.

``state.json`` is the commit point: it names the files of the sums and the last message of each silo in them.
Sums files are written before it and removed after it; what is published follows from it. So a crash at any
step, and a start again, ends as no crash would have: no message is lost, none counts twice.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from ...engine import durable
from ...engine.closable import Closable
from ...engine.signing import ReceiptError, SigningKey, public_pem, read_public_key
from ...engine.state import StatePaths, WriterLock
from ...models.sums import SumsError
from .adding import SUMS, Adding, Apart
from .answers import Answers
from .board import CHARTER_TYPE, Board, Charter, Receipt, catalogue_lines, make_board
from .coordinator_state import Party, Taken, read_state, write_state
from .message import FORMAT, FederationError, Header, digest_of, key_of, open_header
from .publication import flip, read_current, read_version, write_version
from .rounds.adding import ByProducts
from .secure.adding import Together

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Step:
    """What one look at the inboxes came to: messages taken in and refused, and the version published."""

    taken: int
    refused: int
    published: int | None


class Coordinator(Closable):
    """The one process that adds up: open it, :meth:`step`, close it."""

    def __init__(self, root: Path) -> None:
        """Open a coordinator's directory.

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
        self.board = Board(Path(self.state.board))
        self._answers = Answers(root, self.board, self._key)
        durable.make_directory(root / SUMS)
        self._adding = self._way_to_add()
        self._say_what_is_done()
        self._finish()

    def _way_to_add(self) -> Adding:
        if self.state.rounds is not None:
            return Together(self._root, self.board, self.state, self._key)
        if self.state.solves is not None:
            return ByProducts(self._root, self.board, self.state, self._key)
        return Apart(self._root, self.board, self.state)

    def close(self) -> None:
        """Give the directory back."""
        self._lock.close()

    def admit(self, name: str, public_key: bytes) -> None:
        """Let a silo in, under its public key in PEM; the same again changes nothing.

        Under masks the silos of an epoch stay the same: once its first round has begun, this begins another.

        Raises
        ------
        FederationError
            The name cannot be a directory's, or is another silo's.
        ReceiptError
            The key is none.
        """
        if not name.isascii() or not name.replace("-", "").replace("_", "").isalnum():
            raise FederationError(f"a silo cannot be called {name!r}; use letters, digits, - and _")
        public = public_pem(read_public_key(public_key)).decode()
        if (known := self.state.parties.get(name)) is not None:
            if known.public != public:
                raise FederationError(f"{name} is a silo with another key already; dismiss it first")
            return
        if name in self.state.departed:
            raise FederationError(
                f"{name} left in this epoch; take another name, or begin a new epoch: recunlearn coordinator "
                "extend --again"
            )
        self.state.parties[name] = Party(public)
        self._commit_with_others()

    def dismiss(self, name: str) -> None:
        """Forget a whole silo: its sums, its key, its messages; published by the next :meth:`step`.

        Raises
        ------
        FederationError
            There is no such silo.
        """
        if name not in self.state.parties:
            known = ", ".join(self.state.parties) or "none"
            raise FederationError(f"there is no silo {name!r} (there are: {known})")
        self._drop(name)
        self._commit_with_others()

    def extend(self, items: Sequence[str], *, again: bool = False) -> int:
        """Append items to the catalogue and begin a new epoch: every silo is asked for its sums again.

        Parameters
        ----------
        items : those that are known already are left out; if that is all, nothing happens.
        again : begin an epoch even so.

        Returns
        -------
        How many were new.
        """
        known = set(self.state.items)
        new = [item for item in dict.fromkeys(items) if item not in known]
        if new or again:
            self.state.items += new
            self._begin_epoch()
        return len(new)

    def _begin_epoch(self) -> None:
        state = self.state
        state.epoch, state.opened, state.begun, state.dirty = state.epoch + 1, time.time(), False, True
        state.unanswered = [one for one in state.unanswered if one.header.kind == "leave"]
        state.departed = []
        for party in state.parties.values():
            party.sequence = 0
        self._adding.begin_epoch()
        self._commit()
        self._say_what_is_done()

    def _commit_with_others(self) -> None:
        """Commit after a silo came or went, in another epoch where an epoch's silos are fixed."""
        if self._adding.is_fixed():
            self._begin_epoch()
        else:
            self._commit()
            self._say_what_is_done()

    def step(self) -> Step:
        """Take in every message that is there, publish if that changed anything, answer, tidy up."""
        parties = set(self.state.parties)
        found = [self._take_from(name) for name in sorted(parties)]
        if set(self.state.parties) != parties:
            self._commit_with_others()
        elif any(taken for taken, _ in found):
            self._commit()
        self._add_up()
        published = self._publish() if self._adding.is_due() else None
        self._tidy()
        return Step(sum(taken for taken, _ in found), sum(refused for _, refused in found), published)

    def _add_up(self) -> None:
        """Let count what silos said together."""
        if self._adding.is_stuck():
            self._begin_epoch()
        self._adding.look()
        if not self.state.dirty and any(self._adding.counts(one.header) for one in self.state.unanswered):
            self._answer(self.state.version)  # nobody had anything: nothing is new

    def _commit(self) -> None:
        """Make what was taken in count: sums first, then the state that names them."""
        self._adding.keep()
        write_state(self._root, self.state)

    def _say_what_is_done(self) -> None:
        """Say on the board what the federation does now."""
        state = self.state
        parties = {name: party.public for name, party in state.parties.items()}
        make_board(self.board, parties)
        lines = catalogue_lines(state.items)
        charter = Charter(
            FORMAT, state.federation, state.epoch, state.model, state.settings, state.statistic,
            digest_of(lines), state.batch, parties, state.rounds is not None, state.solves is not None,
        )  # fmt: skip
        for path, content in (
            (self.board.public_key, public_pem(self._key.public)),
            (self.board.catalogue, lines),
            (self.board.charter, self._key.envelope(msgspec.json.encode(charter), CHARTER_TYPE)),
        ):
            if not path.exists() or path.read_bytes() != content:
                durable.replace(path, content, durable.SHARED)

    def _take_from(self, name: str) -> tuple[int, int]:
        """Take in a silo's messages in their order; returns how many, and how many were refused."""
        taken, refused = 0, 0
        for epoch, sequence in self.board.letters(name):
            party = self.state.parties.get(name)
            if party is None:
                break  # it has left
            if self.state.rounds is None and epoch == self.state.epoch and sequence > party.sequence + 1:
                continue  # an earlier one is missing: this one waits; under masks the others are no letters
            opened = None
            try:
                opened = self._open_letter(name, epoch, sequence)
                if opened is None or self._is_known(name, *opened):
                    continue
                self._take(name, party, opened[0])
            except (ReceiptError, FederationError) as error:
                self._set_aside(name, epoch, sequence, str(error))
                refused += 1
            except SumsError as error:
                assert opened is not None  # noqa: S101  for the type checkers
                self._refuse(*opened, "not-so", str(error))
                refused += 1
            else:
                self.state.unanswered.append(Taken(*opened))
                self.state.dirty = True
                taken += 1
        return taken, refused

    def _open_letter(self, name: str, epoch: int, sequence: int) -> tuple[Header, str] | None:
        """Check who wrote an envelope, and that it lies where it belongs; None while it is being written."""
        try:
            content = self.board.envelope(name, epoch, sequence).read_bytes()
        except FileNotFoundError:
            return None
        header = open_header(content, read_public_key(self.state.parties[name].public.encode()))
        expected = (self.state.federation, name, epoch, sequence, key_of(name, epoch, sequence))
        if (header.federation, header.party, header.epoch, header.sequence, header.key) != expected:
            raise ReceiptError(f"the message says that it is {header.key} of {header.federation}")
        return header, digest_of(content)

    def _is_known(self, name: str, header: Header, message: str) -> bool:
        """Deal with a message that came before, or too late; tell whether that is so."""
        state = self.state
        if header.epoch > state.epoch:
            raise FederationError(f"epoch {header.epoch} has not begun: this is epoch {state.epoch}")
        if header.epoch < state.epoch:
            why = f"this is epoch {state.epoch}: sums of epoch {header.epoch} say nothing in it"
            if not self.board.receipt_of(header.key).exists():
                self._refuse(header, message, "other-epoch", why)
            self._answers.remove_letter(header)
            return True
        if header.sequence > state.parties[name].sequence:
            return False
        receipt = self._answers.find(header.key)
        if receipt is not None and receipt.message == message:
            self._answers.post(header.key)
            self._answers.remove_letter(header)
        elif message not in {one.message for one in state.unanswered}:
            raise FederationError("another message counts in its place; this one does not")
        return True

    def _take(self, name: str, party: Party, header: Header) -> None:
        """Let a message count in memory; :meth:`_commit` makes it last.

        Raises
        ------
        SumsError
            It cannot be so; nothing has changed.
        """
        if header.format != FORMAT:
            raise SumsError(f"the message has format {header.format}; this release reads {FORMAT}")
        if header.kind == "leave":
            self._drop(name)
            return
        if header.statistic != self.state.statistic:
            raise SumsError(
                f"these are sums of {header.statistic}; the charter asks for {self.state.statistic}"
            )
        self._adding.take(header)
        party.sequence = header.sequence

    def _drop(self, name: str) -> None:
        had = self.state.parties.pop(name)
        self._adding.drop(name)
        self.state.departed.append(name)
        self.state.dirty |= bool(had.sums)

    def _publish(self) -> int | None:
        """Publish a model of all, and answer every message in it; None: it is to be tried again.

        Raises
        ------
        FederationError
            There is no such model; what was taken in counts all the same.
        """
        state = self.state
        version = state.version + 1
        try:
            made = self._adding.make()
        except ValueError as error:
            raise FederationError(f"no model can be made of these sums: {error}") from None
        if made is None:
            return None
        place = (state.federation, state.epoch, version)
        write_version(self.board, self._key, made.published, place, (made.users, made.parties))
        flip(self.board, version)
        state.settings = dict(made.published.settings)
        self._answer(version)
        return version

    def _finish(self) -> None:
        """Go on where a crash cut a publication, or its answers, off."""
        version, _ = read_current(self.board)
        if version == self.state.version + 1:
            self.state.settings = dict(read_version(self.board, self._key.public)[0].settings)
            self._answer(version)
        for key in self.state.answered:
            self._answers.post(key)

    def _answer(self, version: int) -> None:
        """Commit to what a published version has in it, and write the receipts."""
        state, (_, manifest) = self.state, read_current(self.board)
        self._adding.settle()
        now = datetime.now(UTC).isoformat(timespec="seconds")
        answered = [one for one in state.unanswered if self._adding.counts(one.header)]
        for one in answered:
            header = one.header
            receipt = Receipt(
                state.federation, header.party, header.key, one.message, header.kind, header.users,
                header.epoch, version, manifest, now,
            )  # fmt: skip
            self._answers.keep(receipt)
        state.version, state.begun, state.dirty = version, True, False
        state.unanswered = [one for one in state.unanswered if not self._adding.counts(one.header)]
        state.answered = [one.header.key for one in answered]
        self._commit()
        for one in answered:
            self._answers.post(one.header.key)
            self._answers.remove_letter(one.header)

    def _refuse(self, header: Header, message: str, code: str, why: str) -> None:
        _log.warning("message %s is refused: %s", header.key, why)
        self._answers.refuse(self.state.federation, header, message, code, why)
        self._answers.remove_letter(header)

    def _set_aside(self, name: str, epoch: int, sequence: int, why: str) -> None:
        """Take what nobody can be held to out of the inbox: the silo, if it wrote one, writes it again."""
        _log.warning("%s/%d/%d is set aside: %s", name, epoch, sequence, why)
        path = self.board.envelope(name, epoch, sequence)
        path.rename(path.with_suffix(".set-aside"))

    def _tidy(self) -> None:
        """Remove what nothing names any more: old versions, old sums."""
        self._adding.tidy()
        current, _ = read_current(self.board)
        for folder in self.board.versions.iterdir():
            if current and folder != self.board.version(current):
                durable.remove(folder)
