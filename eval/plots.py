"""Plots of a measured run as inline SVG that follows the page's light or dark colours.

Matplotlib draws with marker colours; each marker is then replaced by a CSS variable of the page, so that one
drawing serves both themes. The SVG has no prolog, no metadata and no address in it.
"""

import io
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from .format import seconds
from .report import Lists, ModelOutcome, Removal, slowest

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, LINE, SURFACE, BAD, GOOD = "#010101", "#020202", "#030303", "#040404", "#050505", "#060606"
SERIES = ("#0a0a01", "#0a0a02", "#0a0a03", "#0a0a04", "#0a0a05", "#0a0a06")
"""Marker colours, not seen by anybody: :data:`_VARIABLES` says what they become."""

_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    LINE: "--line",
    SURFACE: "--surface",
    BAD: "--bad",
    GOOD: "--good",
}
_VARIABLES |= {marker: f"--series-{k}" for k, marker in enumerate(SERIES, 1)}

_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.size": 10.5,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlecolor": INK,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "lines.linewidth": 2.0,
    "legend.frameon": False,
}

_FLOOR = 1e-16
"""Where a log axis puts a measured zero."""


def influence_steps(removals: Sequence[Removal]) -> str:
    """Draw the share of influence left in everybody else after each step; one panel a removal.

    Filled: measured against the retrain. Open: what the model shows to be left at the most.
    """

    def draw(figure: "Figure") -> None:
        axes = figure.subplots(1, max(1, len(removals)), sharey=True, squeeze=False)[0]
        for axis, removal in zip(axes, removals, strict=False):
            _draw_steps(axis, removal)
        axes[0].set_ylabel("influence left in everybody else")
        handles, labels = axes[-1].get_legend_handles_labels()
        if handles:
            figure.legend(handles, labels, loc="outside upper right", ncols=3, labelcolor=INK)

    return svg(draw, 9.2, 3.9, "influence-steps")


def bound_against_truth(removals: Sequence[Removal]) -> str:
    """Draw each model's own bound against the measured distance; below the diagonal it would be false."""

    def draw(figure: "Figure") -> None:
        axis = figure.subplots()
        outcomes = [(removal.name, k, m) for removal in removals for k, m in enumerate(removal.models)]
        shown = [(name, k, m) for name, k, m in outcomes if m.bound is not None]
        values = [max(v, _FLOOR) for _, _, m in shown for v in (m.bound or 0.0, m.proof_distance)]
        low, high = min(values, default=_FLOOR) / 10, max(values, default=1.0) * 10
        axis.fill_between([low, high], [low, high], [low, low], color=BAD, alpha=0.08, linewidth=0)
        axis.plot([low, high], [low, high], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        names = list(dict.fromkeys(name for name, _, _ in shown))
        for name, k, m in shown:
            x, y = max(m.proof_distance, _FLOOR), max(m.bound or 0.0, _FLOOR)
            axis.plot(x, y, marker="os^D"[names.index(name) % 4], color=SERIES[k % len(SERIES)], markersize=9,
                      linestyle="none", label=f"{m.name}, {name}")  # fmt: skip
        axis.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
        axis.set_xlabel("measured: relative distance to the retrain")
        axis.set_ylabel("shown without a retrain: bound")
        axis.grid(visible=True)
        axis.text(high / 3, low * 3, "a bound here would be false", color=MUTED, ha="right", va="bottom")
        if shown:
            figure.legend(loc="outside lower center", ncols=2, labelcolor=INK)

    return svg(draw, 5.0, 4.2, "bound-against-truth")


def timings(removals: Sequence[Removal]) -> str:
    """Draw the slowest request of each removal to fenced and erased, with the retrains beside it."""
    bars = _bars(removals)

    def draw(figure: "Figure") -> None:
        axis = figure.subplots()
        for y, (_, value, colour) in enumerate(bars):
            axis.barh(y, max(value, 1e-6), color=colour, height=0.62, left=1e-6)
            axis.text(max(value, 1e-6) * 1.25, y, seconds(value), va="center", color=INK)
        axis.set_yticks(range(len(bars)), [name for name, _, _ in bars])
        axis.set(xscale="log", xlabel="seconds (log scale)")
        values = [value for _, value, _ in bars if value > 0]
        axis.set_xlim(min(values, default=1e-3) / 4, max(values, default=1.0) * 6)
        axis.invert_yaxis()
        axis.tick_params(axis="y", length=0, labelcolor=INK)
        axis.grid(visible=True, axis="x")

    return svg(draw, 5.0, 0.8 + 0.34 * len(bars), "timings")


def list_changes(lists: Lists) -> str:
    """Draw a list before and after: a line for each item, rank by rank."""
    before, after = [i.title for i in lists.before], [i.title for i in lists.after or []]
    rows = max(len(before), len(after), 1)

    def draw(figure: "Figure") -> None:
        axis = figure.add_axes((0, 0, 1, 1))
        axis.set(xlim=(0, 1), ylim=(rows - 0.4, -1.5))
        axis.axis("off")
        axis.text(0.40, -1, "before", ha="right", va="center", color=MUTED)
        axis.text(0.60, -1, "after", ha="left", va="center", color=MUTED)
        for rank, title in enumerate(before):
            kept = title in after
            axis.text(0.40, rank, _short(title), ha="right", va="center", color=INK if kept else BAD)
            axis.text(0.43, rank, str(rank + 1), ha="right", va="center", color=MUTED)
            if kept:
                moved = after.index(title) != rank
                colour = SERIES[0] if moved else MUTED
                axis.plot([0.445, 0.555], [rank, after.index(title)], color=colour, linewidth=1.4)
        for rank, title in enumerate(after):
            axis.text(0.57, rank, str(rank + 1), ha="left", va="center", color=MUTED)
            colour = INK if title in before else GOOD
            axis.text(0.60, rank, _short(title), ha="left", va="center", color=colour)

    return svg(draw, 8.6, 0.29 * (rows + 1.1), f"list-{lists.model}", None)


def _draw_steps(axis: "Axes", removal: Removal) -> None:
    names = list(dict.fromkeys(step.name for model in removal.models for step in model.steps))
    names.sort(key=lambda name: _latest_position(removal.models, name))
    for k, model in enumerate(removal.models):
        colour = SERIES[k % len(SERIES)]
        places = [names.index(step.name) for step in model.steps]
        axis.plot(places, [max(s.remaining, _FLOOR) for s in model.steps], marker="o", color=colour,
                  label=model.name)  # fmt: skip
        shown = [
            (p, s.certified) for p, s in zip(places, model.steps, strict=True) if s.certified is not None
        ]
        axis.plot([p for p, _ in shown], [max(c, _FLOOR) for _, c in shown], marker="o", color=colour,
                  markerfacecolor=SURFACE, linestyle=(0, (2, 2)), linewidth=1.2)  # fmt: skip
    axis.set(yscale="log", title=removal.name, xlim=(-0.4, len(names) - 0.6))
    axis.set_xticks(range(len(names)), [name.replace(" ", "\n", 1) for name in names])
    axis.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
    axis.grid(visible=True, axis="y")


def _latest_position(models: Sequence[ModelOutcome], name: str) -> float:
    """Where a step stands among the steps of the models that have it, 0 first and 1 last."""
    places = [
        [s.name for s in m.steps].index(name) / max(1, len(m.steps) - 1)
        for m in models
        if name in [s.name for s in m.steps]
    ]
    return max(places)


def _bars(removals: Sequence[Removal]) -> list[tuple[str, float, str]]:
    """Name, seconds and colour of each bar: the requests, then each model's forgetting and retrain."""
    bars: list[tuple[str, float, str]] = []
    for removal in removals:
        fenced, erased = slowest(removal.requests)
        bars += [(f"{removal.name}: fenced", fenced, GOOD), (f"{removal.name}: erased", erased, GOOD)]
    for k, name in enumerate(dict.fromkeys(m.name for removal in removals for m in removal.models)):
        models = [m for removal in removals for m in removal.models if m.name == name]
        colour = SERIES[k % len(SERIES)]
        bars.append((f"{name}: forget", max(m.forget_seconds for m in models), colour))
        bars.append((f"{name}: retrain", max(m.retrain_seconds for m in models), MUTED))
    return bars


def _short(title: str, width: int = 42) -> str:
    return title if len(title) <= width else title[: width - 1].rstrip() + "…"


def svg(
    draw: "Callable[[Figure], None]",
    width: float,
    height: float,
    name: str,
    layout: Literal["constrained"] | None = "constrained",
) -> str:
    """Draw on a figure of inches ``width`` x ``height``; return the SVG element, coloured by CSS."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    settings: Any = _STYLE | {"svg.hashsalt": name}
    with rc_context(settings):
        figure = Figure(figsize=(width, height), layout=layout)
        draw(figure)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return _inline(buffer.getvalue(), name)


def _inline(svg: str, name: str) -> str:
    """Cut a stand-alone SVG down to what an HTML page needs, and let the page colour it."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    for marker, variable in _VARIABLES.items():
        svg = svg.replace(marker, f"var({variable})")
    return svg.replace("<svg", f'<svg role="img" data-plot="{name}"', 1).strip()
