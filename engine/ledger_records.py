"""What goes into the request ledger and comes out of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from .requests import Request


class Received(msgspec.Struct, frozen=True, gc=False):
    """A request with where it was read."""

    request: Request
    partition: str | None = None
    offset: int | None = None


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that could not be read as a request: a duty that is not fulfilled."""

    partition: str
    offset: int
    reason: str


@dataclass(frozen=True, slots=True)
class Pending:
    """A request that waits to be erased; ``seq`` is its number in the ledger."""

    seq: int
    request: Request


@dataclass(frozen=True, slots=True)
class DoneRequest:
    """What the ledger keeps of a request that is done; times are Unix seconds.

    ``done_at`` is when the user was erased, anonymised or admitted again; a re-admission has no
    ``fenced_at`` and no cycle.
    """

    seq: int
    request_id: str
    kind: str
    subject: bytes
    partition: str | None
    offset: int | None
    requested_at: float | None
    received_at: float
    fenced_at: float | None
    done_at: float
    outcome: str
    cycle: int | None


@dataclass(frozen=True, slots=True)
class Cycle:
    """One erasure cycle: the version it publishes, how far it is, and its record."""

    cycle: int
    version: int
    state: str
    record: Mapping[str, Any]
