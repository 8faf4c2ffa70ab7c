"""The report as one HTML page: no script, no address outside itself, light and dark, printable."""

from collections.abc import Iterable, Sequence
from html import escape

from .format import count, power, seconds, share
from .report import Check, Lists, ModelOutcome, Removal, Report, slowest

_CSS = """
:root{color-scheme:light dark;--ink:#1b1f24;--muted:#5b6570;--line:#dfe3e8;--surface:#ffffff;--page:#f6f7f9;
--good:#1a7f4b;--bad:#b3362b;--series-1:#2563c4;--series-2:#c26a12;--series-3:#7a3fb0;--series-4:#0f8380;
--series-5:#a33b6b;--series-6:#6b6f1f}
@media(prefers-color-scheme:dark){:root{--ink:#e8eaed;--muted:#a0a8b2;--line:#343a42;--surface:#1d2126;
--page:#14171a;--good:#5fc88f;--bad:#ef8378;--series-1:#7eb0f5;--series-2:#f0ac5e;--series-3:#c79bf2;
--series-4:#63c9c5;--series-5:#eb8fb6;--series-6:#c6ca6d}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",
"Noto Sans","Liberation Sans",sans-serif}
main{max-width:62rem;margin:0 auto;padding:2.5rem 1.25rem 4rem}
h1{font-size:1.9rem;line-height:1.2;margin:.3rem 0 .6rem;letter-spacing:-.01em;text-wrap:balance}
h2{font-size:1.2rem;margin:2.8rem 0 .4rem}
h3{font-size:1rem;margin:1.2rem 0 .3rem}
p{margin:.4rem 0 .8rem;max-width:46rem}
.lead{font-size:1.1rem}.note{color:var(--muted);font-size:.92rem}
.tag{color:var(--muted);font-size:.85rem;letter-spacing:.04em;text-transform:uppercase}
.card{background:var(--surface);border:1px solid var(--line);border-radius:10px;
padding:1.1rem 1.25rem;margin:.9rem 0;overflow-x:auto}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(11.5rem,1fr));gap:.8rem;margin:1.4rem 0}
.tile{background:var(--surface);border:1px solid var(--line);border-radius:10px;padding:.9rem 1.1rem}
.tile b{display:block;font-size:1.55rem;line-height:1.25;font-weight:600;font-variant-numeric:tabular-nums}
.tile span{color:var(--muted);font-size:.9rem;line-height:1.35;display:block}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:.42rem .7rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th:first-child,td:first-child{text-align:left;padding-left:0;white-space:normal}
thead th{color:var(--muted);font-weight:500;font-size:.92rem}
tbody tr:last-child th,tbody tr:last-child td{border-bottom:0}
tbody th{font-weight:400}tr.ours th,tr.ours td{font-weight:650}tr.rule th,tr.rule td{border-bottom-width:2px}
.good{color:var(--good)}.bad{color:var(--bad)}
ul.checks{list-style:none;padding:0;margin:0}
ul.checks li{display:grid;grid-template-columns:1.6rem 1fr;padding:.35rem 0;
border-bottom:1px solid var(--line)}
ul.checks li:last-child{border-bottom:0}ul.checks small{display:block;color:var(--muted);font-size:.9rem}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(22rem,1fr));gap:1rem;align-items:start}
@media(max-width:48rem){.pair{grid-template-columns:1fr}th,td{padding:.4rem .4rem}}
ol{margin:.3rem 0;padding-left:1.6rem}code{font-size:.92em}pre{margin:.3rem 0;white-space:pre-wrap}
svg{display:block;width:100%;height:auto;max-width:58rem}svg text{font-family:inherit!important}
figure{margin:0}figcaption{color:var(--muted);font-size:.92rem;margin-top:.5rem;max-width:46rem}
@media print{body{background:#fff}.card,.tile{break-inside:avoid}}
"""


_TREATMENTS = """<p class="note"><em>Do nothing</em>: the models as they were. <em>Only drop the rows</em>:
what deletion usually is; the accounts' rows and the interactions are gone from the tables, and what the
models learned from them stays. <em>recunlearn</em>: what was published after the requests.</p>"""


def render_page(report: Report) -> str:
    """Render the whole page; the plots are left out, with a note, where matplotlib is not installed."""
    body = [
        _head(report),
        _tiles(report),
        _checks(report.checks),
        *(_removal(removal) for removal in report.removals),
        _TREATMENTS,
        _plots(report),
        _people(report),
        _method(report),
    ]
    return html_page(f"recunlearn: report of {report.created}", body)


def html_page(title: str, body: Sequence[str]) -> str:
    """Put sections into a page of its own: our style, no script, nothing fetched."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title>"
        f'<link rel="icon" href="data:,"><style>{_CSS}</style></head>\n'
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )


def _head(report: Report) -> str:
    accounts = sum(removal.accounts for removal in report.removals)
    pairs = sum(removal.interactions for removal in report.removals)
    data = report.dataset
    title = (
        f"{accounts} people and {pairs} single interactions, forgotten"
        if report.ok
        else "Not everything that was claimed held"
    )
    return (
        f'<div class="tag">recunlearn {escape(report.software)} · measured {escape(report.created)}</div>'
        f"<h1>{title}</h1>"
        f'<p class="lead">The recommenders {escape(_named_models(report))} were fitted on '
        f"{escape(data.name)} ({count(data.users)} users, "
        f"{count(data.items)} items, {count(data.interactions)} interactions) and served over HTTP. Then "
        "deletion requests arrived. Their rows <em>and what the models had learned from them</em> were taken "
        "out in place, without a retrain. Afterwards, as a check, every model was retrained from scratch "
        "without these people, and compared.</p>"
    )


def _named_models(report: Report) -> str:
    names = [lists.model for lists in report.neighbour]
    return f"{' and '.join([', '.join(names[:-1]), names[-1]] if names[1:] else names)}"


def _tiles(report: Report) -> str:
    outcomes = [model for removal in report.removals for model in removal.models]
    requests = [request for removal in report.removals for request in removal.requests]
    fenced, erased = slowest(requests)
    worst = max((m.remaining for m in outcomes), default=0.0)
    tiles = [
        (seconds(fenced), "slowest request, from asked to <em>fenced</em>: not served any more"),
        (seconds(erased), "slowest request, from asked to <em>erased</em> from every published model"),
        (share(worst), "of the influence on everybody else is left, in the worst of the models"),
        (f"{sum(c.ok for c in report.checks)} of {len(report.checks)}", "claims put to the test held"),
    ]
    return (
        '<div class="tiles">'
        + "".join(f'<div class="tile"><b>{v}</b><span>{w}</span></div>' for v, w in tiles)
        + "</div>"
    )


def _checks(checks: Sequence[Check]) -> str:
    rows = "".join(
        f'<li><span class="{"good" if c.ok else "bad"}" aria-label="{"held" if c.ok else "failed"}">'
        f"{'✓' if c.ok else '✗'}</span><span>{escape(c.claim)}<small>{escape(c.measured)}</small></span></li>"
        for c in checks
    )
    heading = "<h2>What was claimed, and what was measured</h2>"
    return f'{heading}<div class="card"><ul class="checks">{rows}</ul></div>'


def _removal(removal: Removal) -> str:
    fenced, erased = slowest(removal.requests)
    head = "".join(f"<th scope='col'>{escape(m.name)}</th>" for m in removal.models)
    rows = [
        _row(t.name, (share(m.treatments[k].others) for m in removal.models), _treatment_style(removal, k))
        for k, t in enumerate(removal.models[0].treatments if removal.models else ())
    ]
    rows += [
        _row("shown by the model itself, without a retrain: at most", map(_proved, removal.models), "rule"),
        _row("measured distance of the scores to the retrain", (power(m.distance) for m in removal.models)),
        _row("the model's own proof: distance at most", map(_bound, removal.models)),
        _row("forgetting alone takes", (seconds(m.forget_seconds) for m in removal.models)),
        _row("a retrain from scratch takes", (seconds(m.retrain_seconds) for m in removal.models)),
    ]
    return (
        f"<h2>{escape(removal.name[:1].upper() + removal.name[1:])}</h2>"
        f"<p>{_asked(removal)} Fenced within {seconds(fenced)}, erased within {seconds(erased)} of being "
        "asked, in all models at once: they are published as one version.</p>"
        '<div class="card"><table><thead><tr><th scope="col">influence left in everybody else</th>'
        f"{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _asked(removal: Removal) -> str:
    parts = []
    if removal.accounts:
        parts.append(f"{removal.accounts} account{'s' * (removal.accounts != 1)}")
    if removal.interactions:
        parts.append(f"{removal.interactions} single interaction{'s' * (removal.interactions != 1)}")
    return f"Asked: delete {' and '.join(parts)}."


def _treatment_style(removal: Removal, k: int) -> str:
    return "ours rule" if k == len(removal.models[0].treatments) - 1 else ""


def _row(name: str, values: Iterable[str], style: str = "") -> str:
    cells = "".join(f"<td>{escape(value)}</td>" for value in values)
    return f'<tr class="{style}"><th scope="row">{escape(name)}</th>{cells}</tr>'


def _proved(outcome: ModelOutcome) -> str:
    if outcome.exact:
        return "exact"
    return "-" if outcome.erased_at_least is None else share(1.0 - outcome.erased_at_least)


def _bound(outcome: ModelOutcome) -> str:
    return "-" if outcome.bound is None else power(outcome.bound)


def _plots(report: Report) -> str:
    try:
        from .plots import bound_against_truth, influence_steps, timings

        steps, bounds, times = (
            draw(report.removals) for draw in (influence_steps, bound_against_truth, timings)
        )
    except ImportError:
        return (
            "<h2>Plots</h2><p>Matplotlib is not installed: <code>pip install 'recunlearn[report]'</code> "
            "adds the plots to this page.</p>"
        )
    return (
        "<h2>Influence left after each step</h2>"
        + _figure(
            steps,
            "Share of the removed influence that is left in the scores of everybody else (log scale). "
            "Emptying the rows changes nothing there: what was learned stays. Filled and solid: measured "
            "against the retrain. Open and dotted: what the model shows about itself to be left at the most. "
            "An iterative model was also asked, in copies, to stop as soon as it could show 90 % or 99 %. "
            "A measured zero is drawn at the bottom.",
        )
        + "<h2>Proof against truth, and time</h2><div class='pair'>"
        + _figure(
            bounds,
            "Each model's own bound, published without a retrain, against the distance measured "
            "afterwards. A point below the dashed line would be a false claim.",
        )
        + _figure(
            times,
            "Slowest request of each batch, from asked to fenced and to erased (all models, proof, "
            "publishing and purge included); each model's forgetting alone, and a fit from scratch.",
        )
        + "</div>"
    )


def _figure(svg: str, caption: str) -> str:
    return f'<figure class="card">{svg}<figcaption>{caption}</figcaption></figure>'


def _people(report: Report) -> str:
    person = report.person
    titles = "".join(f"<li>{escape(item.title)}</li>" for item in person.before)
    after = (
        "<p>After: <strong>404</strong>, byte for byte what somebody gets who never existed.</p>"
        if person.after is None
        else "<p class='bad'>After: still served.</p>"
    )
    return (
        "<h2>What they saw</h2>"
        f'<div class="card"><h3>User {escape(str(person.user_id))}, who asked to be forgotten '
        f"({escape(person.model)})</h3><p class='note'>Before:</p><ol>{titles}</ol>{after}</div>"
        + "".join(_neighbour(lists, _oracle_list(report, lists.model)) for lists in report.neighbour)
    )


def _oracle_list(report: Report, model: str) -> list[str | int]:
    """Return what the model retrained after the last removal recommends the neighbour."""
    found = [m.oracle_list for removal in report.removals for m in removal.models if m.name == model]
    return found[-1] if found else []


def _neighbour(lists: Lists, retrained: Sequence[str | int]) -> str:
    heading = f"User {escape(str(lists.user_id))}, the closest taste, who stays ({escape(lists.model)})"
    try:
        from .plots import list_changes

        body = list_changes(lists)
    except ImportError:
        body = "".join(
            f"<p class='note'>{when}</p><ol>{''.join(f'<li>{escape(i.title)}</li>' for i in items)}</ol>"
            for when, items in (("before", lists.before), ("after", lists.after or []))
        )
    caption = _list_caption(lists, retrained)
    return f'<figure class="card"><h3>{heading}</h3>{body}<figcaption>{caption}</figcaption></figure>'


def _list_caption(lists: Lists, retrained: Sequence[str | int]) -> str:
    after = [item.item_id for item in lists.after or []]
    before = [item.item_id for item in lists.before]
    kept = len(set(before) & set(after))
    moved = sum(a != b for a, b in zip(before, after, strict=False))
    agreed = sum(a == b for a, b in zip(after, retrained, strict=False))
    changed = (
        f"{kept} of {len(before)} items stayed, {moved} ranks show another item."
        if moved or len(before) != len(after)
        else f"All {len(before)} items are in the same order as before."
    )
    return f"{changed} The model retrained from scratch agrees in {agreed} of {len(after)} ranks."


def _method(report: Report) -> str:
    rows = "".join(
        f"<tr><th scope='row'>{escape(k)}</th><td>{escape(v)}</td></tr>"
        for k, v in report.environment.items()
    )
    text = report.dataset.notice.replace("https://", "")  # named, not linked: the page points nowhere
    notice = "".join(f"<p class='note'>{escape(part)}</p>" for part in text.split("\n\n") if part.strip())
    return (
        "<h2>How this was measured</h2>"
        "<p>Influence is counted strictly: only in the rows of users whom the removal did not touch, as the "
        "Frobenius distance of scores to a fit from scratch without the removed data (iterative models: "
        "fitted a thousand times more tightly than the published ones). Counting the forgotten rows "
        "themselves would flatter everybody: <em>only drop the rows</em> would then look like "
        f"{escape(_flattered(report))}. For an exact model, what is left is the rounding of float64.</p>"
        "<p><em>Fenced</em> and <em>erased</em> are stamped by the ledger, from the moment the request was "
        "made. The server ran as its own process and was asked all the while, as versions were swapped.</p>"
        f'<div class="card"><table><tbody>{rows}</tbody></table></div>'
        f"<p class='note'>Run it again: <code>{escape(report.command)}</code> (seed {report.seed}; "
        f"{seconds(report.seconds)} in all, {seconds(report.fit_seconds)} of it fitting).</p>{notice}"
    )


def _flattered(report: Report) -> str:
    """Say what counting all rows would claim for dropping rows, over the last removal."""
    models = report.removals[-1].models if report.removals else []
    return ", ".join(f"{share(max(0.0, 1 - m.treatments[1].all_rows))} erased ({m.name})" for m in models)
