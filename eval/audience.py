"""Who watches the server while versions are swapped: asks over HTTP without a pause, and keeps count."""

import contextlib
import http.client
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import msgspec

from ..engine.requests import ExternalId

_PAUSE_SECONDS = 0.004
_TIMEOUT_SECONDS = 30.0
_IDLE_SECONDS = 2.0


@dataclass(frozen=True)
class Answer:
    """An HTTP answer: status, headers but the date, body."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def json(self) -> Any:
        """Decode the body."""
        return msgspec.json.decode(self.body)


class Api:
    """One connection to a recommendation server on this machine; for one thread."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_SECONDS)
        self._used = 0.0

    def get(self, path: str) -> Answer:
        """Ask once.

        Raises
        ------
        OSError, http.client.HTTPException
            There is no answer.
        """
        if time.monotonic() - self._used > _IDLE_SECONDS:
            self._connection.close()  # a server may hang up on who was silent: that is no dropped request
        self._connection.request("GET", path)
        response = self._connection.getresponse()
        self._used = time.monotonic()
        headers = tuple((k, v) for k, v in response.getheaders() if k.lower() != "date")
        return Answer(response.status, headers, response.read())

    def recommendations(self, user_id: ExternalId, model: str, n: int) -> Answer:
        """Ask for a user's recommendations."""
        return self.get(f"/v1/users/{quote(str(user_id), safe='')}/recommendations?n={n}&model={model}")

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


@dataclass
class Watch:
    """What the audience saw.

    Attributes
    ----------
    answers : how many answers the stayers got. stumbles : what was wrong with any: a failure, a status other
        than 200, a version older than one seen before.
    versions : those seen, in order.
    slowest : seconds, the slowest answer.
    gone : user -> when they were first answered 404 (Unix seconds).
    """

    answers: int = 0
    stumbles: list[str] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    slowest: float = 0.0
    gone: dict[ExternalId, float] = field(default_factory=dict)

    def note(self, answer: Answer, elapsed: float) -> None:
        """Note an answer to somebody who stays."""
        self.answers += 1
        self.slowest = max(self.slowest, elapsed)
        if answer.status != 200:
            self.stumbles.append(f"status {answer.status}")
            return
        version = answer.json()["version"]
        if not self.versions or version > self.versions[-1]:
            self.versions.append(version)
        elif version < self.versions[-1]:
            self.stumbles.append(f"version {version} after {self.versions[-1]}")


@contextlib.contextmanager
def watching(
    port: int, stayers: Sequence[ExternalId], leavers: Sequence[ExternalId], models: Sequence[str]
) -> Iterator[Watch]:
    """Ask for stayers and leavers in turn, from a thread of its own, until the block is left.

    There is a round before the block begins and one after it is left, however fast what happens in it is.

    Parameters
    ----------
    stayers : must always be served. leavers : noted when they are first not.
    """
    watch, seated, done = Watch(), threading.Event(), threading.Event()
    thread = threading.Thread(
        target=_watch,
        args=(port, stayers, leavers, models, watch, seated, done),
        name="audience",
        daemon=True,
    )
    thread.start()
    try:
        seated.wait()
        yield watch
    finally:
        done.set()
        thread.join()


def _watch(
    port: int,
    stayers: Sequence[ExternalId],
    leavers: Sequence[ExternalId],
    models: Sequence[str],
    watch: Watch,
    seated: threading.Event,
    done: threading.Event,
) -> None:
    api, turn, is_last = Api(port), 0, False
    while not is_last:
        is_last = done.wait(_PAUSE_SECONDS)
        model, stayer = models[turn % len(models)], stayers[turn % len(stayers)]
        turn += 1
        started = time.perf_counter()
        try:
            watch.note(api.recommendations(stayer, model, 10), time.perf_counter() - started)
            for leaver in leavers:
                if leaver not in watch.gone and api.recommendations(leaver, model, 1).status == 404:
                    watch.gone[leaver] = time.time()
        except (OSError, http.client.HTTPException) as error:
            watch.stumbles.append(type(error).__name__)
            api.close()
        finally:
            seated.set()
    api.close()
