"""Plots as small SVG pictures; their colours are CSS variables of the page, which follow the light or dark theme."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from tercet.report.formats import num

# matplotlib needs real colours: each is replaced by a CSS variable in the SVG
_COLOURS = {
    "ink": "#010101", "muted": "#020202", "rule": "#030303", "base": "#040404", "sft": "#050505", "ppo": "#060606",
    "other": "#070707", "paper": "#080808",
}  # fmt: skip
_STYLE: dict[Any, Any] = {  # Any: matplotlib types its keys one by one
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.edgecolor": _COLOURS["rule"],
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.unicode_minus": True,
    "grid.color": _COLOURS["rule"],
    "grid.linewidth": 0.6,
    "xtick.color": _COLOURS["muted"],
    "ytick.color": _COLOURS["muted"],
    "axes.labelcolor": _COLOURS["muted"],
    "text.color": _COLOURS["muted"],
    "xtick.major.size": 0,
    "ytick.major.size": 0,
}
_SMOOTHED_FROM = 40  # fewer values are not smoothed
Colour = Literal["ink", "muted", "base", "sft", "ppo", "other"]


@dataclass(frozen=True)
class Series:
    """One metric: a smoothed line over the raw values, or dots if it was measured rarely.

    `right` draws it against an axis of its own on the right.
    """

    label: str
    colour: Colour
    xs: Sequence[float]
    ys: Sequence[float]
    dots: bool = False
    right: bool = False


def smoothed(values: Sequence[float]) -> list[float]:
    """Return means over a centred window of about a tenth of the curve; few values are returned unchanged."""
    reach = len(values) // 20 if len(values) >= _SMOOTHED_FROM else 0
    windows = [values[max(0, i - reach) : i + reach + 1] for i in range(len(values))]
    return [sum(window) / len(window) for window in windows]


def curves(
    series: Sequence[Series],
    *,
    name: str,
    level: float | None = None,
    bottom: float | None = None,
    mark: float | None = None,
) -> str:
    """Plot metrics over the index.

    `level` is the height of a dashed line, `bottom` the start of the axis, `mark` an index with a vertical line. `name`
    must be unique on a page.
    """
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure, axes = _canvas()
        if mark is not None:
            axes.axvline(mark, color=_COLOURS["ink"], linewidth=0.9, linestyle=(0, (1, 2)))
        right = _right_axis(figure, axes) if any(one.right for one in series) else axes
        for one in series:
            _draw(right if one.right else axes, one)
        if level is not None:
            axes.axhline(level, color=_COLOURS["muted"], linewidth=0.9, linestyle=(0, (4, 3)))
        for drawn in (axes, right):
            drawn.margins(x=0.015, y=0.08)
        if bottom is not None:
            lowest = min(y for one in series if not one.right for y in one.ys)
            axes.set_ylim(
                bottom=min(bottom, lowest) - 0.02 * (axes.get_ylim()[1] - bottom)
            )  # space for the width of the line
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
        return _svg(figure, name)


def path(xs: Sequence[float], ys: Sequence[float], *, name: str, mark: int | None) -> str:
    """Plot points joined in the order of time, from pale to full colour; `mark` is the index of the selected one."""
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure, axes = _canvas()
        axes.plot(xs, ys, color=_COLOURS["ppo"], linewidth=0.6, alpha=0.35)
        for index, (x, y) in enumerate(zip(xs, ys, strict=True)):
            alpha = 0.15 + 0.85 * index / max(1, len(xs) - 1)
            axes.plot([x], [y], "o", color=_COLOURS["ppo"], markersize=4, markeredgewidth=0, alpha=alpha)
        if mark is not None:
            axes.plot(
                [xs[mark]], [ys[mark]], "o", markersize=9, markerfacecolor="none", markeredgecolor=_COLOURS["ink"]
            )
        axes.margins(0.05)
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        return _svg(figure, name)


@dataclass(frozen=True)
class Point:
    """A labelled point with an interval of its height."""

    label: str
    x: float
    y: float
    low: float
    high: float


def trade_offs(points: Sequence[Point], *, name: str) -> str:
    """Plot shares with their intervals over a cost, each with its label; one half is dashed."""
    colours = ("ppo", "sft", "other", "base", "ink")
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure, axes = _canvas()
        axes.axhline(0.5, color=_COLOURS["muted"], linewidth=0.9, linestyle=(0, (4, 3)))
        for number, point in enumerate(points):
            colour = _COLOURS[colours[number % len(colours)]]
            axes.plot([point.x, point.x], [point.low, point.high], color=colour, linewidth=1.2)
            axes.plot([point.x], [point.y], "o", color=colour, markersize=5, markeredgewidth=0)
            axes.annotate(point.label, (point.x, point.y), (5, 3), textcoords="offset points", color=colour, fontsize=7)
        axes.margins(x=0.15, y=0.08)
        axes.set_xlim(left=min(0.0, axes.get_xlim()[0]))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f}%"))
        return _svg(figure, name)


def progress(points: Sequence[Point], *, name: str) -> str:
    """Plot shares with their intervals over a cost that grows from point to point."""
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure, axes = _canvas()
        draw_progress(axes, points, _COLOURS["ppo"])
        return _svg(figure, name)


def draw_progress(axes: Axes, points: Sequence[Point], colour: str) -> None:
    """Draw `progress` on axes."""
    axes.plot([one.x for one in points], [one.y for one in points], "-o", color=colour, linewidth=1.7, markersize=4)
    axes.vlines([one.x for one in points], [one.low for one in points], [one.high for one in points], color=colour)
    axes.set_ylim(min(axes.get_ylim()[0], min(one.low for one in points) - 0.03), 1.02)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f}%"))


@dataclass(frozen=True)
class Strip:
    """A try: its steps, the first step and the end of each stretch in which a person steered, and its mark."""

    num_steps: int
    takeovers: Sequence[Sequence[int]]
    good: bool


def strips(groups: Sequence[Sequence[Strip]], *, name: str) -> str:
    """Plot each try as a line from left to right, coloured by who steered; dashed lines separate the groups."""
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name, "axes.grid": False}):
        figure, axes = _canvas()
        draw_strips(axes, groups, height=1.7, policy=_COLOURS["sft"], person=_COLOURS["ppo"], ink=_COLOURS["ink"])
        return _svg(figure, name)


def draw_strips(
    axes: Axes, groups: Sequence[Sequence[Strip]], *, height: float, policy: str, person: str, ink: str
) -> None:
    """Draw `strips` on axes of this height in inches, in these colours."""
    tries = [one for group in groups for one in group]
    width = 72 * height / max(40, len(tries))  # points: lines must not overlap
    axes.hlines(range(len(tries)), 0, [one.num_steps for one in tries], color=policy, linewidth=width)
    persons = [(row, begun, end) for row, one in enumerate(tries) for begun, end in one.takeovers]
    if persons:
        axes.hlines(*zip(*persons, strict=True), color=person, linewidth=width)
    bad = [(one.num_steps + 1, row) for row, one in enumerate(tries) if not one.good]
    axes.plot([x for x, _ in bad], [y for _, y in bad], "o", color=ink, markersize=1.5)
    for border in np.cumsum([len(group) for group in groups])[:-1]:
        axes.axhline(border - 0.5, color=ink, linewidth=0.7, linestyle=(0, (4, 3)))
    axes.set(xlim=(0, 1.03 * max(one.num_steps for one in tries)), ylim=(len(tries), -1))


def calibration(lines: Sequence[Series], *, name: str) -> str:
    """Plot observed against predicted shares, with one line for each data set; the diagonal is perfect calibration."""
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name, "axes.grid.axis": "both"}):
        figure, axes = _canvas()
        axes.plot([0, 1], [0, 1], color=_COLOURS["muted"], linewidth=0.9, linestyle=(0, (4, 3)))
        for one in lines:
            axes.plot(one.xs, one.ys, "-o", color=_COLOURS[one.colour], linewidth=1.6, markersize=4, markeredgewidth=0)
        low = min([0.5, *(x for one in lines for x in one.xs)])
        axes.set(xlim=(low - 0.02, 1.02), ylim=(-0.03, 1.03))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f}%"))
        return _svg(figure, name)


def _canvas() -> tuple[Figure, Axes]:
    width, height = 4.3, 2.15
    figure = Figure(figsize=(width, height))
    # margins in inches, the same for all, so that the axes of a column are aligned
    figure.subplots_adjust(left=0.5 / width, right=1 - 0.05 / width, bottom=0.22 / height, top=1 - 0.06 / height)
    axes = figure.subplots()
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value)))
    return figure, axes


def _right_axis(figure: Figure, axes: Axes) -> Axes:
    """Add an axis on the right, with space for its numbers."""
    figure.subplots_adjust(right=1 - 0.45 / figure.get_figwidth())
    right = axes.twinx()
    right.grid(False)
    right.yaxis.set_major_locator(MaxNLocator(5))
    right.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value)))
    return right


def _tick(value: float) -> str:
    text = num(value, 4)
    return text.rstrip("0").rstrip(".") if "." in text and "e" not in text else text


def _draw(axes: Axes, one: Series) -> None:
    colour = _COLOURS[one.colour]
    if one.right:
        axes.plot(one.xs, one.ys, color=colour, linewidth=0.9, linestyle=(0, (4, 2)))
    if one.dots:
        axes.plot(one.xs, one.ys, "o", color=_COLOURS["paper"], markeredgecolor=colour, markersize=4.5)
        return
    if len(one.ys) == 1:
        axes.plot(one.xs, one.ys, "o", color=colour, markersize=4)
        return
    if len(one.ys) >= _SMOOTHED_FROM:
        axes.plot(one.xs, one.ys, color=colour, linewidth=0.8, alpha=0.28)
    axes.plot(one.xs, smoothed(one.ys), color=colour, linewidth=1.7, solid_capstyle="round", solid_joinstyle="round")


def _svg(figure: Figure, name: str) -> str:
    """Return the figure as an SVG element without header, style and unused ids."""
    buffer = io.StringIO()
    figure.savefig(
        buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Type": None, "Format": None}
    )
    svg = buffer.getvalue()[buffer.getvalue().index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    used = set(re.findall(r'(?:xlink:href="#|url\(#)([\w.-]+)', svg))
    svg = re.sub(r' id="([\w.-]+)"', lambda match: f' id="{name}-{match[1]}"' if match[1] in used else "", svg)
    svg = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r" font-family: [^;\"]*;?", "", svg)  # use the font of the page
    for variable, colour in _COLOURS.items():
        svg = svg.replace(colour, f"var(--{variable})")
    svg = re.sub(
        r'<svg [^>]*?(viewBox="[^"]*")[^>]*>',
        r'<svg xmlns:xlink="http://www.w3.org/1999/xlink" \1 aria-hidden="true">',
        svg,
        count=1,
    )
    return re.sub(r"\s*\n\s*", "\n", svg).strip()
