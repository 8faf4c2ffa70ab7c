"""`recunlearn verify`: files, proofs, receipts, and remains of erased users."""

import typer

from .console import AsJson, State, print_json, shown


def verify(state: State, as_json: AsJson = False) -> None:
    """Check every file, every model's proof and every receipt, and search for remains of erased users."""
    from ..engine.verification import verify_state

    found = verify_state(state)
    if as_json:
        scan = {"files": found.scan.files, "bytes": found.scan.bytes, "found": found.scan.found}
        receipts_found = {"count": found.receipts, "valid": found.valid_receipts}
        print_json({"ok": found.ok, "models": found.models, "scan": scan, "receipts": receipts_found})
    else:
        for name, proof in found.models.items():
            typer.echo(f"{name}: " + ", ".join(f"{key} {shown(value)}" for key, value in proof.items()))
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
