"""`recunlearn receipts`: erasure receipts listed, handed out and checked."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import AsJson, not_so, print_json, wrong_use

if TYPE_CHECKING:
    from ..engine.key_ring import KeyRing
    from ..engine.state import StatePaths


app = typer.Typer(help="List, hand out and check erasure receipts.", invoke_without_command=True)


@app.callback()
def _receipts(
    context: typer.Context,
    state: Annotated[Path | None, typer.Option("--state", help="The state directory.")] = None,
    as_json: AsJson = False,
) -> None:
    context.obj = state
    if context.invoked_subcommand is None:
        list_receipts(context, as_json=as_json)


def _state_of(context: typer.Context, state: Path | None) -> "StatePaths":
    from ..engine.state import StatePaths, read_config

    chosen = state or context.obj
    if chosen is None:
        wrong_use("name the state directory: --state DIR")
    paths = StatePaths(chosen)
    read_config(paths)
    return paths


StateOfReceipts = Annotated[Path | None, typer.Option("--state", help="The state directory.")]


@app.command("list")
def list_receipts(context: typer.Context, state: StateOfReceipts = None, as_json: AsJson = False) -> None:
    """List the receipts of a state, each checked."""
    from ..engine.key_ring import is_rotation
    from ..engine.receipts import open_receipt, read_lines, state_ring
    from ..engine.signing import ReceiptError

    paths = _state_of(context, state)
    lines = [(index, line) for index, line in enumerate(read_lines(paths)) if not is_rotation(line)]
    try:
        ring = state_ring(paths) if lines else None
        said = (
            [(index, open_receipt(line, ring, index)["predicate"]) for index, line in lines] if ring else []
        )
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
        for index, one in said
    ]
    if as_json:
        print_json({"receipts": rows})
        return
    for row in rows:
        typer.echo(
            "{index}  {request_id}  {kind}  {outcome}  version {version}  erased {erased}".format(**row)
        )


@app.command("show")
def show_receipt(
    context: typer.Context,
    receipt: Annotated[str, typer.Argument(help="Its index, or the id of the request.")],
    state: StateOfReceipts = None,
    output: Annotated[Path | None, typer.Option(help="Write it to this file.")] = None,
) -> None:
    """Hand out one receipt, with all that a third party needs to check it."""
    from ..engine.receipts import find_receipt, make_bundle
    from ..engine.signing import ReceiptError

    paths = _state_of(context, state)
    try:
        content = make_bundle(paths, find_receipt(paths, receipt))
    except ReceiptError as error:
        not_so(str(error))
    if output is None:
        typer.echo(content.decode())
    else:
        output.write_bytes(content + b"\n")


@app.command("verify")
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
    from ..engine.receipts import DOES_NOT_PROVE, PROVES, verify_bundle
    from ..engine.signing import ReceiptError

    try:
        said = verify_bundle(file.read_bytes(), _keys_of(context, state, public_key))
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


def _keys_of(context: typer.Context, state: Path | None, public_key: Path | None) -> "KeyRing":
    """Return the key in a file, or those of the state."""
    from ..engine.key_ring import KeyRing
    from ..engine.receipts import state_ring
    from ..engine.signing import read_public_key

    if public_key is not None:
        return KeyRing([read_public_key(public_key.read_bytes())])
    return state_ring(_state_of(context, state))


@app.command("checkpoint")
def hand_out_checkpoint(
    context: typer.Context,
    state: StateOfReceipts = None,
    output: Annotated[Path | None, typer.Option(help="Write it to this file.")] = None,
) -> None:
    """Hand out the signed size and root of the log: an auditor keeps it, and later asks for `consistency`."""
    from ..engine.receipts import state_ring
    from ..engine.signing import ReceiptError

    paths = _state_of(context, state)
    try:
        content = paths.checkpoint.read_bytes()
        state_ring(paths).open_checkpoint(content)
    except FileNotFoundError:
        not_so("there is no checkpoint yet: no receipt was given")
    except ReceiptError as error:
        not_so(f"{error}; see: recunlearn receipts fsck")
    if output is None:
        typer.echo(content.decode(), nl=False)
    else:
        output.write_bytes(content)


@app.command("consistency")
def consistency(
    context: typer.Context,
    older: Annotated[Path, typer.Option("--from", help="A checkpoint that was kept.")],
    proof: Annotated[
        Path | None, typer.Option(help="Check this proof, offline; default: make one from the state.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Write the proof to this file, for an auditor.")] = None,
    public_key: Annotated[
        Path | None, typer.Option(help="The public key, PEM; default: the state's keys.")
    ] = None,
    state: StateOfReceipts = None,
    as_json: AsJson = False,
) -> None:
    """Check that the log only grew since a checkpoint: nothing in it was altered or removed."""
    from ..engine.consistency import make_consistency, verify_consistency
    from ..engine.signing import ReceiptError

    try:
        kept = older.read_bytes()
        content = proof.read_bytes() if proof else make_consistency(_state_of(context, state), kept)
        before, now = verify_consistency(content, kept, _keys_of(context, state, public_key))
    except OSError as error:
        not_so(f"{error.filename} cannot be read: {error.strerror}")
    except ReceiptError as error:
        if as_json:
            print_json({"ok": False, "reason": str(error)})
        not_so(str(error))
    if output is not None:
        output.write_bytes(content + b"\n")
    if as_json:
        print_json({"ok": True, "from": before, "to": now})
    else:
        typer.echo(f"the log only grew: its first {before:,} of {now:,} entries are what they were")


@app.command("rotate-key")
def rotate_key(context: typer.Context, state: StateOfReceipts = None) -> None:
    """Sign with a new key from now on. The old public key is kept, and still proves what it signed."""
    from ..engine.receipts import ReceiptLog
    from ..engine.signing import ReceiptError, key_id
    from ..engine.state import WriterLock

    paths = _state_of(context, state)
    try:
        with WriterLock(paths):
            log = ReceiptLog(paths)
            log.rotate_key()
    except ReceiptError as error:
        not_so(f"{error}; see: recunlearn receipts fsck")
    typer.echo(
        f"receipts are signed by key {key_id(log.public)[:16]} from place {log.size} on; "
        f"publish {paths.receipt_public_key}"
    )


@app.command("fsck")
def fsck(context: typer.Context, state: StateOfReceipts = None, as_json: AsJson = False) -> None:
    """Recompute every signature, the Merkle root, the checkpoint, and the ledger's view of the log."""
    from ..engine.fence import FenceKey
    from ..engine.ledger import Ledger
    from ..engine.receipts import check_log

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
