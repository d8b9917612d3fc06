"""Tabulate the results of several finished language-model runs, which differ in their seeds, and draw the win rates.

    python benchmarks/seeds.py runs/seed21 runs/seed22 --picture docs/seeds.png

Prints a Markdown table with a column for each run and one for the mean over runs, with Student's 95 % interval.
"""

import argparse
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from matplotlib.figure import Figure

Tree = dict[str, Any]  # Any: JSON
T_975 = [12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262]  # of Student's t, by degrees of freedom


@dataclass(frozen=True)
class Run:
    """The results and metrics of a run."""

    results: Tree
    metrics: list[Tree]

    @classmethod
    def of(cls, folder: Path) -> "Run":
        """Read a finished run."""
        rows = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        return cls(results, [json.loads(row) for row in rows])

    def win(self, stages: str, judge: str) -> Tree:
        """Return a win rate with its interval."""
        return self.results["win_rate"][stages][judge]

    @property
    def judges(self) -> list[str]:
        """The judges that compared PPO with SFT, unseen ones first."""
        names = self.results["win_rate"]["ppo_vs_sft"]
        return sorted(names, key=lambda name: (name in ("judge", "reward_model"), name))

    @property
    def explained_variance(self) -> float:
        """The critic's explained variance, mean of the last third of the updates."""
        values = [row["ppo/explained_variance"] for row in self.metrics if "ppo/explained_variance" in row]
        return fmean(values[-max(1, len(values) // 3) :])

    def reward_model(self, metric: str) -> float:
        """Return a metric of the reward model on held-out pairs: the mean over the sets, weighted by their size."""
        accuracy = self.results["reward_model"]["accuracy"]
        weights = {name: one["num_prompts"] for name, one in accuracy.items()}
        values = self.results["reward_model"][metric]
        mean = {name: one["mean"] if isinstance(one, dict) else one for name, one in values.items()}
        return sum(weights[name] * mean[name] for name in weights) / sum(weights.values())


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean over runs and the ends of Student's 95 % interval."""
    mean, half = fmean(values), math.inf
    if 1 < len(values) <= len(T_975) + 1:
        half = T_975[len(values) - 2] * stdev(values) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def table(runs: Sequence[Run], names: Sequence[str]) -> str:
    """Return the Markdown table."""
    lines = ["| what | " + " | ".join(names) + " | mean (95 %) |", "|---" * (len(runs) + 2) + "|"]

    def add(what: str, value: Callable[[Run], float], show: Callable[[Run], str] | None = None) -> None:
        values = [value(run) for run in runs]
        mean, low, high = mean_interval(values)
        shown = [show(run) for run in runs] if show else [f"{one:.2f}" for one in values]
        lines.append(f"| {what} | " + " | ".join(shown) + f" | {mean:.2f} ({low:.2f} to {high:.2f}) |")

    def wins(stages: str, judge: str, what: str) -> None:
        def interval(run: Run) -> str:
            one = run.win(stages, judge)
            return f"{one['mean']:.2f} ({one['low']:.2f}-{one['high']:.2f})"

        add(what, lambda run: run.win(stages, judge)["mean"], interval)

    for judge in runs[0].judges:
        wins("ppo_vs_sft", judge, f"PPO against SFT, `{judge}`")
    for stages in ("ppo_vs_base", "sft_vs_base"):
        for judge in runs[0].judges[:-1]:
            wins(stages, judge, f"{stages.split('_')[0].upper()} against base, `{judge}`")
    add("reward model's accuracy, held out", lambda run: run.reward_model("accuracy"))
    add("correlation of its score with length", lambda run: run.reward_model("length_correlation"))
    add("critic's explained variance, last third", lambda run: run.explained_variance)
    add("KL of the checkpoint kept", lambda run: run.results["best_checkpoint"]["kl"])
    return "\n".join(lines)


def draw(runs: Sequence[Run], names: Sequence[str], path: Path) -> None:
    """Draw a panel for each judge: the win rate of PPO against SFT of every run with its interval."""
    judges = runs[0].judges
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    panels = figure.subplots(1, len(judges), sharey=True)
    for panel, judge in zip(panels, judges, strict=True):
        is_unseen = judge not in ("judge", "reward_model")
        colour = "#228833" if is_unseen else "#4477aa"
        for x, run in enumerate(runs):
            one = run.win("ppo_vs_sft", judge)
            error = [[one["mean"] - one["low"]], [one["high"] - one["mean"]]]
            panel.errorbar(x, one["mean"], yerr=error, fmt="o", color=colour, capsize=3)
        mean = fmean(run.win("ppo_vs_sft", judge)["mean"] for run in runs)
        panel.axhline(mean, color=colour, alpha=0.4)
        panel.axhline(0.5, color="#888888", linestyle=":")
        panel.set_title(f"{judge}\n{'unseen' if is_unseen else 'teaches'}: mean {mean:.2f}", fontsize=9)
        panel.set_xticks(range(len(runs)), names)
        panel.grid(True, axis="y", alpha=0.3)
    panels[0].set_ylabel("PPO wins against SFT")
    figure.savefig(path, dpi=120)


def main() -> None:
    """Print the table, and draw if asked."""
    command = argparse.ArgumentParser(description=__doc__)
    command.add_argument("runs", nargs="+", type=Path, help="folders of finished runs")
    command.add_argument("--picture", type=Path, default=None, help="file to draw into")
    asked = command.parse_args()
    runs, names = [Run.of(folder) for folder in asked.runs], [folder.name for folder in asked.runs]
    print(table(runs, names))
    if asked.picture is not None:
        draw(runs, names, asked.picture)


if __name__ == "__main__":
    main()
