"""The numbers of a comparison of algorithms, from the folders of its runs; for language models and the arm."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from tercet.core.intervals import Interval, wilson
from tercet.report.records import number
from tercet.runs import done
from tercet.runs.atomic import write_text
from tercet.runs.folder import RunFolder
from tercet.runs.integrity import read_json
from tercet.runs.results import read_results
from tercet.runs.rows import read_rows

FILE, COSTS, START = "compare.json", "costs.json", "start"
Row = dict[str, Any]  # Any: JSON


@dataclass(frozen=True)
class Measured:
    """One run of the comparison, measured on prompts or starts that all its runs share."""

    folder: Path
    rows: Sequence[Row]  # one for each prompt or start
    config: Row = field(default_factory=dict)
    results: Row = field(default_factory=dict)
    metrics: Sequence[Row] = ()
    cost: Row = field(default_factory=dict)

    def mean(self, name: str) -> float | None:
        """Return the mean of a number over the prompts or starts that have it; None if none has."""
        values = [row[name] for row in self.rows if row.get(name) is not None]
        return fmean(values) if values else None

    def num_updates(self) -> float | None:
        """Return the number of updates of PPO or a relative."""
        return max((row["index"] for row in self.metrics if row["step"] == "ppo"), default=None)

    def seconds(self) -> float | None:
        """Return the time of the step that trained the policy."""
        return number(self.results, "seconds", "ppo") or number(self.results, "seconds", "dpo")

    def peak_bytes(self) -> float | None:
        """Return the peak memory of the first process in this step."""
        return number(self.cost, "peak_bytes") or None

    def gpu_peak_bytes(self) -> float | None:
        """Return the peak memory of its GPU."""
        return number(self.cost, "gpu_peak_bytes") or None


Number = Callable[[Measured], float | None]
COST_FIGURES: dict[str, Number] = {
    "num_updates": Measured.num_updates,
    "seconds": Measured.seconds,
    "peak_bytes": Measured.peak_bytes,
    "gpu_peak_bytes": Measured.gpu_peak_bytes,
}


@dataclass(frozen=True)
class Outcome:
    """The runs of one algorithm, one for each seed, and its rates: wins against SFT by each judge, or success."""

    algorithm: str
    runs: Sequence[Measured]
    rates: Mapping[str, Interval]  # over prompts or starts, each with the mean of the seeds
    by_seed: Mapping[str, Sequence[float]]

    @classmethod
    def of(cls, algorithm: str, runs: Sequence[Measured], shares: Mapping[str, Sequence[Sequence[float]]]) -> "Outcome":
        """Return the outcome; `shares` has, by the name of a rate, one row for each prompt or start: its seeds."""
        known = {name: rows for name, rows in shares.items() if rows}
        rates = {name: wilson([fmean(row) for row in rows]) for name, rows in known.items()}
        by_seed = {name: [fmean(seed) for seed in zip(*rows, strict=True)] for name, rows in known.items()}
        return cls(algorithm, runs, rates, by_seed)

    def mean(self, value: Number) -> float | None:
        """Return the mean over the runs that have this number; None if none has."""
        values = [one for run in self.runs if (one := value(run)) is not None]
        return fmean(values) if values else None

    def figures(self, names: Mapping[str, Number]) -> Row:
        """Return these means for results.json, and the number of seeds."""
        means = {name: mean for name, value in names.items() if (mean := self.mean(value)) is not None}
        return {**means, "num_seeds": len(self.runs)}

    def rate_as_json(self, name: str, unit: str) -> Row:
        """Return a rate for results.json."""
        return self.rates[name].as_json(unit) | {"by_seed": list(self.by_seed[name])}


def plan_of(out: Path) -> Row:
    """Return what is compared; empty if the folder is no comparison."""
    path = out / FILE
    if not path.is_file():
        return {}
    return {"domain": "lm", **read_json(path, dict, "restore it, or choose another folder with --out")}


def measured_runs(out: Path, algorithm: str, seeds: int, file: str) -> list[Measured]:
    """Return the runs of an algorithm that have been measured, with the rows of `file`."""
    runs = [measured(out / f"{algorithm}-{seed}", file) for seed in range(seeds)]
    return [run for run in runs if run is not None]


def measured(folder: Path, file: str) -> Measured | None:
    """Read a run, or the start; None if it has not been measured, FailedError if a file is damaged."""
    if not done.is_done(folder, "compare"):
        return None
    return Measured(
        folder,
        read_json(folder / "compare" / file, list, f"remove {folder / 'compare'} to measure again"),
        config=RunFolder.read(folder).config_dict,
        results=read_results(folder),
        metrics=read_rows(folder / "metrics.jsonl"),
        cost=_costs(folder.parent).get(folder.name, {}),
    )


def add_cost(out: Path, name: str, cost: Row) -> None:
    """Record what a run cost; resuming measures the rest of a run, so the larger number stays."""
    costs = _costs(out)
    known = costs.get(name, {})
    costs[name] = {key: max(value, known.get(key, 0)) for key, value in cost.items()}
    write_text(out / COSTS, json.dumps(costs, indent=1, sort_keys=True) + "\n")


def _costs(out: Path) -> Row:
    path = out / COSTS
    return read_json(path, dict, "remove it; the page then shows no memory") if path.is_file() else {}
