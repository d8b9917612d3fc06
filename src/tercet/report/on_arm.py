"""The rounds of `tercet arm improve` in the report: success over robot minutes, and who steered when."""

from collections.abc import Mapping
from typing import Any

from tercet.report import plots
from tercet.report.blocks import Bar, Block, Cell, Figure, Figures, Key, Table
from tercet.report.formats import num, percent
from tercet.report.plots import Point, Strip
from tercet.report.records import Record, find, number, rate

Rounds = Mapping[str, Any]  # Any: JSON; the figures of each round by its number


def on_arm(record: Record) -> list[Block]:
    """Return a table of the rounds, and plots of them."""
    rounds: Rounds = find(record.results, "improve") or {}
    if not rounds:
        return []
    figures = [one for one in (_success(rounds), _tries(rounds)) if one is not None]
    return [_table(rounds), *([Figures(figures)] if figures else [])]


def _table(rounds: Rounds) -> Table:
    rows: list[list[Cell]] = []
    for name in sorted(rounds, key=int):
        one, success = rounds[name], rate(rounds, name, "success")
        ticks, limited = number(one, "num_ticks"), number(one, "limits", "any")
        counts = [number(one, key) for key in ("num_tries", "num_without_help", "num_takeovers")]
        rows.append(
            [
                f"Round {name}" if name != "0" else "BC",
                num(number(one, "minutes")),
                Bar(success, "ppo") if success else "–",
                *("–" if count is None else f"{count:,.0f}" for count in counts),
                percent((number(one, "person_ticks") or 0) / ticks) if ticks else "–",
                percent(limited / ticks) if ticks and limited is not None else "–",
            ]
        )
    return Table(
        "Success over robot minutes",
        "Minutes count the control steps of all rounds so far. Success is that of the most likely action on simulated "
        "starts within the robot's limits. Helped is the share of steps that the person steered, limited the share "
        "whose command the guard changed, mostly because of its limits on acceleration and speed.",
        ["", "minutes", "success", "tries", "good without help", "takeovers", "helped", "limited"],
        rows,
        "lrbrrrrr",
    )


def _success(rounds: Rounds) -> Figure | None:
    """Plot success over robot minutes; a real arm has none."""
    points = [
        Point(name, number(rounds, name, "minutes") or 0.0, success.mean, success.low, success.high)
        for name in sorted(rounds, key=int)
        if (success := rate(rounds, name, "success")) is not None
    ]
    if len(points) < 2:
        return None
    return Figure(
        title="Success",
        unit="share of simulated starts (up) over robot minutes (right)",
        caption="The first point is the clone, each other one the policy after a round. The vertical lines are 95% "
        "intervals.",
        svg=plots.progress(points, name="on-arm-success"),
        legend=[],
        change=f"{percent(points[0].y)} to {percent(points[-1].y)}",
        numbers=[point.y for point in points],
    )


def _tries(rounds: Rounds) -> Figure | None:
    """Plot who steered in each step of every try."""
    by_round = [
        [Strip(one["num_steps"], one["takeovers"], one["good"]) for one in rounds[name].get("tries", [])]
        for name in sorted(rounds, key=int)
    ]
    by_round = [strips for strips in by_round if strips]
    if not by_round:
        return None
    helped = [sum(bool(one.takeovers) for one in strips) / len(strips) for strips in by_round]
    return Figure(
        title="Where the person took over",
        unit="tries from top to bottom, control steps to the right",
        caption="One line is one try. Dashed lines are between rounds. The policies should need less help from round "
        "to round.",
        svg=plots.strips(by_round, name="on-arm-tries"),
        legend=[Key("policy", "sft"), Key("person", "ppo"), Key("marked bad", "ink", dots=True)],
        change=f"help in {percent(helped[0])} to {percent(helped[-1])} of the tries" if len(helped) > 1 else "",
        numbers=helped,
    )
