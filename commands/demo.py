"""`recunlearn demo`: the whole story on real data."""

from pathlib import Path
from typing import Annotated

import typer

from .console import AsJson, not_so, wrong_use
from .fit import models_to_fit


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
    source: Annotated[
        str, typer.Option(help="Through what deletions are sent: journal, or kafka.")
    ] = "journal",
    bootstrap_servers: Annotated[
        str | None,
        typer.Option(help="Kafka's brokers, in plain text; default: one is started (extra: broker)."),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the state directory in the output.")] = False,
    as_json: AsJson = False,
) -> None:
    """Watch a recommender forget real people: fit, serve, delete, compare with a retrain, report."""
    from ..eval import demo as demonstration

    models = tuple(models_to_fit(model or [], [], is_refit=False) or ())
    if source not in ("journal", "kafka"):
        wrong_use(f"there is no source {source!r}; there are journal, kafka")
    if bootstrap_servers is not None and source != "kafka":
        wrong_use("--bootstrap-servers are those of --source kafka")
    options = demonstration.DemoOptions(
        output, models, data, seed, accounts, interactions, keep, source, bootstrap_servers
    )
    try:
        ok = demonstration.show_demo(options, as_json=as_json)
    except KeyboardInterrupt:
        typer.secho("interrupted; everything that was started has been stopped", err=True, fg="red")
        raise typer.Exit(130) from None
    except demonstration.FORESEEN as error:
        not_so(str(error))
    if not ok:
        raise typer.Exit(1)
