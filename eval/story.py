"""What happens in the demo, told with real processes: fit, serve, forget one person, then a crowd.

Everything goes through the public command line and HTTP; nothing is retrained here.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..engine.ledger_connection import Connection, connect
from ..engine.requests import ExternalId
from ..engine.state import StatePaths
from ..engine.tables import IndexedMatrix, InteractionTable
from .audience import Answer, Api, Watch, watching
from .cast import Cast
from .channel import Channel
from .outcome import LIST_LENGTH, Asked, Published, read_published
from .processes import Child, CommandError, child, run_command
from .report import Dataset, Listed, RequestTiming
from .stages import Stages

_PATIENCE_SECONDS = 300.0
_POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Material:
    """What the demo is played with: the data set, its matrix, and titles."""

    dataset: Dataset
    table: InteractionTable
    matrix: IndexedMatrix
    titles: Mapping[ExternalId, str]

    def title(self, item: ExternalId) -> str:
        """Return an item's title, or its id where it has none."""
        return self.titles.get(item, f"item {item}")

    def user(self, row: int) -> ExternalId:
        """Return the external id of a row."""
        user: ExternalId = self.matrix.user_ids[row]
        return user


@dataclass
class Stage:
    """One removal as it was played: versions before and after, timings, and what the audience saw."""

    name: str
    asked: Asked
    before: Published
    after: Published
    requests: list[RequestTiming]
    watch: Watch


@dataclass
class Story:
    """All that happened, in order."""

    fit_seconds: float = 0.0
    stages: list[Stage] = field(default_factory=list)
    person_before: list[Listed] = field(default_factory=list)
    neighbour_before: dict[str, list[Listed]] = field(default_factory=dict)
    neighbour_after: dict[str, list[Listed]] = field(default_factory=dict)
    refusals: list[tuple[Answer, Answer]] = field(default_factory=list)
    status: Mapping[str, Any] = field(default_factory=dict)
    verified: Mapping[str, Any] = field(default_factory=dict)


def play(
    models: Sequence[str], material: Material, cast: Cast, channel: Channel, work: Path, stages: Stages
) -> Story:
    """Play the story in ``work / "state"``; every process that it starts has ended when it returns or raises.

    Raises
    ------
    CommandError
        A command of ours failed, or a request did.
    """
    story, state = Story(), work / "state"
    with stages.stage(f"fitting {', '.join(models)}"):
        story.fit_seconds = _fit(models, material.table, work)
    with contextlib.ExitStack() as running:
        with stages.stage("starting worker and server"):
            worker = running.enter_context(child("run", "--state", str(state), *channel.worker_options))
            server = running.enter_context(child("serve", "--state", str(state), "--port", "0"))
            port = _port(server)
            api = running.enter_context(contextlib.closing(Api(port)))
            _wait(lambda: api.get("/readyz").status == 200, worker, server)
            _wait(lambda: channel.listening in worker.said(), worker, server)
        person, neighbour = material.user(cast.person), material.user(cast.neighbour)
        story.person_before = _listed(api, material, person, models[0]) or []
        story.neighbour_before = _all_lists(api, material, neighbour, models)
        stages.say(f"user {person} is recommended: {_titles(story.person_before)}")
        published = read_published(state)
        for name, asked in _removals(material, cast):
            accounts, pairs = len(asked.accounts), len(asked.pair_users)
            with stages.stage(f"forgetting {name}", accounts + pairs) as advance:
                stage = _forget(
                    name, asked, channel, published, state, port, neighbour, (worker, server), advance
                )
            story.stages.append(stage)
            published = stage.after
            story.refusals += [_refused(api, user, models[0]) for user in asked.accounts]
            gone = story.refusals[-1][0]
            stages.say(f"user {asked.accounts[-1]} is answered: {gone.status} {gone.body.decode()}")
        story.neighbour_after = _all_lists(api, material, neighbour, models)
        for model in models:
            stages.say(f"user {neighbour} stays ({model}), before: {_titles(story.neighbour_before[model])}")
            stages.say(f"user {neighbour} stays ({model}), after:  {_titles(story.neighbour_after[model])}")
        story.status = api.get("/v1/status").json()
    return story


def _fit(models: Sequence[str], table: InteractionTable, work: Path) -> float:
    """Fit through the public command line, from a file; seconds, start of the process included."""
    data = work / "interactions.parquet"
    table.frame.select("user_id", "item_id").write_parquet(data)
    chosen = [argument for name in models for argument in ("--model", name)]
    started = time.perf_counter()
    run_command("fit", "--data", str(data), "--state", str(work / "state"), *chosen, "--json")
    data.unlink()  # the platform's own data: what the engine keeps of it is in the state directory
    return time.perf_counter() - started


def _port(server: Child) -> int:
    """Read from the server's first line where it listens."""
    line = server.first_line()
    return int(line.rpartition(":")[2].split()[0].strip("/"))


def _removals(material: Material, cast: Cast) -> Iterator[tuple[str, Asked]]:
    users, items = material.matrix.user_ids, material.matrix.item_ids
    yield "one account", Asked([material.user(cast.person)], [], [])
    crowd = Asked(
        users[cast.crowd].to_list(), users[cast.pair_users].to_list(), items[cast.pair_items].to_list()
    )
    yield "a crowd", crowd


def _forget(
    name: str,
    asked: Asked,
    channel: Channel,
    before: Published,
    state: Path,
    port: int,
    neighbour: ExternalId,
    processes: Sequence[Child],
    advance: Callable[[int], None],
) -> Stage:
    """Ask for a removal and wait until all of it is erased and served."""
    known = _erased(state)
    expected = known + len(asked.accounts) + len(asked.pair_users)
    with watching(port, [neighbour], asked.accounts, list(before.models)) as watch:
        channel.ask(asked)

        def all_erased() -> bool:
            erased = _erased(state)
            advance(erased - known)
            return erased >= expected

        _wait(all_erased, *processes)
        with contextlib.closing(Api(port)) as api:
            after = read_published(state)
            _wait(lambda: api.get("/readyz").json()["version"] >= after.version, *processes)
    return Stage(name, asked, before, after, _timings(state, known), watch)


def _wait(done: Callable[[], bool], *processes: Child) -> None:
    """Wait until ``done``, as long as the processes live and our patience lasts."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not done():
        for process in processes:
            process.check()
        if time.monotonic() > deadline:
            raise CommandError(f"no end after {_PATIENCE_SECONDS:.0f} s; {processes[0].said()}")
        time.sleep(_POLL_SECONDS)


@contextlib.contextmanager
def _ledger(state: Path) -> Iterator[Connection]:
    """Open the ledger for reading."""
    with contextlib.closing(connect(StatePaths(state).ledger, read_only=True)) as connection:
        yield connection


def _erased(state: Path) -> int:
    """Count the requests that are erased.

    Raises
    ------
    CommandError
        A request failed.
    """
    with _ledger(state) as ledger:
        counts = dict(ledger.execute("SELECT state, count(*) FROM requests GROUP BY state"))
    if counts.get("failed"):
        raise CommandError(f"{counts['failed']} requests failed; see: recunlearn status --state {state}")
    return int(counts.get("erased", 0))


def _timings(state: Path, known: int) -> list[RequestTiming]:
    """Read the stamps of the requests after the first ``known``: from asked to fenced and to erased."""
    with _ledger(state) as ledger:
        rows = ledger.execute(
            "SELECT kind, coalesce(requested_at, received_at), fenced_at, done_at FROM requests "
            "ORDER BY seq LIMIT -1 OFFSET ?",
            (known,),
        ).fetchall()
    return [RequestTiming(kind, fenced - asked, erased - asked) for kind, asked, fenced, erased in rows]


def _listed(api: Api, material: Material, user: ExternalId, model: str) -> list[Listed] | None:
    """Ask for a user's list, with titles; None if they are not served."""
    answer = api.recommendations(user, model, LIST_LENGTH)
    if answer.status != 200:
        return None
    items = answer.json()["items"]
    return [Listed(item["item_id"], material.title(item["item_id"]), item["score"]) for item in items]


def _titles(items: Sequence[Listed], number: int = 3) -> str:
    return " · ".join(item.title for item in items[:number])


def _all_lists(
    api: Api, material: Material, user: ExternalId, models: Sequence[str]
) -> dict[str, list[Listed]]:
    return {model: _listed(api, material, user, model) or [] for model in models}


def _refused(api: Api, user: ExternalId, model: str) -> tuple[Answer, Answer]:
    """Ask for somebody forgotten, and for somebody who never existed."""
    stranger = f"{user}-never-existed"
    return api.recommendations(user, model, 10), api.recommendations(stranger, model, 10)
