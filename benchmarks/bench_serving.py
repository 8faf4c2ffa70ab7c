"""Serving under load, from outside, while a real worker erases users and publishes versions.

    python benchmarks/bench_serving.py --data train.txt --folder . --json serving.json > serving.md

``recunlearn serve`` and ``recunlearn run`` on a state that ``recunlearn fit`` made; ``--rate`` requests a
second, one in five about somebody forgotten, being forgotten, or unknown. In turns, ``--rounds`` times:
nothing else happens; the worker erases a user, publishes and is awaited, ``--swaps`` times in all; the same
worker does the same to *another* state, which takes the processor as much but swaps nothing; versions that
were made beforehand are published, while no worker works. Beside them a dict in the same framework. Every
answer is then held against its version's own, computed apart, and every answer about somebody forgotten
against the ledger's stamp. Then the memory of a server over ``--growth`` swaps, and whether the time of an
answer tells somebody forgotten from somebody unknown. Prints Markdown.
"""

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import load
import numpy as np
import serving_growth
import serving_processes as processes
import serving_timing
import turns
from bench_cycle import frame_of
from recunlearn.engine.fence import Fence
from recunlearn.engine.state import StatePaths
from recunlearn.engine.version import read_current
from serving_checks import Kept, answer, fence_record, fenced_at, wrong_answers
from serving_flips import Flipping

PATH = "/v1/users/{}/recommendations?n=10"
N = 10
BARE, STILL, SWAPS, ELSEWHERE, FLIPS = (
    "a dict in the same framework",
    "no swaps",
    "swaps",
    "no swaps, the worker busy on another state",
    "swaps of versions made beforehand, nobody at work",
)
RATIOS = SWAPS, ELSEWHERE, FLIPS
TURNS = {"bare": BARE, "still": STILL, "swaps": SWAPS, "elsewhere": ELSEWHERE, "flips": FLIPS}


class People:
    """Who is asked for: mostly those who stay, one in 20 who is going now, three in 20 who are gone.

    Attributes
    ----------
    fenced : when somebody who went was seen to be fenced, from this process, Unix seconds.
    """

    def __init__(self, users: list[str], leaving: int) -> None:
        chosen = random.Random(0)  # noqa: S311  a sample, no secret
        users = chosen.sample(users, len(users))
        self.leaving, self.staying = users[:leaving], users[leaving:]
        self.gone = [f"nobody-{k}" for k in range(100)]
        self.going = self.staying[0]
        self.fenced: dict[str, float] = {}
        self._random = chosen

    def key(self) -> str:
        """Draw somebody."""
        draw = self._random.random()
        if draw < 0.05:
            return self.going
        return self._random.choice(self.gone if draw < 0.2 else self.staying)


class Erasing:
    """Sends deletions to a worker one after the other, and keeps each version that comes of it."""

    def __init__(
        self, paths: StatePaths, people: People, users: list[str], kept: Kept | None, pause: float
    ) -> None:
        self._paths, self._people, self._users, self._kept, self._pause = paths, people, users, kept, pause
        self._fence = None if kept is None else Fence(paths.root)

    def run(self) -> None:
        """Erase all of them."""
        for user in self._users:
            self._erase(user)
            time.sleep(self._pause)

    def _erase(self, user: str) -> None:
        before, _ = read_current(self._paths)
        if self._kept is not None:
            self._people.going = user
        processes.erase(self._paths.root, user)
        if self._fence is not None:
            while not self._fence.is_fenced(user):
                time.sleep(0.002)
            self._people.fenced[user] = time.time()
        published = processes.await_version(self._paths, before)
        if self._kept is not None:
            self._kept.keep(self._paths, *published)
            self._people.gone.append(user)


def measure(
    server: processes.Running, workers: list[processes.Running], people: People, rate: float,
    ended: Callable[[float], bool],
) -> dict[str, Any]:  # fmt: skip
    """Run the load; returns the exchanges, and who took how much of a core."""
    before = server.cpu(), sum(worker.cpu() for worker in workers)
    loaded = load.run(server.url, PATH, people.key, rate, ended)
    used = server.cpu() - before[0], sum(worker.cpu() for worker in workers) - before[1]
    return {
        "exchanges": loaded.exchanges,
        "late": loaded.late,
        "seconds": loaded.seconds,
        "server": used[0],
        "workers": used[1],
        "client": loaded.cpu,
    }


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Put the runs of one kind together."""
    exchanges = [exchange for run in runs for exchange in run["exchanges"]]
    waits = 1e3 * np.array([exchange.received - exchange.due for exchange in exchanges])
    seconds = sum(run["seconds"] for run in runs)
    quantiles = {f"p{q:g}": float(np.percentile(waits, q)) for q in (50, 90, 99, 99.9)}
    by_run = [
        float(np.percentile([1e3 * (e.received - e.due) for e in run["exchanges"]], 99)) for run in runs
    ]
    return {
        "requests": len(exchanges),
        "a second": len(exchanges) / seconds,
        **quantiles,
        "most": float(waits.max()),
        "p99 by round": by_run,
        "errors": sum(exchange.status not in (200, 404) for exchange in exchanges),
        "not found": sum(exchange.status == 404 for exchange in exchanges),
        "generator late p99": 1e3 * float(np.percentile([late for run in runs for late in run["late"]], 99)),
        **{
            f"cores, {who}": sum(run[who] for run in runs) / seconds
            for who in ("server", "workers", "client")
        },
    }


@dataclass
class Stage:
    """What runs while it is measured: servers, workers on two states, and whoever publishes.

    Attributes
    ----------
    kept, kept_flips : the published versions of the state and of its copy for prepared versions.
    """

    options: argparse.Namespace
    people: People
    paths: StatePaths
    other: StatePaths
    kept: Kept
    kept_flips: Kept
    flipping: Flipping
    server: processes.Running
    flipped: processes.Running
    bare: processes.Running
    workers: list[processes.Running]

    @classmethod
    def set_up(cls, folder: Path, options: argparse.Namespace, enter: Callable[[Any], Any]) -> "Stage":
        """Fit, copy the state twice, and start everything; ``enter`` ends what it is given."""
        lines = turns.read_lines(options.data) if options.data else turns.generated(*options.generate)
        frame = frame_of(lines)
        state = processes.fit(folder, frame, options.models)
        other, flips = folder / "other", folder / "flips"
        for copy in (other, flips):
            shutil.copytree(state, copy)
        paths, kept = StatePaths(state), Kept(StatePaths(folder / "kept"))
        kept.keep(paths, *processes.await_version(paths, 0))
        kept_flips = Kept(StatePaths(folder / "kept-flips"))
        flipping = Flipping(flips, options.swaps + 1, kept_flips, options.pause)
        people = People(sorted(set(frame["user_id"].to_list())), 2 * options.swaps + 1)
        env = {"NUMBA_NUM_THREADS": str(options.worker_threads)} if options.worker_threads else {}
        batching = "--batch-age", str(options.batch_age)
        run = [*processes.COMMAND, "run", "--solve-priority", options.solve_priority, *batching, "--state"]
        serve = [*processes.COMMAND, "serve", "--port", "0", "--state"]
        return cls(
            options, people, paths, StatePaths(other), kept, kept_flips, flipping,
            server=enter(processes.started(*serve, str(state), says_url=True)),
            flipped=enter(processes.started(*serve, str(flips), says_url=True)),
            bare=enter(started_bare(folder, kept, people)),
            workers=[
                enter(processes.started(*run, str(path), nice=options.nice, env=env))
                for path in (state, other)
            ],
        )  # fmt: skip

    def warm_up(self) -> None:
        """Do everything once: what is compiled or loaded at the first time is not measured."""
        for paths, kept in ((self.paths, self.kept), (self.other, None)):
            Erasing(paths, self.people, [self.people.leaving[-1]], kept, 0.0).run()
        self.flipping.run(1)
        for server in (self.server, self.flipped):
            load.run(server.url, PATH, self.people.key, self.options.rate, lambda seconds: seconds > 3)

    def quiet(self, server: processes.Running) -> dict[str, Any]:
        """Measure a server while nothing else happens."""
        return self._measure(server, lambda seconds: seconds > self.options.seconds)

    def while_it_runs(self, server: processes.Running, publish: Callable[[], None]) -> dict[str, Any]:
        """Measure a server while ``publish`` runs."""
        with ThreadPoolExecutor(1) as background:
            running = background.submit(publish)
            found = self._measure(server, lambda _: running.done())
            running.result()
        self.people.going = self.people.staying[0]
        return found

    def _measure(self, server: processes.Running, ended: Callable[[float], bool]) -> dict[str, Any]:
        return measure(server, self.workers, self.people, self.options.rate, ended)


def under_load(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Measure everything with the load generator; returns figures and what the checks found."""
    runs: dict[str, list[dict[str, Any]]] = {kind: [] for kind in TURNS.values()}
    with ExitStack() as stack:
        stage = Stage.set_up(folder, options, stack.enter_context)
        stage.warm_up()
        people, per_round = stage.people, options.swaps // options.rounds
        leaving, elsewhere = people.leaving[: options.swaps], people.leaving[options.swaps : -1]
        for turn in range(options.rounds):
            part = slice(turn * per_round, (turn + 1) * per_round)
            erasing = Erasing(stage.paths, people, leaving[part], stage.kept, options.pause)
            busy = Erasing(stage.other, people, elsewhere[part], None, options.pause)
            turns_of: dict[str, Callable[[], dict[str, Any]]] = {
                BARE: partial(stage.quiet, stage.bare),
                STILL: partial(stage.quiet, stage.server),
                SWAPS: partial(stage.while_it_runs, stage.server, erasing.run),
                ELSEWHERE: partial(stage.while_it_runs, stage.server, busy.run),
                FLIPS: partial(stage.while_it_runs, stage.flipped, partial(stage.flipping.run, per_round)),
            }
            for name in options.turns:
                runs[TURNS[name]].append(turns_of[TURNS[name]]())
    of = {kind: [e for run in found for e in run["exchanges"]] for kind, found in runs.items()}
    of_server = [*of[STILL], *of[SWAPS], *of[ELSEWHERE]]
    checked = checks(of_server, stage.kept, stage.paths, people, options.swaps)
    checked |= checks_of_flips(of[FLIPS], stage.kept_flips)
    return {"figures": {kind: summary(found) for kind, found in runs.items() if found}, "checks": checked}


def started_bare(folder: Path, kept: Kept, people: People) -> Any:
    """Start the dict: the first version's answers for everybody who is asked for."""
    snapshot = kept.load(1)
    answers = {user: answer(snapshot, user, N) for user in [*people.staying, *people.leaving]}
    path = folder / "answers.json"
    path.write_text(json.dumps(answers))
    script = Path(__file__).with_name("bare_server.py")
    return processes.started(sys.executable, str(script), str(path), says_url=True)


def checks(
    exchanges: list[load.Exchange], kept: Kept, paths: StatePaths, people: People, swaps: int
) -> dict[str, Any]:
    """Hold all answers of the server against what they had to be."""
    gone = [*people.leaving[:swaps], people.leaving[-1]]
    staying = set(people.staying) | set(people.leaving[swaps:-1])
    firsts: dict[int, float] = {}
    for exchange in sorted(exchanges, key=lambda e: e.received):
        if exchange.status == 200:
            firsts.setdefault(json.loads(exchange.body)["version"], exchange.received)
    follow = [1e3 * (firsts[v] - kept.published[v]) for v in sorted(firsts) if v > 2]
    wrong = wrong_answers(exchanges, kept, N)
    return {
        "answers": len(exchanges),
        "errors": sum(exchange.status not in (200, 404) for exchange in exchanges),
        "swaps": len(kept.digests) - 2,
        "versions seen": len(firsts),
        "not their version's own": len(wrong),
        "first of them": wrong[:3],
        "refused though kept": sum(e.status == 404 for e in exchanges if e.key in staying),
        "published to served, ms: p50": float(np.median(follow)),
        "published to served, ms: most": max(follow),
        **fence_record(exchanges, people.fenced, fenced_at(paths, gone)),
    }


def checks_of_flips(exchanges: list[load.Exchange], kept: Kept) -> dict[str, Any]:
    """Hold the answers while prepared versions were published against what they had to be."""
    return {
        "answers, prepared versions": len(exchanges),
        "errors, prepared versions": sum(exchange.status not in (200, 404) for exchange in exchanges),
        "not their version's own, prepared versions": len(wrong_answers(exchanges, kept, N)),
    }


def markdown(found: dict[str, Any]) -> str:
    """Write the tables."""
    figures, checked = found["figures"], found["checks"]
    lines = [
        "| | requests | a second | p50, ms | p90 | p99 | p99.9 | longest | server, worker, client: cores |"
    ]
    lines.append("|---|---|---|---|---|---|---|---|---|")
    for kind, row in figures.items():
        shares = ", ".join(f"{row[f'cores, {who}']:.2f}" for who in ("server", "workers", "client"))
        quantiles = " | ".join(f"{row[q]:.2f}" for q in ("p50", "p90", "p99", "p99.9", "most"))
        lines.append(f"| {kind} | {row['requests']:,} | {row['a second']:,.0f} | {quantiles} | {shares} |")
    still = figures[STILL]["p99"]
    lines += [
        "",
        *(
            f"p99 over that without swaps, {kind}: {figures[kind]['p99'] / still:.2f}."
            for kind in RATIOS
            if kind in figures
        ),
        *(
            f"p99 by round, {kind}: {', '.join(f'{v:.1f}' for v in row['p99 by round'])}."
            for kind, row in figures.items()
        ),
        "",
        "| checked | |",
        "|---|---|",
    ]
    lines += [
        f"| {name} | {value if isinstance(value, int) else round(value, 1):,} |"
        for name, value in checked.items()
        if not isinstance(value, list)
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, print Markdown, and fail if an answer was wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--data", type=Path, help="lines of: user item item ...")
    source.add_argument("--generate", type=int, nargs=3, default=(6040, 3700, 700_000), metavar="N")
    parser.add_argument("--models", nargs="+", default=["item_knn", "spectral_mf"], help="the first is asked")
    parser.add_argument("--rate", type=float, default=1000.0, help="requests a second")
    parser.add_argument("--swaps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each round without swaps")
    parser.add_argument(
        "--pause", type=float, default=0.5, help="seconds from a version to the next deletion"
    )
    parser.add_argument(
        "--batch-age", type=float, default=0.0, help="of the workers: seconds for which a deletion waits"
    )
    parser.add_argument(
        "--turns", nargs="+", choices=TURNS, default=list(TURNS), help="still and swaps: always"
    )
    parser.add_argument("--solve-priority", default="low", help="of the workers")
    parser.add_argument("--nice", type=int, default=0, help="of the workers")
    parser.add_argument("--worker-threads", type=int, default=0, help="for Numba; 0: all cores")
    parser.add_argument(
        "--growth", type=int, default=1000, help="swaps over which memory is watched; 0: none"
    )
    parser.add_argument("--timing", type=int, default=20_000, help="requests of each kind; 0: none")
    parser.add_argument("--folder", type=Path, help="where the state directories go; default: temporary")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        found = all_parts(Path(name), options)
    turns.write(options.json, options={k: str(v) for k, v in vars(options).items()}, **found)
    claims = ("errors", "not their version's own", "refused though kept", "served after seen fenced")
    for claim, value in found.get("checks", {}).items():
        assert not (claim.startswith(claims) and value), (claim, found["checks"])


def all_parts(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Measure what was asked for, and print each part when it is there."""
    found: dict[str, Any] = {}
    if options.swaps:
        found = under_load(folder, options)
        print(f"### Under load\n\n{markdown(found)}\n", flush=True)
    if options.growth:
        found["growth"] = serving_growth.growth(folder, options.growth)
        print(f"### Memory over swaps\n\n{serving_growth.markdown(found['growth'])}\n", flush=True)
    if options.timing:
        found["timing"] = serving_timing.timing(folder, options.timing)
        print(f"### Timing of refusals\n\n{serving_timing.markdown(found['timing'])}\n", flush=True)
    return found


if __name__ == "__main__":
    main()
