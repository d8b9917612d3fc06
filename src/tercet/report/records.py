"""The contents of a run folder for the report; files that do not exist yet give empty fields."""

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from tercet.config.lm import judge_name
from tercet.core.intervals import Interval
from tercet.report.formats import listed
from tercet.runs.folder import RunFolder
from tercet.runs.integrity import read_json
from tercet.runs.results import gathered, read_results
from tercet.runs.rounds import kind_of, round_of
from tercet.runs.rows import read_rows

Tree = dict[str, Any]  # Any: JSON; `find` and `number` below check its values
_STAGES = {"base": "Base", "sft": "SFT", "ppo": "PPO"}


@dataclass(frozen=True)
class Movie:
    """A video of the run: its path beside the report, its caption, and its bytes."""

    file: str
    caption: str
    data: bytes


@dataclass(frozen=True)
class Record:
    """The contents of a run folder."""

    name: str
    config: Tree
    environment: Tree
    metrics: list[Tree]
    timings: list[Tree]
    samples: list[Tree]
    results: Tree
    answers: list[Tree]  # eval/answers.json: fixed prompts, greedy and sampled
    sampled_pairs: bool  # True if reward/pairs.jsonl exists: the data had no pairs
    reward_texts: list[Tree]  # eval/reward_texts.json: a good and a bad answer, scored
    starts: list[Tree]  # eval/starts.json: an arm's fresh starts with the outcome of each stage
    videos: list[Movie]  # videos/*.mp4
    held_out: list[Tree]  # eval/held_out.json: held-out prompts with each stage's answer and its scores
    number: int = 0  # of the round that it is of
    rounds: list["Record"] = field(default_factory=list)  # after round 0

    def of_round(self, number: int) -> "Record":
        """Return the record of a round; it is empty if the round has no rows yet."""
        known = next((one for one in self.rounds if one.number == number), None)
        return known or (_of_round(self, number, {}) if number else self)

    def with_rows(self, *, metrics: list[Tree], timings: list[Tree]) -> "Record":
        """Return the record with other rows."""
        return replace(self, metrics=metrics, timings=timings)


def read(run: Path) -> Record:
    """Read the files of a run; raise InputError if `run` is not a run folder."""
    folder = RunFolder.read(run)
    folder.is_done("eval")  # raises FailedError if a file that is read below is damaged
    return contents(run, folder.config_dict, environment=folder.info())


def contents(run: Path, config: Tree, *, environment: Tree | None = None) -> Record:
    """Read the files of a run whose config is known, in this process alone and without looking for damage."""
    results = gathered(run) or read_results(run)
    record = Record(
        name=run.resolve().name,
        config=config,
        environment=environment or {},
        metrics=read_rows(run / "metrics.jsonl"),
        timings=read_rows(run / "timings.jsonl"),
        samples=read_rows(run / "samples.jsonl"),
        results=results,
        answers=_evaluation(run, "answers"),
        sampled_pairs=(run / "reward" / "pairs.jsonl").is_file(),
        reward_texts=_evaluation(run, "reward_texts"),
        held_out=_evaluation(run, "held_out"),
        starts=_evaluation(run, "starts"),
        videos=_videos(run, results),
    )
    last = max((round_of(str(row.get("step"))) for row in record.metrics), default=0)
    rounds = [_of_round(record, i, find(record.results, "rounds", str(i)) or {}) for i in range(1, last + 1)]
    return replace(_of_round(record, 0, record.results), rounds=rounds)


def _of_round(record: Record, number: int, results: Tree) -> Record:
    """Return the record of one round: its rows, under the names that the steps have in round 0, and its results."""

    def rows_of(rows: list[Tree]) -> list[Tree]:
        kept = [row for row in rows if round_of(str(row.get("step"))) == number]
        return [row | {"step": kind_of(str(row.get("step")))} for row in kept]

    rows = {name: rows_of(getattr(record, name)) for name in ("metrics", "timings", "samples")}
    return replace(record, number=number, results=results, **rows)


def is_arm(record: Record) -> bool:
    """Return True if the run trains an arm."""
    return "env" in record.config


def is_of_comparison(record: Record) -> bool:
    """Return True if the run was measured for the page of a comparison."""
    return any(row.get("step") == "compare" for row in record.metrics)


def progress(record: Record) -> tuple[str, str]:
    """Return a headline for a run that no evaluation has measured, and what to do next."""
    steps = sorted({str(row.get("step")) for row in record.metrics})
    if is_of_comparison(record):
        domain = "arm" if is_arm(record) else "lm"
        return (
            "Part of a comparison, whose page (../report.html) has the figures.",
            f"`tercet {domain} eval --preset DIR/config.yaml --out DIR` also evaluates this run alone.",
        )
    again = "Repeat the command to continue; run `tercet report` again at any time."
    if not steps:
        return "No step has been run yet.", again
    return f"In progress: {listed(steps)} so far; nothing has been measured yet.", again


def stages(record: Record) -> dict[str, str]:
    """Return the title of each stage by its name in results: base, SFT, PPO, and DPO and best-of-n if measured."""
    measured = find(record.results, "response_length") or {}
    best_of = [name for name in measured if name.startswith("best-of-")]
    return _STAGES | ({"dpo": "DPO"} if "dpo" in measured else {}) | {name: name.capitalize() for name in best_of}


def find(tree: Any, *keys: str) -> Any:  # Any: JSON
    """Return the value at `keys`, or None."""
    for key in keys:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def number(tree: Any, *keys: str) -> float | None:  # Any: a JSON tree
    """Return the finite number at `keys`, or None."""
    value = find(tree, *keys)
    usable = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if usable else None


def rate(tree: Any, *keys: str) -> Interval | None:  # Any: a JSON tree
    """Return the rate at `keys` with its interval, or None."""
    mean, low, high, num = (number(tree, *keys, key) for key in ("mean", "low", "high", "num_prompts"))
    num = number(tree, *keys, "num_states") if num is None else num  # an arm's starts
    if mean is None or low is None or high is None:
        return None
    return Interval(mean, low, high, int(num or 0))


def verdict(won: Interval) -> Literal["better", "even", "worse"]:
    """Judge the second of two stages by its win rate in a paired comparison."""
    return "better" if won.low > 0.5 else "worse" if won.high < 0.5 else "even"


def apart(before: Interval, after: Interval) -> Literal["better", "even", "worse"]:
    """Compare two rates that are not paired: their intervals must not overlap."""
    return "better" if after.low > before.high else "worse" if after.high < before.low else "even"


def curve(record: Record, metric: str) -> tuple[list[float], list[float]]:
    """Return the indices and the finite values of a metric, in the order of the file."""
    rows = [(row.get("index"), number(row, metric)) for row in record.metrics if metric in row]
    points = [(float(index), value) for index, value in rows if index is not None and value is not None]
    return [index for index, _ in points], [value for _, value in points]


def kl_bound(record: Record) -> float | None:
    """Return ppo.max_kl if an update with a higher validation score than the kept one exceeded it, else None."""
    best, most = number(record.results, "best_checkpoint", "score"), number(record.config, "ppo", "max_kl")
    if best is None or most is None:
        return None
    tried = [(number(row, "ppo/validation_score"), number(row, "ppo/validation_kl")) for row in record.metrics]
    beyond = any(score is not None and kl is not None and score > best and kl > most for score, kl in tried)
    return most if beyond else None


def _videos(run: Path, results: Tree) -> list[Movie]:
    listed = [(str(find(one, "file")), str(find(one, "shows"))) for one in find(results, "videos") or []]
    inside = (run / "videos").resolve()  # a path in results.json may lead elsewhere, and a report is passed on
    return [
        Movie(file, caption, (run / file).read_bytes())
        for file, caption in listed
        if (run / file).is_file() and (run / file).resolve().is_relative_to(inside)
    ]


def _evaluation(run: Path, name: str) -> list[Tree]:
    path, domain = run / "eval" / f"{name}.json", "arm" if name == "starts" else "lm"
    if not path.is_file():
        return []
    return read_json(path, list, f"run `tercet {domain} eval` again")


def watched_judges(record: Record) -> list[str]:
    """List the judges of ppo.watch that were measured, by their names in metrics."""
    names = [judge_name(str(judge)) for judge in find(record.config, "ppo", "watch") or []]
    return [name for name in names if curve(record, f"ppo/watch/{name}")[1]]


def unseen_judges(record: Record) -> list[str]:
    """List the judges that took no part in training and that the stages were compared by, by their names in results."""
    names = [judge_name(str(judge)) for judge in find(record.config, "eval", "unseen_judges") or []]
    pairs = find(record.results, "win_rate") or {}
    return [name for name in names if any(rate(pairs, pair, name) is not None for pair in pairs)]


def algorithm(record: Record) -> str:
    """Return the name of the algorithm of step 3."""
    return algorithm_title(find(record.config, "ppo", "algorithm") or "ppo")


def algorithm_title(key: str) -> str:
    """Return the name of an algorithm by its key."""
    if key.startswith("best-of-"):
        return key.capitalize()
    return "Dr. GRPO" if key == "dr_grpo" else str(key).upper()
