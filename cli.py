"""The command line: the one place that wires source, engine and server together.

Each command is a thin function; everything heavy is imported when a command runs, so that
``recunlearn --help`` answers at once. Exit codes: 0 done, 1 not so, 2 wrong use, 3 requests failed.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from .engine.state import StatePaths
    from .engine.tables import InteractionTable
    from .streaming.worker import Worker

app = typer.Typer(
    name="recunlearn",
    help="A recommender that can forget: deletion events in, influence out, proof shown, serving swapped.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

State = Annotated[Path, typer.Option("--state", help="The state directory.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]

_DEFAULT_MODELS = ("spectral_mf", "ease", "item_knn")
REQUESTS_FAILED = 3
"""Exit code when a request could not be carried out, or a record could not be read as one."""


def main() -> None:
    """Run the command line; an error that is foreseen is one line on stderr, and exit code 1."""
    from .engine.durable import SyncFailedError

    foreseen: tuple[type[BaseException], ...] = (*_foreseen(), SyncFailedError)
    try:
        app()
    except foreseen as error:
        typer.secho(f"error: {error}", err=True, fg="red")
        sys.exit(1)


def _foreseen() -> tuple[type[Exception], ...]:
    import sqlite3

    from .engine.state import StateError

    return StateError, OSError, sqlite3.Error


def wrong_use(message: str) -> NoReturn:
    """End with a message and exit code 2."""
    typer.secho(f"wrong use: {message}", err=True, fg="red")
    raise typer.Exit(2)


def not_so(message: str) -> NoReturn:
    """End with a message and exit code 1."""
    typer.secho(f"error: {message}", err=True, fg="red")
    raise typer.Exit(1)


def print_json(document: Mapping[str, Any]) -> None:
    """Print a document for machines."""
    typer.echo(json.dumps(document))


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        from . import __version__

        typer.echo(__version__)
        raise typer.Exit


# --- fit --------------------------------------------------------------------------------------------


@app.command()
def fit(
    state: State,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Interactions: CSV, TSV, NDJSON or Parquet, or movielens-100k. Without: refit what is kept."
        ),
    ] = None,
    user_col: Annotated[str, typer.Option(help="Column of user ids.")] = "user_id",
    item_col: Annotated[str, typer.Option(help="Column of item ids.")] = "item_id",
    value_col: Annotated[
        str | None, typer.Option(help="Column of values; default: value, if there is one, else 1 each.")
    ] = None,
    time_col: Annotated[str | None, typer.Option(help="Column of times, kept beside the values.")] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="Model to fit; repeat it. The first serves.")
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="A model's setting: ease.regularization=300; repeat it.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fit models to interactions and publish them; a state that exists gets a new version."""
    from .engine import fitting

    models = _models_to_fit(model or [], setting or [], is_refit=(state / "config.toml").exists())
    table = None if data is None else _read_table(data, user_col, item_col, value_col, time_col)
    if table is not None and table.rejected.total:
        typer.secho(table.rejected.summary(), err=True, fg="yellow")
    quiet = as_json or not sys.stderr.isatty()
    try:
        report = fitting.fit(
            state,
            None if table is None else table.frame,
            models,
            show_progress=not quiet,
            on_model=lambda name: typer.echo(f"fitting {name}", err=True),
        )
    except ValueError as error:
        not_so(str(error))
    if as_json:
        print_json({**vars(report), "rejected": _rejected_rows(table)})
        return
    typer.echo(
        f"version {report.version}: {report.users:,} users, {report.items:,} items, "
        f"{report.interactions:,} interactions"
    )
    if report.refused_interactions:
        typer.echo(
            f"kept out: {report.refused_interactions:,} interactions that were erased, "
            f"{report.refused_users:,} users among them"
        )


def _read_table(
    data: Path, user_col: str, item_col: str, value_col: str | None, time_col: str | None
) -> "InteractionTable":
    """Read a file of interactions, or a data set by its name where there is no such file."""
    from .engine.formats import InteractionFileError
    from .engine.tables import read_interactions
    from .eval.datasets import DATASETS, DatasetError, load_dataset

    try:
        if str(data) in DATASETS and not data.exists():
            return load_dataset(str(data), show_notice=lambda notice: typer.echo(notice, err=True)).table
        return read_interactions(
            data,
            user_col=user_col,
            item_col=item_col,
            value_col=value_col or ("value" if _has_column(data, "value") else None),
            time_col=time_col,
        )
    except (InteractionFileError, DatasetError) as error:
        not_so(str(error))


def _rejected_rows(table: "InteractionTable | None") -> dict[str, Any]:
    """Report the rows that were not used, JSON-ready."""
    if table is None:
        return {"total": 0, "counts": {}, "lines": []}
    return {
        "total": table.rejected.total,
        "counts": dict(table.rejected.counts),
        "lines": [{"line": row.line, "reason": row.reason} for row in table.rejected.sample],
    }


def _models_to_fit(
    names: Sequence[str], settings: Sequence[str], *, is_refit: bool
) -> dict[str, dict[str, Any]] | None:
    """Resolve --model and --set; None: the models that the state has."""
    from .models import MODELS

    if not names and is_refit and not settings:
        return None
    chosen: dict[str, dict[str, Any]] = {
        name: {} for name in (names or [name for name in _DEFAULT_MODELS if name in MODELS])
    }
    for name in chosen:
        if name not in MODELS:
            wrong_use(f"there is no model {name!r}; there are {', '.join(MODELS)}")
    for text in settings:
        target, _, value = text.partition("=")
        name, _, key = target.partition(".")
        if not (name in chosen and key and value):
            wrong_use(f"--set {text!r} is not MODEL.KEY=VALUE of a model to fit: {', '.join(chosen)}")
        chosen[name][key] = _setting_value(value)
    return chosen


def _setting_value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _has_column(path: Path, name: str) -> bool:
    """Look whether a file of interactions names a column; False if that cannot be seen."""
    import polars as pl

    try:
        with path.open("rb") as file:
            if file.read(4) == b"PAR1":
                return name in pl.read_parquet_schema(path)
            file.seek(0)
            header = file.readline(1 << 16).decode("utf-8-sig", "replace").strip()
    except (OSError, pl.exceptions.PolarsError):
        return False
    if header.startswith("{"):
        return f'"{name}"' in header
    return name in {field.strip().strip('"') for field in header.replace("\t", ",").split(",")}


# --- forget -----------------------------------------------------------------------------------------


@app.command()
def forget(
    state: State,
    user: Annotated[list[str] | None, typer.Option(help="Account to delete; repeat it.")] = None,
    interaction: Annotated[
        list[str] | None, typer.Option(help="Single interaction to remove, USER:ITEM; repeat it.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option(help="A file: a simple JSON event a line, or a user id a line.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Ask for deletions: append requests to the state's journal, for `recunlearn run` to carry out."""
    from .engine.state import StatePaths, read_config
    from .streaming import journal

    paths = StatePaths(state)
    read_config(paths)
    payloads = [_account_event(text) for text in user or []]
    payloads += [_interaction_event(text) for text in interaction or []]
    rejected: list[dict[str, Any]] = []
    if file is not None:
        from_file, rejected = _events_of_file(file)
        payloads += from_file
    if not payloads and not rejected:
        wrong_use("name whom to forget: --user ID, --interaction USER:ITEM or --file FILE")
    if payloads:
        journal.append(paths.journal, payloads)
    if as_json:
        ids = [json.loads(payload)["id"] for payload in payloads]
        print_json({"appended": len(payloads), "request_ids": ids, "rejected": rejected})
    else:
        typer.echo(f"{len(payloads):,} requests are in the journal; next: recunlearn run --state {state}")
    for row in rejected:
        typer.secho(f"{file}, line {row['line']}: {row['reason']}", err=True, fg="yellow")
    if rejected:
        raise typer.Exit(1)


def _account_event(user_id: str) -> bytes:
    if not user_id:
        wrong_use("--user is empty; name the id of an account")
    return _event("account.deleted", user_id=user_id)


def _interaction_event(text: str) -> bytes:
    user_id, colon, item_id = text.partition(":")
    if not (user_id and colon and item_id) or ":" in item_id:
        wrong_use(
            f"--interaction {text!r} is not USER:ITEM; ids with a colon: use --file with a JSON event a line"
        )
    return _event("interaction.removed", user_id=user_id, item_id=item_id)


def _event(kind: str, **ids: str) -> bytes:
    import uuid
    from datetime import UTC, datetime

    event = {"id": str(uuid.uuid4()), "type": kind, **ids, "time": datetime.now(UTC).isoformat()}
    return json.dumps(event).encode("utf-8", "surrogateescape")


def _events_of_file(path: Path) -> tuple[list[bytes], list[dict[str, Any]]]:
    """Read a file of events or user ids; returns payloads, and the lines that are neither."""
    from .streaming.events import UnreadableEvent, parse_simple_json
    from .streaming.source import Record

    try:
        lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        not_so(f"{path} cannot be read: {error.strerror}")
    payloads: list[bytes] = []
    rejected: list[dict[str, Any]] = []
    for number, raw in enumerate(lines, start=1):
        line = raw.strip()
        if not line:
            continue
        try:
            payload = line if line.startswith(b"{") else _account_event(line.decode())
            parse_simple_json(Record("file", number, payload))
        except UnicodeDecodeError:
            rejected.append({"line": number, "reason": "not UTF-8"})
        except UnreadableEvent as error:
            rejected.append({"line": number, "reason": str(error)})
        else:
            payloads.append(payload)
    return payloads, rejected


# --- run --------------------------------------------------------------------------------------------


@app.command()
def run(
    state: State,
    source: Annotated[str, typer.Option(help="Where events come from: journal.")] = "journal",
    once: Annotated[bool, typer.Option("--once", help="Work off what is there, then exit.")] = False,
    as_json: AsJson = False,
) -> None:
    """Carry out deletions as they arrive: record, fence, forget, publish, purge."""
    from .engine.engine import Engine
    from .streaming.journal import Journal
    from .streaming.worker import Worker

    if source != "journal":
        wrong_use(f"there is no source {source!r}; there is journal")
    _log_to_stderr()
    with Engine.open(state) as engine:
        worker = Worker(
            engine,
            lambda: Journal(engine.paths.journal),
            once=once,
            on_batch=lambda size: typer.echo(f"forgetting a batch of {size:,}", err=True),
        )
        with _stopped_by_signals(worker):
            report = worker.run()
        version = engine.manifest.version
    if as_json:
        print_json({"version": version, **vars(report)})
    else:
        typer.echo(
            f"version {version}: {report.recorded:,} requests recorded, {report.erased:,} erased, "
            f"{report.failed:,} failed, {report.dead_letters:,} records set aside"
        )
    if report.failed or report.dead_letters:
        raise typer.Exit(REQUESTS_FAILED)


def _log_to_stderr() -> None:
    import logging

    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )


@contextmanager
def _stopped_by_signals(worker: "Worker") -> Iterator[None]:
    """SIGTERM and SIGINT end the worker after the batch it is at."""
    import signal

    before = {
        number: signal.signal(number, lambda *_: worker.stop()) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# --- status -----------------------------------------------------------------------------------------


def status_of(paths: "StatePaths") -> dict[str, Any]:
    """Report on a state, with what waits in its journal."""
    from .engine.fence import FenceKey
    from .engine.ledger import Ledger
    from .engine.state import read_config
    from .engine.status import state_status
    from .streaming.journal import PARTITION, backlog

    read_config(paths)
    with Ledger(paths.ledger, FenceKey.load(paths)) as ledger:
        position = ledger.positions("journal").get(PARTITION, 0)
    waiting = backlog(paths.journal, position)
    return state_status(paths, waiting.records, waiting.oldest)


@app.command()
def status(state: State, as_json: AsJson = False) -> None:
    """Say what is published, how well it is proved, and how requests stand."""
    from .engine.state import StatePaths

    report = status_of(StatePaths(state))
    if as_json:
        print_json(report)
        return
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.print(
        f"version {report['version']}: {report['users']:,} users, {report['items']:,} items, "
        f"{report['interactions']:,} interactions"
    )
    requests = report["requests"]
    console.print(
        f"requests: {requests['pending']:,} pending ({requests['fenced']:,} of them fenced), "
        f"{requests['erased']:,} erased, {requests['failed']:,} failed; "
        f"oldest pending: {report['oldest_pending_seconds']:.1f} s",
        soft_wrap=True,
    )
    table = Table("model", "exact", "bound", "erased at least", "certified")
    for name, proof in report["models"].items():
        table.add_row(
            name, *(_shown(proof[key]) for key in ("exact", "bound", "erased_at_least", "certified"))
        )
    console.print(table)
    if requests["failed"]:
        typer.secho(
            "there are duties that are not fulfilled: see the log of recunlearn run", err=True, fg="red"
        )


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}"


# --- serve and demo ---------------------------------------------------------------------------------


@app.command()
def serve(
    state: State,
    host: Annotated[
        str, typer.Option(help="Address to listen on; the default is this machine only.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0: a free one.", min=0, max=65535)] = 8080,
) -> None:
    """Serve recommendations over HTTP from the published version, and follow it."""
    from .engine import server
    from .engine.snapshot import SnapshotReader
    from .engine.state import StatePaths

    paths = StatePaths(state)
    with SnapshotReader(state) as reader:
        try:
            listener = server.listen(host, port)
        except OSError as error:
            not_so(f"{error.strerror}; choose another --host or --port")
        typer.echo(f"serving version {reader.current().version} on {server.url_of(listener)}")
        sys.stdout.flush()
        server.serve(reader, lambda: status_of(paths), listener)


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Where report.html and report.json go.")] = Path("demo-output"),
    data: Annotated[
        Path | None, typer.Option(help="Interactions (columns user_id, item_id); default: MovieLens 100K.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Who plays which part.", min=0)] = 7,
    accounts: Annotated[int, typer.Option(help="Accounts to delete after the first.", min=1)] = 24,
    interactions: Annotated[int, typer.Option(help="Single interactions to delete.", min=0)] = 200,
    model: Annotated[
        list[str] | None, typer.Option(help="Model to fit; repeat it. The first shows its lists.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the state directory in the output.")] = False,
    as_json: AsJson = False,
) -> None:
    """Watch a recommender forget real people: fit, serve, delete, compare with a retrain, report."""
    from .eval import demo as demonstration

    models = tuple(_models_to_fit(model or [], [], is_refit=False) or ())
    options = demonstration.DemoOptions(output, models, data, seed, accounts, interactions, keep)
    try:
        ok = demonstration.show_demo(options, as_json=as_json)
    except KeyboardInterrupt:
        typer.secho("interrupted; everything that was started has been stopped", err=True, fg="red")
        raise typer.Exit(130) from None
    except demonstration.FORESEEN as error:
        not_so(str(error))
    if not ok:
        raise typer.Exit(1)


# --- bench ------------------------------------------------------------------------------------------


@app.command()
def bench(
    data: Annotated[
        Path | None, typer.Option(help="Lines of: user item item ... Default: data generated at this scale.")
    ] = None,
    users: Annotated[int, typer.Option(help="Users to generate.", min=1)] = 6_000,
    items: Annotated[int, typer.Option(help="Items to generate.", min=1)] = 3_700,
    interactions: Annotated[int, typer.Option(help="Interactions to generate.", min=1)] = 700_000,
    output: Annotated[Path, typer.Option(help="Where the measured numbers go, as JSON.")] = Path(
        "benchmarks/results"
    ),
) -> None:
    """Time every model's forgetting beside the fastest retrain, in turns on the same data."""
    from .eval.bench import NoBenchmarksError, run_benchmarks

    generated = ["--generate", str(users), str(items), str(interactions)]
    try:
        failed = run_benchmarks(["--data", str(data)] if data else generated, output)
    except NoBenchmarksError as error:
        not_so(str(error))
    if failed:
        not_so(f"these benchmarks failed: {', '.join(failed)}; what they printed is above")


# --- verify -----------------------------------------------------------------------------------------


@app.command()
def verify(state: State, as_json: AsJson = False) -> None:
    """Check every file, every model's proof and every receipt, and search for remains of erased users."""
    from .engine.verification import verify_state

    found = verify_state(state)
    if as_json:
        scan = {"files": found.scan.files, "bytes": found.scan.bytes, "found": found.scan.found}
        receipts_found = {"count": found.receipts, "valid": found.valid_receipts}
        print_json({"ok": found.ok, "models": found.models, "scan": scan, "receipts": receipts_found})
    else:
        for name, proof in found.models.items():
            typer.echo(f"{name}: " + ", ".join(f"{key} {_shown(value)}" for key, value in proof.items()))
        typer.echo(
            f"{found.scan.files:,} files, {found.scan.bytes:,} bytes scanned: "
            f"{len(found.scan.found):,} with remains of erased users"
        )
        typer.echo(f"{found.receipts:,} receipts, {found.valid_receipts:,} valid")
        typer.echo("all is well" if found.ok else "not all is well")
    for problem in found.problems:
        typer.secho(problem, err=True, fg="red")
    if not found.ok:
        raise typer.Exit(1)


# --- receipts ---------------------------------------------------------------------------------------

receipts = typer.Typer(help="List, hand out and check erasure receipts.", invoke_without_command=True)
app.add_typer(receipts, name="receipts")


@receipts.callback()
def _receipts(
    context: typer.Context,
    state: Annotated[Path | None, typer.Option("--state", help="The state directory.")] = None,
    as_json: AsJson = False,
) -> None:
    context.obj = state
    if context.invoked_subcommand is None:
        list_receipts(context, as_json=as_json)


def _state_of(context: typer.Context, state: Path | None) -> "StatePaths":
    from .engine.state import StatePaths, read_config

    chosen = state or context.obj
    if chosen is None:
        wrong_use("name the state directory: --state DIR")
    paths = StatePaths(chosen)
    read_config(paths)
    return paths


StateOfReceipts = Annotated[Path | None, typer.Option("--state", help="The state directory.")]


@receipts.command("list")
def list_receipts(context: typer.Context, state: StateOfReceipts = None, as_json: AsJson = False) -> None:
    """List the receipts of a state, each checked."""
    from .engine.receipts import open_receipt, read_lines, state_public_key
    from .engine.signing import ReceiptError

    paths = _state_of(context, state)
    lines = read_lines(paths)
    try:
        public = state_public_key(paths) if lines else None
        said = [open_receipt(line, public)["predicate"] for line in lines] if public else []
    except ReceiptError as error:
        not_so(f"{error}; see: recunlearn receipts fsck")
    rows = [
        {
            "index": index,
            "request_id": one["request"]["id"],
            "kind": one["request"]["kind"],
            "outcome": one["outcome"],
            "version": one["version"],
            "received": one["received"],
            "fenced": one["fenced"],
            "erased": one["erased"],
        }
        for index, one in enumerate(said)
    ]
    if as_json:
        print_json({"receipts": rows})
        return
    for row in rows:
        typer.echo(
            "{index}  {request_id}  {kind}  {outcome}  version {version}  erased {erased}".format(**row)
        )


@receipts.command("show")
def show_receipt(
    context: typer.Context,
    receipt: Annotated[str, typer.Argument(help="Its index, or the id of the request.")],
    state: StateOfReceipts = None,
    output: Annotated[Path | None, typer.Option(help="Write it to this file.")] = None,
) -> None:
    """Hand out one receipt, with all that a third party needs to check it."""
    from .engine.receipts import find_receipt, make_bundle
    from .engine.signing import ReceiptError

    paths = _state_of(context, state)
    try:
        content = make_bundle(paths, find_receipt(paths, receipt))
    except ReceiptError as error:
        not_so(str(error))
    if output is None:
        typer.echo(content.decode())
    else:
        output.write_bytes(content + b"\n")


@receipts.command("verify")
def verify_receipt(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="A receipt, as `receipts show` writes it.")],
    public_key: Annotated[
        Path | None, typer.Option(help="The public key, PEM; default: the state's keys/receipts.pub.")
    ] = None,
    state: StateOfReceipts = None,
    as_json: AsJson = False,
) -> None:
    """Check one receipt offline, with the public key alone; says what it proves and what it does not."""
    from .engine.receipts import DOES_NOT_PROVE, PROVES, verify_bundle
    from .engine.signing import ReceiptError, read_public_key

    key_path = public_key or _state_of(context, state).receipt_public_key
    try:
        said = verify_bundle(file.read_bytes(), read_public_key(key_path.read_bytes()))
    except OSError as error:
        not_so(f"{error.filename} cannot be read: {error.strerror}")
    except ReceiptError as error:
        if as_json:
            print_json({"ok": False, "reason": str(error)})
        not_so(f"{file} is not a valid receipt: {error}")
    if as_json:
        print_json({"ok": True, "statement": said, "proves": PROVES, "does_not_prove": DOES_NOT_PROVE})
        return
    typer.echo(json.dumps(said["predicate"], indent=2))
    typer.echo("\nThe receipt is valid. It proves:\n" + "".join(f"  + {text}\n" for text in PROVES))
    typer.echo("It does not prove:\n" + "".join(f"  - {text}\n" for text in DOES_NOT_PROVE))


@receipts.command("fsck")
def fsck(context: typer.Context, state: StateOfReceipts = None, as_json: AsJson = False) -> None:
    """Recompute every signature, the Merkle root, the checkpoint, and the ledger's view of the log."""
    from .engine.fence import FenceKey
    from .engine.ledger import Ledger
    from .engine.receipts import check_log

    paths = _state_of(context, state)
    with Ledger(paths.ledger, FenceKey.load(paths)) as ledger:
        count, valid, problems = check_log(paths, ledger)
    if as_json:
        print_json({"ok": not problems, "count": count, "valid": valid, "problems": problems})
    else:
        typer.echo(f"{count:,} receipts, {valid:,} valid")
    for problem in problems:
        typer.secho(problem, err=True, fg="red")
    if problems:
        raise typer.Exit(1)


if __name__ == "__main__":
    main()
