"""Tabulate how many held-out prompts each stage of finished runs answers rightly, by a judge of 0 and 1.

    python benchmarks/right.py runs/count-0 runs/count-1 runs/count-2

Prints a Markdown table with a row for each run, with Wilson's 95 % interval, and one with the mean of the runs. The
judge is that of the key `judge`, such as tercet.lm.preferences.verify:exact_match.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from tercet.core.intervals import wilson


def scores_of(run: Path) -> dict[str, list[float]]:
    """Return the judge's scores of the responses to the held-out prompts, by stage, without those that have none."""
    rows = json.loads((run / "eval" / "held_out.json").read_text(encoding="utf-8"))
    stages = rows[0]["scores"]
    found = {stage: [row["scores"][stage]["judge"] for row in rows] for stage in stages}
    return {stage: [score for score in scores if score is not None] for stage, scores in found.items()}


def cells(scores: Sequence[float]) -> str:
    """Format a rate with its interval."""
    rate = wilson(scores)
    return f"{rate.mean:.2f} ({rate.low:.2f} to {rate.high:.2f})"


def table(runs: Sequence[Path]) -> str:
    """Return the Markdown table."""
    by_run = {run.name: scores_of(run) for run in runs}
    stages = list(next(iter(by_run.values())))
    lines = [f"| run | {' | '.join(stages)} |", "|---|" + "---|" * len(stages)]
    for name, scores in by_run.items():
        lines.append(f"| {name} | {' | '.join(cells(scores[stage]) for stage in stages)} |")
    means = [fmean(fmean(scores[stage]) for scores in by_run.values()) for stage in stages]
    return "\n".join([*lines, f"| mean | {' | '.join(f'{mean:.2f}' for mean in means)} |"])


def main() -> None:
    """Print the table."""
    command = argparse.ArgumentParser(description=__doc__)
    command.add_argument("runs", type=Path, nargs="+", help="folders of finished runs")
    print(table(command.parse_args().runs))


if __name__ == "__main__":
    main()
