"""Tabulate runs of `tercet arm improve` from their results, and draw success over robot minutes.

    PYTHONPATH=src python benchmarks/arm_improve.py runs/place-0 runs/place-1 --picture docs/arm-improve.png
    PYTHONPATH=src python benchmarks/arm_improve.py runs/more-0 --stage bc

Prints a row of a Markdown table for each run. The picture has the success of every run, and the tries of the first one.
With --stage, it measures that policy of runs without rounds, on the same starts as rounds of the same seed.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from tercet.arm.improve import success_within
from tercet.arm.robot.deploy import policy_of
from tercet.config.load import load_arm_config, load_robot_config
from tercet.report.plots import Point, Strip, draw_progress, draw_strips

Rounds = dict[str, Any]  # Any: JSON
COLOURS = ("#c2501f", "#2f6fb5", "#7a5ab0", "#238050", "#8b8f97")


def rounds_of(run: Path) -> Rounds:
    """Read the figures of each round, in their order."""
    rounds = json.loads((run / "results.json").read_text(encoding="utf-8"))["improve"]
    return {name: rounds[name] for name in sorted(rounds, key=int)}


def row(name: str, rounds: Rounds) -> str:
    """Return the row of a run."""
    clone, first, *_, last = rounds.values()
    tried = [one for one in rounds.values() if "num_tries" in one]
    ticks = sum(one["num_ticks"] for one in tried)
    shares = [
        sum(values) / ticks for values in zip(*((t["person_ticks"], t["limits"]["any"]) for t in tried), strict=True)
    ]
    interval = f"{last['success']['low']:.3f} to {last['success']['high']:.3f}"
    cells = [
        name,
        f"{clone['success']['mean']:.3f}",
        f"{first['success']['mean']:.3f} ({first['minutes']:.1f} min)",
        f"**{last['success']['mean']:.3f}** ({interval}; {last['minutes']:.1f} min)",
        *(f"{sum(one[key] for one in tried)}" for key in ("num_tries", "num_takeovers")),
        *(f"{100 * share:.0f} %" for share in shares),
    ]
    return f"| {' | '.join(cells)} |"


def draw(runs: Sequence[Rounds], path: Path) -> None:
    """Draw the success of all runs, and who steered in the tries of the first."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for number, rounds in enumerate(runs):
        points = [
            Point(name, one["minutes"], *(one["success"][key] for key in ("mean", "low", "high")))
            for name, one in rounds.items()
        ]
        draw_progress(left, points, COLOURS[number % len(COLOURS)])
    left.set(xlabel="minutes in which the arm moved", title="success on 256 starts, one colour for each seed")
    groups = [
        [Strip(one["num_steps"], one["takeovers"], one["good"]) for one in rounds["tries"]]
        for rounds in runs[0].values()
        if "tries" in rounds
    ]
    draw_strips(right, groups, height=2.7, policy="#9fc0e3", person=COLOURS[0], ink="#444444")
    right.set(xlabel="control steps", ylabel="tries", title="orange: the person steers; dots: marked bad")
    for axes in (left, right):
        axes.title.set_fontsize(9)
        axes.spines[["top", "right"]].set_visible(False)
    left.grid(True, axis="y", alpha=0.3)
    figure.savefig(path, dpi=110)


def measured(run: Path, stage: str) -> str:
    """Return the row of a run without rounds: the success of a policy, measured as those of rounds are."""
    config, robot = load_arm_config(run / "config.yaml", []), load_robot_config("simulated", [])
    policy = policy_of(run, stage, speed=robot.speed)[1].policy
    one = success_within(config, robot, policy)
    return f"| {run.name} | {stage} | {one['mean']:.3f} ({one['low']:.3f} to {one['high']:.3f}) |"


def main() -> None:
    """Print the table and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--stage")
    arguments = parser.parse_args()
    if arguments.stage:
        for run in arguments.runs:
            print(measured(run, arguments.stage), flush=True)
        return
    runs = [rounds_of(run) for run in arguments.runs]
    for run, rounds in zip(arguments.runs, runs, strict=True):
        print(row(run.name, rounds))
    if arguments.picture:
        draw(runs, arguments.picture)


if __name__ == "__main__":
    main()
