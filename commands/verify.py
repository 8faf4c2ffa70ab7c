"""`recunlearn verify`: files, proofs, receipts, and remains of erased users."""

from typing import Annotated

import typer

from .console import AsJson, State, print_json, shown


def verify(
    state: State,
    deep: Annotated[
        bool, typer.Option("--deep", help="Also fit every model from scratch to what is kept, and compare.")
    ] = False,
    stores: Annotated[
        bool, typer.Option("--stores", help="Also ask every store of [[export]] what it holds.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check every file, every model's proof and every receipt, and search for remains of erased users."""
    from ..engine.delivery import check_stores
    from ..engine.state import StatePaths
    from ..engine.verification import verify_state

    found = verify_state(
        state, deep=deep, on_model=lambda name: typer.echo(f"fitting {name} from scratch", err=True)
    )
    asked = check_stores(StatePaths(state)) if stores else {}
    problems = [*found.problems, *filter(None, asked.values())]
    rebuilt = {
        name: {"distance": one.distance, "allowed": one.allowed, "ok": one.ok}
        for name, one in found.deep.items()
    }
    if as_json:
        scan = {"files": found.scan.files, "bytes": found.scan.bytes, "found": found.scan.found}
        receipts_found = {"count": found.receipts, "valid": found.valid_receipts}
        report = {"ok": not problems, "models": found.models, "scan": scan, "receipts": receipts_found}
        report |= {"deep": rebuilt} if deep else {}
        report |= {"stores": {name: not wrong for name, wrong in asked.items()}} if stores else {}
        print_json(report)
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
        for name, wrong in asked.items():
            typer.echo(f"store {name}: {'not ' if wrong else ''}the published version and nothing else")
        typer.echo("not all is well" if problems else "all is well")
    for problem in problems:
        typer.secho(problem, err=True, fg="red")
    if problems:
        raise typer.Exit(1)
