"""A curve of the report: its texts, its metrics, and the figure that a record gives."""

from collections.abc import Sequence
from dataclasses import dataclass

from tercet.report import plots
from tercet.report.blocks import Figure, Figures, Key
from tercet.report.formats import num
from tercet.report.plots import Colour, Series
from tercet.report.records import Record, curve
from tercet.runs.rounds import in_round


@dataclass(frozen=True)
class Line:
    """One metric in a plot."""

    metric: str
    label: str
    colour: Colour = "ppo"
    dots: bool = False
    right: bool = False  # against the right axis


@dataclass(frozen=True)
class Plot:
    """A plot: its lines (the first is the main one), its texts, and a reference level."""

    title: str
    unit: str
    caption: str
    lines: Sequence[Line]
    level: float | None = None
    bottom: float | None = None  # start of the axis; 0 for shares and sizes


def figures(record: Record, plotted: Sequence[Plot], *, mark: float | None = None) -> Figures | None:
    """Return the plots whose main metric was logged, or None; `mark` is the index of the selected checkpoint."""
    drawn = [_figure(record, plot, mark) for plot in plotted if curve(record, plot.lines[0].metric)[1]]
    return Figures(drawn) if drawn else None


def _figure(record: Record, plot: Plot, mark: float | None) -> Figure:
    series = [
        Series(line.label, line.colour, *curve(record, line.metric), dots=line.dots, right=line.right)
        for line in plot.lines
    ]
    series = [one for one in series if one.ys]
    values = series[0].ys
    tenth = max(1, len(values) // 10)
    first, last = sum(values[:tenth]) / tenth, sum(values[-tenth:]) / tenth
    legend = [Key(one.label, one.colour, one.dots) for one in series] if len(series) > 1 else []
    return Figure(
        title=plot.title,
        unit=plot.unit,
        caption=plot.caption,
        svg=plots.curves(
            series,
            name=in_round(plot.lines[0].metric.replace("/", "-"), record.number),
            level=plot.level,
            bottom=plot.bottom,
            mark=mark,
        ),
        legend=legend,
        change=_change(first, last) if len(values) > 1 else num(last),
        numbers=values,
    )


def _change(first: float, last: float) -> str:
    """Return the first and the last value in words; values below a thousandth of the other count as 0."""
    largest = max(abs(first), abs(last))
    return " → ".join(num(value if abs(value) > 1e-3 * largest else 0.0) for value in (first, last))
