"""Plots of a study, drawn like the demo's: inline SVG in the page's own colours."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..plots import BAD, INK, MUTED, SERIES, SURFACE, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Cell = Mapping[str, Any]

FLOOR = 1e-8
"""Where a log axis puts what is smaller: nobody could see it in float32."""
_MARKERS = "osD^vPX*"
_SHOWN = ("do nothing", "method", "another seed's retrain")


def pareto(cells: Sequence[Cell]) -> str:
    """Draw what is left against the time that it took, a point a method and regime; the front is joined."""
    methods, regimes = _names(cells)
    points: list[tuple[float, float]] = []

    def draw(figure: "Figure") -> None:
        axis = figure.subplots()
        for method, regime in ((m, r) for m in methods for r in regimes):
            found = _of(cells, method, regime)
            if not found:
                continue
            x = _mean(found, "efficiency", "time_to_retrain")
            y = max(_mean(found, "completeness", "method", "influence_left"), FLOOR)
            points.append((x, y))
            axis.plot(x, y, _MARKERS[regimes.index(regime) % 8], color=_colour(methods, method),
                      markersize=8, label=f"{method}, {regime}")  # fmt: skip
        front = list(_front(points))
        axis.plot([x for x, _ in front], [y for _, y in front], color=MUTED, linewidth=1, zorder=0)
        axis.axhline(1.0, color=BAD, linewidth=1, linestyle=(0, (4, 3)))
        axis.set(xscale="log", yscale="log", xlabel="time of a batch ÷ time of a retrain")
        axis.set_ylabel("influence left in those who stay")
        axis.grid(visible=True)
        handles, labels = _legend(axis, methods, regimes)
        figure.legend(handles, labels, loc="outside lower center", ncols=3, labelcolor=INK)

    return svg(draw, 7.6, 4.4 + 0.11 * (len(methods) + len(regimes)), f"pareto-{_slug(cells)}")


def drift(cells: Sequence[Cell]) -> str:
    """Draw what is left along a stream of requests, the mean over draws; empty without a stream."""
    cells = [cell for cell in cells if len(cell["measured"]["drift"]) > 1]
    if not cells:
        return ""
    methods, regimes = _names(cells)

    def draw(figure: "Figure") -> None:
        axes = figure.subplots(1, len(regimes), sharey=True, squeeze=False)[0]
        for axis, regime in zip(axes, regimes, strict=True):
            for method in methods:
                runs = [cell["measured"]["drift"] for cell in _of(cells, method, regime)]
                if runs:
                    x = [stop["requests"] for stop in runs[0]]
                    y = np.mean([[stop["influence_left"] or np.nan for stop in run] for run in runs], axis=0)
                    axis.plot(x, np.maximum(np.nan_to_num(y), FLOOR), marker="o",
                              color=_colour(methods, method), label=method)  # fmt: skip
            axis.axhline(1.0, color=BAD, linewidth=1, linestyle=(0, (4, 3)))
            axis.set(yscale="log", title=regime, xlabel="requests carried out")
            axis.grid(visible=True, axis="y")
        axes[0].set_ylabel("influence left")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, labelcolor=INK)

    return svg(draw, 8.6, 3.9, f"drift-{_slug(cells)}")


def residues(cells: Sequence[Cell]) -> str:
    """Draw how much more the hidden items stand out than under the retrain, a box a method and treatment."""
    methods, _ = _names(cells)

    def draw(figure: "Figure") -> None:
        axis = figure.subplots()
        for k, name in enumerate(_SHOWN):
            values = [
                [d for c in cells if c["method"] == m for d in c["measured"]["residues"][name]] or [0.0]
                for m in methods
            ]
            places = np.arange(len(methods)) + 0.26 * (k - 1)
            boxes = axis.boxplot(values, positions=places, widths=0.2, orientation="horizontal",
                                 showfliers=False, patch_artist=True)  # fmt: skip
            for part in (*boxes["boxes"], *boxes["whiskers"], *boxes["caps"], *boxes["medians"]):
                part.set(color=(BAD, SERIES[0], MUTED)[k], linewidth=1.2)
            for box in boxes["boxes"]:
                box.set_facecolor(SURFACE)
            axis.plot([], [], color=(BAD, SERIES[0], MUTED)[k], label=name)
        axis.axvline(0.0, color=MUTED, linewidth=1)
        axis.set_yticks(range(len(methods)), methods)
        axis.set_xlabel("margin of hidden items above the retrain's, standard deviations")
        axis.set_xscale("symlog", linthresh=1e-3)
        axis.invert_yaxis()
        axis.grid(visible=True, axis="x")
        figure.legend(loc="outside lower center", ncols=3, labelcolor=INK)

    return svg(draw, 7.6, 1.5 + 0.55 * len(methods), f"residues-{_slug(cells)}")


def by_activity(cells: Sequence[Cell]) -> str:
    """Draw the change of NDCG@10 against the retrain, by activity and among those like the forgotten."""
    methods, _ = _names(cells)
    groups = list(cells[0]["measured"]["fairness"]["groups"])

    def draw(figure: "Figure") -> None:
        axis = figure.subplots()
        width = 0.8 / len(methods)
        for k, method in enumerate(methods):
            rows = [c["measured"]["fairness"]["groups"] for c in cells if c["method"] == method]
            change = [
                float(np.mean([r[g]["ndcg@10"] - r[g]["oracle"] for r in rows if g in r])) for g in groups
            ]
            places = np.arange(len(groups)) - 0.4 + width * (k + 0.5)
            axis.bar(places, change, width, color=_colour(methods, method), label=method)
        axis.axhline(0.0, color=MUTED, linewidth=1)
        axis.set_xticks(range(len(groups)), [g.replace("activity 1", "least active") for g in groups])
        axis.set_ylabel("NDCG@10 minus the retrain's")
        axis.grid(visible=True, axis="y")
        figure.legend(loc="outside lower center", ncols=4, labelcolor=INK)

    return svg(draw, 7.6, 4.0, f"activity-{_slug(cells)}")


def claim_against_truth(cells: Sequence[Cell]) -> str:
    """Draw what a method says is left at the most against what is left; below the diagonal it is false.

    Empty where no method says anything.
    """
    methods, _ = _names(cells)
    shown = [c for c in cells if c["measured"]["claim"]["erased_at_least"] is not None]
    if not shown:
        return ""

    def draw(figure: "Figure") -> None:
        axis = figure.subplots()
        points = [
            (
                c["method"],
                max(c["measured"]["completeness"]["method"]["influence_left"] or 0.0, FLOOR),
                max(1.0 - c["measured"]["claim"]["erased_at_least"], FLOOR),
            )
            for c in shown
        ]
        low, high = FLOOR / 3, max(1.0, *(v for _, x, y in points for v in (x, y))) * 3
        axis.fill_between([low, high], [low, high], [low, low], color=BAD, alpha=0.08, linewidth=0)
        axis.plot([low, high], [low, high], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        for method in dict.fromkeys(name for name, _, _ in points):
            axis.plot([x for n, x, _ in points if n == method], [y for n, _, y in points if n == method],
                      "o", color=_colour(methods, method), label=method)  # fmt: skip
        axis.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
        axis.set_xlabel("measured: influence left")
        axis.set_ylabel("said: left at the most")
        axis.grid(visible=True)
        figure.legend(loc="outside lower center", ncols=3, labelcolor=INK)

    return svg(draw, 5.4, 4.6, f"claims-{_slug(cells)}")


PLOTS: tuple[tuple[str, Callable[[Sequence[Cell]], str], str], ...] = (
    ("Completeness against time", pareto,
     "The grey line is the Pareto front; the dashed line is doing nothing. Exact methods lie at the floor."),
    ("Drift", drift,
     "A retrain is made at each point. What is left is a share of all that had been asked for by then."),
    ("Residue", residues,
     "Each box: how far a forgotten person's hidden items stand out above the retrain. Zero is clean."),
    ("Who is served worse", by_activity,
     "Change of ranking quality of those who stay against the retrain, quarters by activity."),
    ("What a method says, and what is so", claim_against_truth,
     "A point in the shaded half would be a false claim."),
)  # fmt: skip
"""Title, plot, caption. Each is drawn once for each data set."""


def _names(cells: Sequence[Cell]) -> tuple[list[str], list[str]]:
    return list(dict.fromkeys(c["method"] for c in cells)), list(
        dict.fromkeys(c["regime"]["name"] for c in cells)
    )


def _of(cells: Sequence[Cell], method: str, regime: str) -> list[Cell]:
    return [c for c in cells if c["method"] == method and c["regime"]["name"] == regime]


def _mean(cells: Sequence[Cell], *path: str) -> float:
    values = []
    for cell in cells:
        value: Any = cell["measured"]
        for part in path:
            value = value[part]
        values.append(np.nan if value is None else float(value))
    return float(np.nanmean(values)) if not np.all(np.isnan(values)) else float("nan")


def _colour(methods: Sequence[str], method: str) -> str:
    return SERIES[methods.index(method) % len(SERIES)]


def _front(points: Sequence[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    """Points that no other beats in both."""
    best = float("inf")
    for x, y in sorted(points):
        if y < best:
            best = y
            yield x, y


def _legend(axis: "Axes", methods: Sequence[str], regimes: Sequence[str]) -> tuple[list[Any], list[str]]:
    colours = [axis.plot([], [], "o", color=_colour(methods, m))[0] for m in methods]
    shapes = [axis.plot([], [], _MARKERS[k % 8], color=MUTED)[0] for k in range(len(regimes))]
    return [*colours, *shapes], [*methods, *regimes]


def _slug(cells: Sequence[Cell]) -> str:
    return "".join(ch if ch.isalnum() else "-" for ch in cells[0]["data"])
