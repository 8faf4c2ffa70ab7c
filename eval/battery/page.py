"""A study as one HTML page: tables with intervals, controls, plots; no script, nothing fetched."""

import importlib
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from ..format import count, seconds, share
from ..page import html_page
from .cell import TREATMENTS
from .plots import PLOTS
from .published import PUBLISHED
from .scan import FAULTS
from .summary import Figure, Place, figures_by_place


def render_study(results: Mapping[str, Any]) -> str:
    """Render a study's results, as :func:`recunlearn.eval.battery.run.run_study` returns them.

    The plots are left out, with a note, where matplotlib is not installed.
    """
    figures = figures_by_place(results)
    body = [_head(results), _failures(results)]
    for data in results["data"]:
        cells = [c for c in results["cells"] if c["data"] == data and "measured" in c]
        if cells:
            body += [f"<h2>{escape(data)}</h2>", *_tables(cells, figures), *_plots(cells)]
    body += [_reading(results), _published(), _machine(results)]
    return html_page(f"recunlearn: {results['study']['name']}", body)


def _head(results: Mapping[str, Any]) -> str:
    study = results["study"]
    data = "; ".join(
        f"{escape(name)}: {count(d['users'])} users, {count(d['items'])} items, "
        f"{count(d['interactions'])} interactions"
        for name, d in results["data"].items()
    )
    methods = "".join(
        f"<tr><td>{escape(name)}</td><td style='text-align:left;white-space:normal'>{escape(what)}</td></tr>"
        for name, what in results["methods"].items()
    )
    return (
        f'<p class="tag">Unlearning, evaluated</p><h1>{escape(study["name"])}</h1>'
        f"<p>{data}. {study['draws']} draws of each, seed {study['seed']}; intervals at "
        f"{share(study['level'])}.</p><div class='card'><table><tbody>{methods}</tbody></table></div>"
    )


def _failures(results: Mapping[str, Any]) -> str:
    failed = [c for c in results["cells"] if "error" in c]
    if not failed:
        return ""
    rows = "".join(
        f"<li>{escape(c['data'])}, {escape(c['method'])}, {escape(c['regime']['name'])}, draw "
        f"{c['draw'] + 1}: {escape(c['error'])}</li>"
        for c in failed
    )
    return f'<div class="card bad"><h3>{len(failed)} cells failed</h3><ul>{rows}</ul></div>'


def _tables(cells: Sequence[Mapping[str, Any]], figures: Mapping[Place, Figure]) -> Iterator[str]:
    for regime in dict.fromkeys(c["regime"]["name"] for c in cells):
        here = [c for c in cells if c["regime"]["name"] == regime]
        methods = list(dict.fromkeys(c["method"] for c in here))
        yield f"<h3>{escape(regime)}: {_people(here)} removed</h3>"
        yield _table(_LEFT, [(m, _left_row(here, m, regime, figures)) for m in methods])
        yield "<details><summary>Beside the controls: influence left, residue, membership</summary>"
        yield _table(("method", *TREATMENTS), [(m, _control_row(here, m, regime, figures)) for m in methods])
        yield "</details>"
        yield _table(_COST, [(m, _cost_row(here, m, regime, figures)) for m in methods])
        attacks = list(dict.fromkeys(a for c in here for a in c["measured"]["attacks"]))
        if attacks:
            yield _table(
                ("attack: area (of the model before)", *attacks),
                [(m, [_attack(here[0]["data"], m, regime, a, figures) for a in attacks]) for m in methods],
            )


_LEFT = ("method", "faults", "influence left", "residue", "its size", "membership")
_COST = (
    "method", "NDCG@10", "the retrain's", "worst group", "batch ÷ retrain", "batch", "peak", "retrain's peak",
)  # fmt: skip


def _left_row(
    cells: Sequence[Mapping[str, Any]], method: str, regime: str, figures: Mapping[Place, Figure]
) -> list[str]:
    faults = list(dict.fromkeys(f for c in cells if c["method"] == method for f in c["measured"]["faults"]))
    named = "<br>".join(escape(fault) for fault in faults)
    return [
        f'<span class="bad">{named}</span>' if faults else '<span class="good">none</span>',
        *(
            _stacked(
                with_interval(
                    figures.get((cells[0]["data"], method, regime, f"completeness.method.{metric}"))
                )
            )
            for metric in ("influence_left", "residue", "residue_size", "membership")
        ),
    ]


def _cost_row(
    cells: Sequence[Mapping[str, Any]], method: str, regime: str, figures: Mapping[Place, Figure]
) -> list[str]:
    def of(metric: str) -> Figure | None:
        return figures.get((cells[0]["data"], method, regime, metric))

    def memory(metric: str) -> str:
        found = of(metric)
        return "-" if found is None else f"{found.mean:.0f} MiB"

    batch = of("efficiency.median_batch_seconds")
    shown = (
        "utility.method.ndcg@10", "utility.retrain.ndcg@10", "fairness.largest_change",
        "efficiency.time_to_retrain",
    )  # fmt: skip
    return [
        *(_stacked(with_interval(of(metric))) for metric in shown),
        "-" if batch is None else seconds(batch.mean),
        memory("efficiency.forget_peak_mib"),
        memory("efficiency.retrain_peak_mib"),
    ]


def _control_row(
    cells: Sequence[Mapping[str, Any]], method: str, regime: str, figures: Mapping[Place, Figure]
) -> list[str]:
    def mean(treatment: str, metric: str) -> str:
        found = figures.get((cells[0]["data"], method, regime, f"completeness.{treatment}.{metric}"))
        return "-" if found is None else f"{found.mean:.3g}"

    return [
        " · ".join(mean(t, metric) for metric in ("influence_left", "residue", "membership"))
        for t in TREATMENTS
    ]


def _attack(data: str, method: str, regime: str, attack: str, figures: Mapping[Place, Figure]) -> str:
    area = figures.get((data, method, regime, f"attacks.{attack}.auc"))
    power = figures.get((data, method, regime, f"attacks.{attack}.power"))
    if area is None:
        return "not run"
    return with_interval(area) + ("" if power is None else f" ({power.mean:.3f})")


def _stacked(text: str) -> str:
    """Put an interval below its mean: the tables have many columns."""
    mean, bracket, interval = text.partition(" [")
    return f"{mean}<br><small>[{interval}</small>" if bracket else mean


def with_interval(figure: Figure | None, digits: int = 3) -> str:
    """Write a mean with its interval; small values with significant digits.

    Examples
    --------
    >>> with_interval(Figure("d", "m", "r", "x", 0.5, 0.4, 0.6, 3))
    '0.500 [0.400, 0.600]'
    >>> with_interval(Figure("d", "m", "r", "x", 2e-5, None, None, 1)), with_interval(None)
    ('2.0e-05', '-')
    """
    if figure is None:
        return "-"

    def write(value: float) -> str:
        return f"{value:.1e}" if 0 < abs(value) < 10.0**-digits else f"{value:.{digits}f}"

    if figure.low is None or figure.high is None:
        return write(figure.mean)
    return f"{write(figure.mean)} [{write(figure.low)}, {write(figure.high)}]"


def _people(cells: Sequence[Mapping[str, Any]]) -> str:
    removed = [c["measured"]["removed_people"] for c in cells]
    return f"{count(max(removed))} people"


def _table(columns: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    head = "".join(f"<th>{escape(c)}</th>" for c in columns)
    body = "".join(
        f"<tr><th>{escape(name)}</th>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for name, row in rows
    )
    return f'<div class="card"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _plots(cells: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    try:
        importlib.import_module("matplotlib")
    except ImportError:
        yield '<p class="note">No plots: matplotlib is not installed (pip install "recunlearn[report]").</p>'
        return
    for title, draw, caption in PLOTS:
        if drawn := draw(cells):
            yield (
                f'<h3>{escape(title)}</h3><figure class="card">{drawn}'
                f"<figcaption>{escape(caption)}</figcaption></figure>"
            )


def _reading(results: Mapping[str, Any]) -> str:
    faults = "".join(f"<li><b>{escape(k)}</b>: {escape(v)}.</li>" for k, v in FAULTS.items())
    notices = "".join(
        f"<p class='note'>{escape(name)}: {escape(d['notice'])}</p>"
        for name, d in results["data"].items()
        if d["notice"]
    )
    return (
        "<h2>How to read it</h2><p><em>Influence left</em>: share of the removed people's influence on those "
        "who stay, against a retrain; 0 is forgotten, 1 is doing nothing, more is further away than that. "
        "<em>Residue</em>: how often a forgotten person's hidden items stand out more than under the "
        "retrain; 0.5 is clean, and its size says how much (0 clean, 1 as if nothing was done). "
        "<em>Membership</em>: area under the curve for telling the model from a retrain; 0.5 is a guess. "
        "<em>Another seed's retrain</em> is the floor below which a method without a unique optimum cannot "
        "be measured. <em>Worst group</em>: the largest change of NDCG@10 against the retrain in a quarter "
        "by activity, or among those like the forgotten. <em>Batch</em>: the median time of one call.</p>"
        f"<p>Intervals are over draws (Student's t).</p><h3>Faults</h3><ul>{faults}</ul>{notices}"
    )


def _published() -> str:
    rows = [(s.method, [_left(s.says), _left(s.on), _left(s.where)]) for s in PUBLISHED]
    return (
        "<h2>What others published</h2><p class='note'>Their statements about their own methods, on other "
        "splits, models and machines. None of it was measured here; nothing above is taken from it.</p>"
        + _table(("method", "states", "on", "read in"), rows)
    )


def _left(text: str) -> str:
    return f'<span style="white-space:normal;display:block;text-align:left">{escape(text)}</span>'


def _machine(results: Mapping[str, Any]) -> str:
    rows = [(k, [escape(str(v))]) for k, v in results["environment"].items()]
    rows += [(f"{name}, SHA-256", [d["digest"]]) for name, d in results["data"].items()]
    return "<h2>Measured on</h2>" + _table(("", ""), rows)
