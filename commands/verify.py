"""`recunlearn verify`: files, proofs, receipts, and remains of erased users."""

from typing import Annotated

import typer

from .console import AsJson, State, print_json, shown


def verify(
    state: State,
    deep: Annotated[
        bool, typer.Option("--deep", help="Also fit every model from scratch to what is kept, and compare.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check every file, every model's proof and every receipt, and search for remains of erased users."""
    from ..engine.verification import verify_state

    found = verify_state(
        state, deep=deep, on_model=lambda name: typer.echo(f"fitting {name} from scratch", err=True)
    )
    rebuilt = {
        name: {"distance": one.distance, "allowed": one.allowed, "ok": one.ok}
        for name, one in found.deep.items()
    }
    if as_json:
        scan = {"files": found.scan.files, "bytes": found.scan.bytes, "found": found.scan.found}
        receipts_found = {"count": found.receipts, "valid": found.valid_receipts}
        report = {"ok": found.ok, "models": found.models, "scan": scan, "receipts": receipts_found}
        print_json({**report, "deep": rebuilt} if deep else report)
    else:
        for name, proof in found.models.items():
            typer.echo(f"{name}: " + ", ".join(f"{key} {shown(value)}" for key, value in proof.items()))
        for name, one in rebuilt.items():
            typer.echo(f"{name} against a fresh fit: " + ", ".join(f"{k} {shown(v)}" for k, v in one.items()))
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
