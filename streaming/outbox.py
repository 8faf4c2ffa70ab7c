"""What goes out: each new version announced, each receipt sent, at least once, after it is durable.

How far was sent is a position in the ledger, beside those of the sources, and is noted after the sink has
taken the messages. A crash in between sends them again: a message has the same key and the same bytes each
time it is sent, so that a repeat does no harm.

Only the newest version is announced: those before it are purged, nobody could fetch them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec

from ..engine import durable
from ..engine.ledger import Ledger
from ..engine.receipts import log_name, read_checkpoint, read_lines, state_public_key
from ..engine.signing import ReceiptError
from ..engine.state import StatePaths
from ..engine.version import Manifest, read_current, read_manifest, read_while_current
from .journal import is_terminated

VERSIONS, RECEIPTS = "versions", "receipts"
"""The streams that go out."""

_RECEIPTS_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Message:
    """One message: ``key`` names what it is about, so that a later one, or a repeat, takes its place."""

    stream: str
    key: bytes
    value: bytes


class Sink(Protocol):
    """Where messages go.

    Attributes
    ----------
    name : under which the ledger keeps how far was sent; another target is another name.
    streams : which streams it takes.
    """

    name: str
    streams: frozenset[str]

    def send(self, messages: Sequence[Message]) -> None:
        """Send messages in order; they are durable when this returns.

        Raises
        ------
        OSError, SourceError
            It does not take them now; some may have been taken.
        """
        ...

    def close(self) -> None:
        """Release what is held."""
        ...


class FileSink:
    """An append-only file, a JSON object a line: ``{"stream": ..., "key": ..., "value": ...}``.

    Parameters
    ----------
    path : the file; it is made when there is something to write.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.name = f"file:{path.resolve()}"
        self.streams = frozenset({VERSIONS, RECEIPTS})

    def send(self, messages: Sequence[Message]) -> None:
        """Append, durably; a line that a crash cut off is ended first."""
        lines = b"".join(
            msgspec.json.encode(
                {"stream": one.stream, "key": one.key.decode(), "value": msgspec.Raw(one.value)}
            )
            + b"\n"
            for one in messages
        )
        torn = self._path.exists() and not is_terminated(self._path)
        durable.append(self._path, b"\n" + lines if torn else lines)

    def close(self) -> None:
        """Nothing is held between calls."""


class Outbox:
    """Sends what is new to a sink, and remembers it in the ledger.

    Parameters
    ----------
    ledger : a connection of its own, for the thread that calls.
    location : where a version can be fetched from, for :func:`~..engine.version_transfer.pull`; announced.
    """

    def __init__(self, paths: StatePaths, ledger: Ledger, sink: Sink, location: str | None = None) -> None:
        self._paths, self._ledger, self._sink, self._location = paths, ledger, sink, location
        self._source = f"out:{sink.name}"  # no topic has such a name

    def send_new(self) -> int:
        """Send what was not sent yet; returns how many messages.

        Raises
        ------
        OSError, SourceError, StateError
            The sink or the state is not as it must be; what was not noted is sent again later.
        """
        sent = 0
        while messages := self._next():
            self._sink.send([message for message, _ in messages])
            positions = dict(position for _, position in messages)
            self._ledger.record([], source=self._source, positions=positions)
            sent += len(messages)
        return sent

    def _next(self) -> list[tuple[Message, tuple[str, int]]]:
        """Return the next messages, each with the position after it."""
        at = self._ledger.positions(self._source)
        found = []
        if self._version_waits(at):
            number, message = read_while_current(self._paths, self._announcement)
            found.append((message, (VERSIONS, number + 1)))
        start, count = self._receipts_waiting(at)
        if count:
            lines = read_lines(self._paths, start + min(count, _RECEIPTS_AT_ONCE))[start:]
            state = log_name(self._paths)
            found += [
                (Message(RECEIPTS, f"{state}/{index}".encode(), line), (RECEIPTS, index + 1))
                for index, line in enumerate(lines, start)
            ]
        return found

    def _version_waits(self, at: dict[str, int]) -> bool:
        return VERSIONS in self._sink.streams and read_current(self._paths)[0] >= at.get(VERSIONS, 0)

    def _receipts_waiting(self, at: dict[str, int]) -> tuple[int, int]:
        """Return the place of the next receipt, and how many are signed and not sent."""
        start = at.get(RECEIPTS, 0)
        if RECEIPTS not in self._sink.streams:
            return start, 0
        try:
            checkpoint = read_checkpoint(self._paths, state_public_key(self._paths))
        except ReceiptError:
            return start, 0  # no receipt yet, or a log that its owner was told to restore
        return start, max(0, (0 if checkpoint is None else checkpoint.size) - start)

    def _announcement(self, number: int, digest: str) -> tuple[int, Message]:
        manifest = read_manifest(self._paths, number, digest)
        state = log_name(self._paths)
        said = announcement(manifest, digest, state, self._location)
        return number, Message(VERSIONS, state.encode(), msgspec.json.encode(said))


def announcement(
    manifest: Manifest, manifest_sha256: str, state: str, location: str | None
) -> dict[str, Any]:
    """Say what a version is, JSON-ready, the same each time.

    ``manifest_sha256`` commits to the manifest, which commits to every file: who has it can check whatever
    they fetch.
    """
    return {
        "type": "version.published",
        "state": state,
        "version": manifest.version,
        "manifest_sha256": manifest_sha256,
        "parent_sha256": manifest.parent,
        "created": manifest.created,
        "location": location,
        "counts": msgspec.to_builtins(manifest.counts),
        "models": {name: msgspec.to_builtins(model.proof) for name, model in manifest.models.items()},
    }
