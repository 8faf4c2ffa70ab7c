"""A study's tables as Markdown, for a page of the docs: made from the results, never by hand."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..format import count
from .page import with_interval
from .summary import Figure, Place, figures_by_place

COLUMNS = (
    ("influence left", "completeness.method.influence_left"),
    ("residue", "completeness.method.residue"),
    ("residue size", "completeness.method.residue_size"),
    ("membership", "completeness.method.membership"),
    ("another seed's influence left", "completeness.another seed's retrain.influence_left"),
    ("NDCG@10", "utility.method.ndcg@10"),
    ("the retrain's", "utility.retrain.ndcg@10"),
    ("batch ÷ retrain", "efficiency.time_to_retrain"),
)
"""Heading, and the metric's path in a cell's record."""

ATTACKED = (
    ("area", "auc"),
    ("chance", "chance"),
    ("before forgetting", "power"),
    ("items read", "details.precision"),
    ("by popularity", "details.precision_popular"),
)
"""Heading, and the figure's path in an attack's record; an attack need not have all."""


def study_tables(results: Mapping[str, Any]) -> str:
    """Write one table a data set and regime, and one of its attacks; intervals are over draws.

    Parameters
    ----------
    results : as :func:`recunlearn.eval.battery.run.run_study` returns them, or ``results.json`` read back.
    """
    figures = figures_by_place(results)
    machine = results["environment"]
    failed = [cell for cell in results["cells"] if "error" in cell]
    parts = [
        f"{count(len(results['cells']))} cells, {len(failed)} failed; "
        f"{results['study']['draws']} draws, seed {results['study']['seed']}; {machine['processor']}, "
        f"{machine['CPUs']} CPUs, Python {machine['Python']}, NumPy {machine['numpy']}, "
        f"implicit {machine['implicit']}."
    ]
    for name, data in results["data"].items():
        parts.append(
            f"## {name}\n\n{count(data['users'])} x {count(data['items'])}, "
            f"{count(data['interactions'])} interactions; SHA-256 `{data['digest'][:16]}…`"
        )
        cells = [c for c in results["cells"] if c["data"] == name and "measured" in c]
        for regime in dict.fromkeys(c["regime"]["name"] for c in cells):
            here = [c for c in cells if c["regime"]["name"] == regime]
            removed = here[0]["measured"]["removed_people"]
            people = "1 person" if removed == 1 else f"{count(removed)} people"
            parts.append(f"### {regime}: {people} removed\n\n" + "\n".join(_table(here, figures)))
            if attacks := [name for name in results["study"]["attacks"] if _was_run(name, here)]:
                parts.append("\n".join(_attacks(attacks, here, figures)))
    if failed:
        parts.append("## Failed\n\n" + "\n".join(_failure(cell) for cell in failed))
    return "\n\n".join(parts) + "\n"


def _table(cells: Sequence[Mapping[str, Any]], figures: Mapping[Place, Figure]) -> Iterator[str]:
    yield "| method | " + " | ".join(heading for heading, _ in COLUMNS) + " | faults |"
    yield "|---" * (len(COLUMNS) + 2) + "|"
    for method in dict.fromkeys(c["method"] for c in cells):
        own = [c for c in cells if c["method"] == method]
        where = (own[0]["data"], method, own[0]["regime"]["name"])
        written = [with_interval(figures.get((*where, metric))) for _, metric in COLUMNS]
        faults = dict.fromkeys(f for c in own for f in c["measured"]["faults"])
        yield f"| {method} | {' | '.join(written)} | {', '.join(faults) or 'none'} |"


def _was_run(attack: str, cells: Sequence[Mapping[str, Any]]) -> bool:
    return any("auc" in c["measured"]["attacks"].get(attack, {}) for c in cells)


def _attacks(
    attacks: Sequence[str], cells: Sequence[Mapping[str, Any]], figures: Mapping[Place, Figure]
) -> Iterator[str]:
    yield "| method | attack | " + " | ".join(heading for heading, _ in ATTACKED) + " |"
    yield "|---" * (len(ATTACKED) + 2) + "|"
    for method in dict.fromkeys(c["method"] for c in cells):
        own = next(c for c in cells if c["method"] == method)
        where = (own["data"], method, own["regime"]["name"])
        for attack in attacks:
            written = [
                with_interval(figures.get((*where, f"attacks.{attack}.{metric}"))) for _, metric in ATTACKED
            ]
            yield f"| {method} | {attack} | {' | '.join(written)} |"


def _failure(cell: Mapping[str, Any]) -> str:
    where = f"{cell['data']}, {cell['method']}, {cell['regime']['name']}, draw {cell['draw'] + 1}"
    return f"- {where}: {cell['error']}"
