"""`recunlearn datasets`: what there is by name."""

import typer

from .console import AsJson, print_json


def datasets(as_json: AsJson = False) -> None:
    """List the data sets that fit --data takes by name, and where each comes from."""
    from ..eval.datasets import DATASETS, cache_dir

    if as_json:
        print_json(
            {
                name: {
                    "title": described.title,
                    "notice": described.notice,
                    "sources": [source.name for source in described.sources],
                    "by_hand": described.is_by_hand,
                    "cached": (cache_dir() / name / "manifest.json").exists(),
                }
                for name, described in DATASETS.items()
            }
        )
        return
    width = max(map(len, DATASETS))
    for name, described in DATASETS.items():
        typer.echo(f"{name:{width}}  {described.title}")
    typer.echo(f"\nKept in {cache_dir()}; each is shown with its licence when it is loaded.")
