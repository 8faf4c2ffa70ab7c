"""A stream of deletion events such as platforms send, and what must come of each: drawn from a seed.

Interactions and accounts to delete, some of users that nobody knows, people who come back, repetitions, ids
that are used twice, and records that cannot be read; in three wire formats, over several partitions. Order
is kept within a partition only, so only what comes in one partition may depend on it.
"""

import json
import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

ITEMS = 60
UNREADABLE = (
    b"",
    b"{broken",
    b"\xff\xfe",
    b"null",
    b"[" * 2_000,
    b'{"id": "x", "id": "y", "type": "account.deleted", "user_id": "1"}',
    b'{"id": "x", "type": "account.delete", "user_id": "1"}',
    b'{"id": "x", "type": "account.deleted"}',
    b'{"id": "x", "type": "interaction.removed", "user_id": "1"}',
    b'{"id": "x", "type": "account.deleted", "user_id": NaN}',
    b'{"id": "x", "type": "account.deleted", "user_id": "1", "time": "yesterday"}',
    None,
)
_SHARES = {"account": 0.03, "stranger": 0.05, "unreadable": 0.08, "reused": 0.01, "interaction": 0.42}
"""Of all events; half of the accounts come back, the rest are repetitions."""

_START = datetime(2026, 11, 24, tzinfo=UTC)


@dataclass(frozen=True)
class Message:
    """One message to send, and what it is: ``"request"``, ``"reused"`` or ``"unreadable"``."""

    kind: str
    partition: int
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()
    request: str = ""


@dataclass
class Stream:
    """What everybody took, what is sent, and what must be so afterwards.

    Attributes
    ----------
    taken : user -> their items.
    messages : in the order in which they are sent.
    requests : id of every valid request -> (kind, user, item or None).
    returns : users who come back, with the id of the re-admission; True where it is sent after the
        deletion in the same partition, so that it must be carried out.
    """

    taken: dict[str, list[str]]
    messages: list[Message] = field(default_factory=list)
    requests: dict[str, tuple[str, str, str | None]] = field(default_factory=dict)
    returns: dict[str, tuple[str, bool]] = field(default_factory=dict)

    def left(self):
        """Return every (user, item) that must be left, ascending."""
        kept = {user: set(items) for user, items in self.taken.items()}
        for kind, user, item in self.requests.values():
            if kind == "account" and user in kept:
                kept[user] = set()
            elif kind == "interaction" and user in kept:
                kept[user].discard(item)
        return sorted((user, item) for user, items in kept.items() for item in items)

    def deleted(self):
        """Return the users whose account is to be deleted, known or not."""
        return {user for kind, user, _ in self.requests.values() if kind == "account"}

    def outcomes(self):
        """Return request id -> what it may come to, whatever was read first."""
        deleted = self.deleted()

        def possible(kind, user, item):
            if kind == "readmission":
                return {"readmitted"} if self.returns[user][1] else {"readmitted", "nothing", "refused"}
            if user not in self.taken:
                return {"nothing"}
            return {"removed", "nothing"} if item is not None and user in deleted else {"removed"}

        return {request: possible(*asked) for request, asked in self.requests.items()}


def draw_stream(seed, users, events, partitions):
    """Draw who took what, and ``events`` messages over ``partitions``."""
    return _Drawing(random.Random(seed), users, events, partitions).stream  # noqa: S311  a seed, not a secret


class _Drawing:
    """Messages are drawn with a place between 0 and 1; what must come later is drawn after that place."""

    def __init__(self, draw, users, events, partitions):
        self._draw, self._partitions = draw, partitions
        taken = {
            str(10_000 + user): sorted(f"item-{item:02}" for item in draw.sample(range(ITEMS), 12))
            for user in range(users)
        }
        self.stream = Stream(taken)
        self._placed = []
        counts = {kind: int(share * events) for kind, share in _SHARES.items()}
        self._accounts(counts["account"])
        self._strangers(counts["stranger"])
        self._interactions(counts["interaction"])
        self._unreadable(counts["unreadable"])
        self._reused(counts["reused"])
        self._repetitions(events - len(self._placed))
        self.stream.messages = [message for _, _, message in sorted(self._placed, key=lambda one: one[:2])]

    def _place(self, message, after=0.0):
        at = self._draw.uniform(after, 1.0)
        self._placed.append((at, len(self._placed), message))
        return at

    def _request(self, number, kind, user, item=None, *, partition=None, after=0.0, hours=0):
        request = f"{kind}-{number}"
        event = {"type": _TYPES[kind], "user_id": user, "time": (_START + timedelta(hours=hours)).isoformat()}
        if item is not None:
            event["item_id"] = item
        if partition is None:
            partition = self._draw.randrange(self._partitions)
        request, value, headers = self._written(request, event)
        self.stream.requests[request] = (kind, user, item)
        message = Message("request", partition, value, headers, request)
        return message, self._place(message, after)

    def _written(self, request, event):
        """Write an event in one of the formats; returns the request's id, value and headers."""
        wire = self._draw.choice(("json", "structured", "binary"))
        if wire == "json":
            return request, json.dumps({"id": request, **event}).encode(), ()
        attributes = {
            "specversion": "1.0", "id": request, "source": "/shop",
            "type": event["type"], "time": event["time"],
        }  # fmt: skip
        data = {name: value for name, value in event.items() if name not in attributes}
        if wire == "structured":
            value = json.dumps({**attributes, "data": data}).encode()
            return f"/shop#{request}", value, (("content-type", b"application/cloudevents+json"),)
        headers = tuple((f"ce_{name}", text.encode()) for name, text in attributes.items())
        return f"/shop#{request}", json.dumps(data).encode(), headers

    def _accounts(self, count):
        for number, user in enumerate(self._draw.sample(sorted(self.stream.taken), count)):
            deletion, at = self._request(number, "account", user)
            if number % 2:
                in_order = number % 4 == 1
                back, _ = self._request(
                    number, "readmission", user, hours=1,
                    partition=deletion.partition if in_order else None, after=at if in_order else 0.0,
                )  # fmt: skip
                self.stream.returns[user] = (back.request, in_order)

    def _strangers(self, count):
        for number in range(count):
            kind, item = (("account", None), ("interaction", "item-00"))[number % 2]
            self._request(f"stranger-{number}", kind, str(900_000 + number), item)

    def _interactions(self, count):
        pairs = [(user, item) for user, items in self.stream.taken.items() for item in items]
        for number, (user, item) in enumerate(self._draw.sample(pairs, min(count, len(pairs)))):
            self._request(number, "interaction", user, item)

    def _unreadable(self, count):
        for number in range(count):
            value = UNREADABLE[number % len(UNREADABLE)]
            self._place(Message("unreadable", self._draw.randrange(self._partitions), value))

    def _reused(self, count):
        """Use ids of requests for one user again for another: the later one in the partition is refused."""
        firsts = [(at, message) for at, _, message in self._placed if message.kind == "request"]
        for at, first in self._draw.sample(firsts, count):
            request = first.request.removeprefix("/shop#")
            user = self._draw.choice([one for one in self.stream.taken if one not in first.value.decode()])
            event = {"type": "account.deleted", "user_id": user}
            value, headers = json.dumps({"id": request, **event}).encode(), ()
            if request != first.request:
                attributes = {"specversion": "1.0", "id": request, "source": "/shop", "type": event["type"]}
                headers = tuple((f"ce_{name}", text.encode()) for name, text in attributes.items())
            self._place(Message("reused", first.partition, value, headers), at)

    def _repetitions(self, count):
        """Send a message again, in any partition; a return that must come later stays behind its deletion."""
        in_order = {request for request, is_in_order in self.stream.returns.values() if is_in_order}
        firsts = [(at, message) for at, _, message in self._placed if message.kind == "request"]
        for at, first in self._draw.choices(firsts, k=max(0, count)):
            partition = self._draw.randrange(self._partitions)
            partition = first.partition if first.request in in_order else partition
            again = Message("request", partition, first.value, first.headers, first.request)
            self._place(again, at)


_TYPES = {
    "account": "account.deleted",
    "interaction": "interaction.removed",
    "readmission": "account.readmitted",
}
