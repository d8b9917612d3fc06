"""Measure the time per token of a PPO step as batch, answer length and model size double, beside the lower bound.

    python benchmarks/scaling.py --picture docs/scaling.png

Prints a table and one JSON line, and draws a picture. The step scales well if the ratio of its time to the lower bound
(`floor.py`) is constant. The bound itself grows per token with longer answers and larger models.
"""

import argparse
import gc
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from floor import CLOCKS, Sampled, costs_of_step, least_seconds
from matplotlib.figure import Figure
from ppo_step import config_of, step_of
from work import critic_shape, parser, shape

from tercet.lm.plan.hardware import Limits, measured_limits


@dataclass(frozen=True)
class Point:
    """One measurement: the axis, its value, and microseconds per token, measured and lower bound."""

    axis: str
    value: float
    measured_us: float
    floor_us: float

    @property
    def times(self) -> float:
        """Return the time divided by the lower bound."""
        return self.measured_us / self.floor_us


# layers and width; the weights in the layers about double from one to the next
SIZES = {False: [(6, 384), (12, 384), (12, 512), (12, 768)], True: [(1, 64), (2, 64)]}


def settings_of(asked: argparse.Namespace) -> list[tuple[str, float, argparse.Namespace]]:
    """Return every point to measure: its axis, value and settings."""
    num = len(SIZES[asked.tiny])
    base = vars(asked) | {"lengths": "fixed"}
    medium = base | dict(zip(("layers", "hidden"), SIZES[asked.tiny][1], strict=True))
    points = []
    for batch in [4 * 2**i for i in range(num)]:
        points.append(("prompts a batch", batch, medium | {"batch": batch}))
    for response in [asked.response // 2 * 2**i for i in range(num)]:
        points.append(("tokens an answer", response, medium | {"response": response}))
    for layers, hidden in SIZES[asked.tiny]:
        points.append(("million weights", 0, base | {"layers": layers, "hidden": hidden}))
    return [(axis, value, argparse.Namespace(**given)) for axis, value, given in points]


def point(axis: str, value: float, settings: argparse.Namespace, limits: Limits) -> Point:
    """Run one step as warm-up, then return the fastest of `--iters`."""
    step = step_of(settings)
    rows = [step(index) for index in range(settings.warmup + settings.iters)][settings.warmup :]
    num = settings.batch
    work = Sampled([settings.prompt] * num, [settings.response] * num)
    actor, critic = (config_of(settings, of(settings)) for of in (shape, critic_shape))
    costs = costs_of_step(actor, critic, work, vocab=settings.vocab)
    floor = sum(least_seconds(part, limits) for part in costs.values())
    tokens = sum(work.lengths)
    seconds = min(row["total_cpu_s" if settings.clock == "cpu" else "total_s"] for row in rows)
    million = round(sum(p.numel() for p in step.policy.parameters()) / 1e6, 1)
    return Point(axis, value or million, 1e6 * seconds / tokens, 1e6 * floor / tokens)


def draw(points: Sequence[Point], title: str, path: Path) -> None:
    """Draw a panel for each axis with measurement and lower bound, both logarithmic."""
    axes_named = list(dict.fromkeys(point.axis for point in points))
    figure = Figure(figsize=(11, 4), layout="constrained")
    panels = figure.subplots(1, len(axes_named), sharey=True)
    for panel, name in zip(panels, axes_named, strict=True):
        mine = [point for point in points if point.axis == name]
        xs = [point.value for point in mine]
        panel.loglog(xs, [point.measured_us for point in mine], "o-", color="#4477aa", label="measured")
        panel.loglog(xs, [point.floor_us for point in mine], "s--", color="#222222", label="floor")
        for one in mine:
            panel.annotate(
                f"{one.times:.1f} x", (one.value, one.measured_us), (0, 7), textcoords="offset points", ha="center"
            )
        panel.set_xticks(xs, [f"{x:g}" for x in xs])
        panel.set_xticks([], minor=True)
        panel.margins(0.12, 0.15)
        panel.set_xlabel(name)
        panel.grid(True, which="major", alpha=0.3)
    panels[0].set_ylabel("microseconds a token")
    panels[0].legend(frameon=False)
    figure.suptitle(title)
    figure.savefig(path, dpi=120)


def table(points: Sequence[Point]) -> str:
    """Return a Markdown table with a row for each point; the last column is time divided by lower bound."""
    lines = ["| doubled | value | microseconds a token | floor | times |", "|---|---|---|---|---|"]
    rows = [f"| {p.axis} | {p.value:g} | {p.measured_us:.0f} | {p.floor_us:.0f} | {p.times:.2f} |" for p in points]
    return "\n".join([*lines, *rows])


def main() -> None:
    """Measure every point; the lower bounds use one measurement of the machine."""
    command = parser(__doc__ or "")
    command.add_argument("--picture", type=Path, default=None, help="file to draw into, such as docs/scaling.png")
    command.add_argument("--tiny", action="store_true", help="two small points an axis, to see that it runs")
    command.add_argument(
        "--clock", choices=list(CLOCKS), default="wall", help="cpu, with --threads 1: on a busy machine"
    )
    command.set_defaults(prompt=32, response=32, batch=8, iters=2, vocab=16384)
    asked = command.parse_args()
    torch.set_num_threads(asked.threads)
    limits = measured_limits(torch.device("cpu"), clock=CLOCKS[asked.clock])
    points = []
    for axis, value, settings in settings_of(asked):
        points.append(point(axis, value, settings, limits))
        gc.collect()  # the four models of the last point
    print(table(points))
    if asked.picture is not None:
        draw(points, "What a token of a PPO step costs; in figures: times the floor", asked.picture)
    found = [vars(one) | {"times": one.times} for one in points]
    speeds = {"gflops_per_s": limits.flops_per_s / 1e9, "gb_per_s": limits.bytes_per_s / 1e9}
    print(json.dumps({"name": "scaling", "points": found, "threads": asked.threads} | speeds))


if __name__ == "__main__":
    main()
