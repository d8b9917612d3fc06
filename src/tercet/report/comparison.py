"""The numbers of a comparison of algorithms, from the folders of its runs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from tercet.core.intervals import Interval, wilson, win
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
    """One run of the comparison, measured on the shared prompts."""

    folder: Path
    answers: Sequence[Row]
    sampled_tokens: float | None  # in training
    num_updates: int | None
    seconds: float | None
    peak_bytes: float | None
    gpu_peak_bytes: float | None
    budget: float | None = None  # of sampled tokens; the number of updates, or a watched judge, may end training before

    @property
    def kl(self) -> float:
        """Mean KL from the SFT policy, in nats per response."""
        return fmean(row["kl"] for row in self.answers)

    @property
    def length(self) -> float:
        """Mean length of a response, in tokens."""
        return fmean(row["tokens"] for row in self.answers)


@dataclass(frozen=True)
class Outcome:
    """The runs of one algorithm, one for each seed, and their wins against SFT by each judge."""

    algorithm: str
    runs: Sequence[Measured]
    win_rate: Mapping[str, Interval]  # over prompts, each with the mean of the seeds
    by_seed: Mapping[str, Sequence[float]]

    @property
    def kl(self) -> float:
        """Mean KL over the seeds."""
        return fmean(run.kl for run in self.runs)

    def mean(self, name: str) -> float | None:
        """Return the mean of a field of `Measured` over the seeds; None if no run has it."""
        values = [value for run in self.runs if (value := getattr(run, name)) is not None]
        return fmean(values) if values else None


def plan_of(out: Path) -> Row:
    """Return what is compared; empty if the folder is no comparison."""
    path = out / FILE
    return read_json(path, dict, "restore it, or choose another folder with --out") if path.is_file() else {}


def start_answers(out: Path) -> list[Row]:
    """Return the SFT policy's responses; empty before they are measured."""
    return _answers(out / START)


def outcomes(out: Path, algorithms: Sequence[str], seeds: int) -> list[Outcome]:
    """Return the outcome of every algorithm of which a run has been measured, in their order."""
    before, found = start_answers(out), list[Outcome]()
    for algorithm in algorithms:
        folders = [out / f"{algorithm}-{seed}" for seed in range(seeds)]
        runs = [run for folder in folders if (run := _measured(folder)) is not None]
        if not runs or not before:
            continue
        wins = {name: _wins(runs, before, name) for name in before[0]["scores"]}
        wins = {name: prompts for name, prompts in wins.items() if prompts}
        rates = {name: wilson([fmean(prompt) for prompt in prompts]) for name, prompts in wins.items()}
        by_seed = {name: [fmean(seed) for seed in zip(*prompts, strict=True)] for name, prompts in wins.items()}
        found.append(Outcome(algorithm, runs, rates, by_seed))
    return found


def judges(found: Sequence[Outcome]) -> list[str]:
    """Return the judges that have scored answers of every algorithm."""
    return [name for name in found[0].win_rate if all(name in one.win_rate for one in found)] if found else []


def as_json(found: Sequence[Outcome]) -> Row:
    """Return the outcomes for results.json."""
    fields = ("kl", "length", "sampled_tokens", "num_updates", "seconds", "peak_bytes", "gpu_peak_bytes")
    return {
        one.algorithm: {name: value for name in fields if (value := one.mean(name)) is not None}
        | {
            "num_seeds": len(one.runs),
            "win_rate": {
                judge: rate.as_json("prompts") | {"by_seed": list(one.by_seed[judge])}
                for judge, rate in one.win_rate.items()
            },
        }
        for one in found
    }


def add_cost(out: Path, name: str, cost: Row) -> None:
    """Record what a run cost; resuming measures the rest of a run, so the larger number stays."""
    costs = _costs(out)
    known = costs.get(name, {})
    costs[name] = {key: max(value, known.get(key, 0)) for key, value in cost.items()}
    write_text(out / COSTS, json.dumps(costs, indent=1, sort_keys=True) + "\n")


def budget(start: Path, num_responses: int) -> int:
    """Return the number of tokens of so many responses of the SFT policy, by the mean length of those measured."""
    return round(num_responses * fmean(row["tokens"] for row in _answers(start)))


def _measured(folder: Path) -> Measured | None:
    answers = _answers(folder)
    if not answers:
        return None
    results, cost = read_results(folder), _costs(folder.parent).get(folder.name, {})
    rows = [row for row in read_rows(folder / "metrics.jsonl") if "ppo/sampled_tokens" in row]
    return Measured(
        folder,
        answers,
        rows[-1]["ppo/sampled_tokens"] if rows else None,
        rows[-1]["index"] if rows else None,
        number(results, "seconds", "ppo") or number(results, "seconds", "dpo"),
        number(cost, "peak_bytes") or None,
        number(cost, "gpu_peak_bytes") or None,
        number(RunFolder.read(folder).config_dict, "ppo", "max_sampled_tokens") or None,
    )


def _answers(folder: Path) -> list[Row]:
    """Return the measured responses of a run; FailedError if the file is damaged."""
    if not done.is_done(folder, "compare"):
        return []
    return read_json(folder / "compare" / "answers.json", list, f"remove {folder / 'compare'} to measure again")


def _costs(out: Path) -> Row:
    path = out / COSTS
    return read_json(path, dict, "remove it; the page then shows no memory") if path.is_file() else {}


def _wins(runs: Sequence[Measured], before: Sequence[Row], judge: str) -> list[list[float]]:
    """Return the wins of all seeds on each prompt to which every response has a score; a judge may give none."""
    wins: list[list[float]] = []
    for prompt, other in enumerate(before):
        scores = [run.answers[prompt]["scores"][judge] for run in runs]
        if None not in (other["scores"][judge], *scores):
            wins.append([win(score, other["scores"][judge]) for score in scores])
    return wins
