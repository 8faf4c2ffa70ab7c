"""The demo: real processes, real people forgotten, everything measured in the run.

The story is played first (:mod:`.story`); only then is every model retrained from scratch, to see what is
left of whom, and the claims are put to the test.
"""

import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import polars as pl
from rich.console import Console

from .. import __version__
from ..engine.requests import ExternalId
from ..engine.tables import read_interactions, to_matrix
from .broker import BrokerError
from .cast import Cast, choose_cast
from .channel import Channel, JournalChannel
from .claims import Seen, check_claims
from .datasets import DatasetError, load_dataset
from .environment import describe_environment
from .format import seconds
from .outcome import measure
from .processes import CommandError, interrupted_by_sigterm, one_blas_thread, run_command
from .report import Dataset, Lists, Removal, Report, as_record, verdict, write_report
from .stages import Stages
from .story import Material, Stage, Story, play

FORESEEN = (BrokerError, CommandError, DatasetError, ValueError)
"""What may go wrong, with a message for people: the broker, a command, data too few or unreadable."""


@dataclass(frozen=True)
class DemoOptions:
    """What can be chosen.

    Attributes
    ----------
    output : where report.html and report.json go.
    models : registry names, the default model first.
    data : a file of interactions (columns user_id, item_id); None: MovieLens 100K with titles.
    seed : who plays which part.
    accounts, interactions : how many accounts, the person's not counted, and single interactions to delete.
    keep : leave the state directory in ``output``.
    source : through what deletions are sent, ``"journal"`` or ``"kafka"``.
    bootstrap_servers : Kafka's brokers, in plain text; None: one is started.
    """

    output: Path
    models: tuple[str, ...]
    data: Path | None = None
    seed: int = 7
    accounts: int = 24
    interactions: int = 200
    keep: bool = False
    source: str = "journal"
    bootstrap_servers: str | None = None


def show_demo(options: DemoOptions, *, as_json: bool) -> bool:
    """Play the demo for people, or machines; tells whether every claim held.

    Progress and notices go to standard error, the verdict (or the record, as JSON) to standard output.
    """
    from rich.text import Text

    aside, console = Console(stderr=True), Console()
    report = run_demo(options, aside)
    if as_json:
        console.file.write(msgspec.json.encode(as_record(report)).decode() + "\n")
        return report.ok
    console.print(verdict(report))
    page = (options.output / "report.html").resolve()
    console.print(Text(f"{seconds(report.seconds)}; the whole report: {page.as_uri()}"), soft_wrap=True)
    return report.ok


def run_demo(options: DemoOptions, console: Console) -> Report:
    """Play the demo, write the report into ``options.output`` and return it.

    Raises
    ------
    CommandError
        A command of ours failed. BrokerError: no broker. ValueError: the data are too few for the story.
    KeyboardInterrupt
        Ctrl-C or SIGTERM; every process that was started has been stopped.
    """
    started = time.perf_counter()
    options.output.mkdir(parents=True, exist_ok=True)
    with (
        interrupted_by_sigterm(),
        _workspace(options) as work,
        _channel(options, work) as channel,
        Stages(console) as stages,
    ):
        with stages.stage("reading the data"):
            material = _material(options, console)
            cast = choose_cast(
                material.matrix.user_items, options.accounts, options.interactions, options.seed
            )
        story = play(options.models, material, cast, channel, work, stages)
        removals = _measure(story, material.user(cast.neighbour), stages)
        with stages.stage("verifying what is on disk"):
            story.verified = run_command("verify", "--state", str(work / "state"), "--json")
        report = _report(options, material, cast, story, removals, time.perf_counter() - started)
        with stages.stage("writing the report"):
            write_report(report, options.output)
    return report


@contextlib.contextmanager
def _workspace(options: DemoOptions) -> Iterator[Path]:
    """Give a directory that is removed afterwards, unless it is to be kept."""
    work = Path(tempfile.mkdtemp(prefix="run-", dir=options.output))
    try:
        yield work
    finally:
        if not options.keep:
            shutil.rmtree(work, ignore_errors=True)


@contextlib.contextmanager
def _channel(options: DemoOptions, work: Path) -> Iterator[Channel]:
    """Open what deletions are sent through."""
    if options.source == "journal":
        yield JournalChannel(work / "state")
        return
    from .topic import open_topic  # loads kafka-python

    with open_topic(options.bootstrap_servers, work) as channel:
        yield channel


def _material(options: DemoOptions, console: Console) -> Material:
    if options.data is None:
        named = load_dataset(
            "movielens-100k",
            show_notice=lambda text: console.print(text, style="dim", highlight=False, soft_wrap=True),
        )
        # A rating says that somebody chose the film: what is recommended from here are choices.
        table = replace(named.table, frame=named.table.frame.with_columns(value=pl.lit(1.0)))
        titles, notice = named.titles, named.notice
        name, source = named.name, named.source
    else:
        table, titles, notice = read_interactions(options.data), {}, ""
        name, source = options.data.name, "a file of one's own"
    matrix = to_matrix(table)
    users, items = matrix.user_items.shape
    dataset = Dataset(name, users, items, int(matrix.user_items.nnz), source, notice)
    return Material(dataset, table, matrix, titles)


def _measure(story: Story, watched: ExternalId, stages: Stages) -> list[Removal]:
    """Retrain from scratch and compare, now that everything is over."""
    removals = []
    total = sum(len(stage.before.models) for stage in story.stages)
    with stages.stage("retraining from scratch, as a check", total) as advance, one_blas_thread():
        done = 0
        for stage in story.stages:
            outcomes = []
            for outcome in measure(stage.before, stage.after, stage.asked, watched):
                outcomes.append(outcome)
                advance(done := done + 1)
            accounts, pairs = len(stage.asked.accounts), len(stage.asked.pair_users)
            removals.append(Removal(stage.name, accounts, pairs, stage.requests, outcomes))
    return removals


def _report(
    options: DemoOptions,
    material: Material,
    cast: Cast,
    story: Story,
    removals: list[Removal],
    elapsed: float,
) -> Report:
    person, neighbour = material.user(cast.person), material.user(cast.neighbour)
    after = None if story.refusals and story.refusals[0][0].status == 404 else story.person_before
    seen = Seen(
        removals=removals,
        refusals=story.refusals,
        watches=[stage.watch for stage in story.stages],
        status=story.status,
        verified=story.verified,
        expected_interactions=_expected(material, story.stages),
    )
    return Report(
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        software=__version__,
        command=_command(options),
        seed=options.seed,
        dataset=material.dataset,
        person=Lists(person, options.models[0], story.person_before, after),
        neighbour=[
            Lists(neighbour, model, before, story.neighbour_after[model])
            for model, before in story.neighbour_before.items()
        ],
        removals=removals,
        fit_seconds=story.fit_seconds,
        checks=check_claims(seen),
        environment=describe_environment(),
        seconds=elapsed,
    )


def _expected(material: Material, stages: Sequence[Stage]) -> int:
    """Count, from the original data, the interactions that must be kept: no more, no fewer."""
    frame = material.table.frame
    for stage in stages:
        pairs = pl.DataFrame(
            {"user_id": stage.asked.pair_users, "item_id": stage.asked.pair_items},
            schema={name: frame.schema[name] for name in ("user_id", "item_id")},
        )
        frame = frame.filter(~pl.col("user_id").is_in(stage.asked.accounts))
        frame = frame.join(pairs, on=["user_id", "item_id"], how="anti")
    return frame.height


def _command(options: DemoOptions) -> str:
    default, words = DemoOptions(options.output, options.models), ["recunlearn demo"]
    if options.data is not None:
        words.append(f"--data {options.data.name}")
    chosen = ((name, getattr(options, name)) for name in ("source", "seed", "accounts", "interactions"))
    words += [f"--{name} {value}" for name, value in chosen if value != getattr(default, name)]
    return " ".join(words)
