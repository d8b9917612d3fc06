"""Draw the reward that PPO optimised (proxy) and a watched judge (gold) over the KL from the SFT policy.

    python benchmarks/proxy_gold.py runs/seed0 runs/seed1 --picture docs/proxy-gold.png

Gao et al. 2022 draw such curves over the square root of the KL. Reads the validations of runs with one judge in
`ppo.watch` and equal settings, and prints a table of their means.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from matplotlib.figure import Figure

import tercet

PROXY, GOLD = "#4477aa", "#cc6677"


@dataclass(frozen=True)
class Point:
    """One validation: mean scores of the responses by proxy and gold, and their KL in nats per response."""

    update: int
    kl: float
    proxy: float
    gold: float
    gold_error: float  # standard error of the gold score over the prompts

    @property
    def distance(self) -> float:
        """Return the square root of the KL, whose estimate may be slightly negative."""
        return max(self.kl, 0.0) ** 0.5


def points_of(run: tercet.Run) -> list[Point]:
    """Return the validations of a run with one judge in ppo.watch."""
    rows = [row for row in run.metrics("ppo") if "ppo/validation_score" in row]
    (watched,) = {key for row in rows for key in row if key.startswith("ppo/watch/")}
    keys = "ppo/validation_kl", "ppo/validation_score", watched, watched.replace("watch", "watch_error", 1)
    return [Point(row["index"], *(row[key] for key in keys)) for row in rows]


def means(runs: Sequence[Sequence[Point]]) -> list[Point]:
    """Return the mean over the runs at each update that all have; errors are those of a mean of independent runs."""
    return [
        Point(
            same[0].update,
            *(fmean(values) for values in zip(*((p.kl, p.proxy, p.gold) for p in same), strict=True)),
            gold_error=sum(p.gold_error**2 for p in same) ** 0.5 / len(same),
        )
        for same in zip(*runs, strict=False)
    ]


def table(points: Sequence[Point]) -> str:
    """Return a Markdown table with a row for each validation."""
    lines = ["| update | KL in nats | proxy | gold | standard error of gold |", "|---|---|---|---|---|"]
    return "\n".join(
        lines + [f"| {p.update} | {p.kl:.1f} | {p.proxy:.2f} | {p.gold:.2f} | {p.gold_error:.2f} |" for p in points]
    )


def draw(runs: Sequence[Sequence[Point]], path: Path) -> None:
    """Draw every run, and the mean of the runs as thick lines; an error bar is two standard errors."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for run in runs:
        axes.plot([p.distance for p in run], [p.proxy for p in run], color=PROXY, alpha=0.35, linewidth=1)
        axes.plot([p.distance for p in run], [p.gold for p in run], color=GOLD, alpha=0.35, linewidth=1)
    mean = means(runs)
    distances = [p.distance for p in mean]
    axes.plot(distances, [p.proxy for p in mean], "o-", color=PROXY, linewidth=2.5, label="proxy: PPO optimises it")
    axes.errorbar(
        distances,
        [p.gold for p in mean],
        [2 * p.gold_error for p in mean],
        fmt="s-",
        color=GOLD,
        linewidth=2.5,
        label="gold: only measures",
    )
    axes.set_xlabel("square root of the KL from the SFT policy, in nats per response")
    axes.set_ylabel("mean score of validation responses")
    axes.grid(visible=True, alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Read the runs, print their table and draw them."""
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("runs", type=Path, nargs="+", help="folders of runs with one judge in ppo.watch")
    command.add_argument("--picture", type=Path, default=None, help="file to draw into, such as docs/proxy-gold.png")
    asked = command.parse_args()
    runs = [points_of(tercet.Run(path)) for path in asked.runs]
    print(table(means(runs)))
    if asked.picture is not None:
        draw(runs, asked.picture)


if __name__ == "__main__":
    main()
