"""A comparison of language models: win rate against KL, and the answers of all algorithms side by side."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from tercet.core.intervals import win
from tercet.report import plots
from tercet.report.blocks import (
    Answer,
    Bar,
    Block,
    Cell,
    Comparison,
    Figure,
    Figures,
    Fold,
    Headline,
    Prose,
    Section,
    Table,
)
from tercet.report.comparison.numbers import (
    COST_FIGURES,
    Measured,
    Number,
    Outcome,
    Row,
    measured,
    measured_runs,
)
from tercet.report.comparison.numbers import (
    START as START_FOLDER,
)
from tercet.report.comparison.tables import (
    NOTHING_YET,
    Column,
    costs,
    count,
    folders,
    never_trained,
    not_tuned,
    seeds,
    settings,
)
from tercet.report.formats import listed, num, percent
from tercet.report.plots import Point
from tercet.report.records import algorithm_title, number

START = "SFT policy and reward model"
_FILE = "answers.json"
_SHOWN, _FOLDED = 12, 60  # prompts with their answers


def mean_length(start: Path) -> float:
    """Return the mean length of the SFT policy's responses, which must have been measured."""
    return fmean(row["tokens"] for row in _answers(start))


def outcomes(out: Path, algorithms: Sequence[str], num_seeds: int) -> list[Outcome]:
    """Return the outcome of every algorithm of which a run has been measured, in their order."""
    before, found = _answers(out / START_FOLDER), list[Outcome]()
    for algorithm in algorithms:
        runs = measured_runs(out, algorithm, num_seeds, _FILE)
        if runs and before:
            wins = {name: _wins(runs, before, name) for name in before[0]["scores"]}
            found.append(Outcome.of(algorithm, runs, wins))
    return found


def as_json(out: Path, found: Sequence[Outcome]) -> Row:
    """Return the outcomes for results.json."""
    figures: dict[str, Number] = {"kl": _kl, "length": _length, "sampled_tokens": _sampled_tokens, **COST_FIGURES}
    return {
        one.algorithm: one.figures(figures)
        | {"win_rate": {judge: one.rate_as_json(judge, "prompts") for judge in one.rates}}
        for one in found
    }


def headline(out: Path, found: Sequence[Outcome]) -> Headline:
    """Say how often each algorithm wins against SFT, and at what KL."""
    start = measured(out / START_FOLDER, _FILE)
    if not found or not start:
        return NOTHING_YET
    judge = next(iter(_judges(found)), "")
    if not judge:
        return Headline("No judge has scored the answers of all.", [], "open")
    parts = [
        f"{algorithm_title(one.algorithm)} {percent(one.rates[judge].mean)} at {num(one.mean(_kl))} nats"
        for one in found
    ]
    prompts = f"All were measured on the same {found[0].rates[judge].num} held-out prompts, with {seeds(found)}."
    return Headline(f"Wins against SFT by {_judge(judge)}: {listed(parts)}.", [f"{prompts} {not_tuned(start)}"], "open")


def sections(out: Path, found: Sequence[Outcome]) -> list[Section]:
    """Return the sections of the page."""
    start = out / START_FOLDER
    taught = (start / "reward" / "pairs.jsonl").is_file()
    return [
        Section("trade", "Win rate against KL", [_figures(found)]),
        Section("wins", "Against SFT", [_win_rates(found, judge_taught=taught)]),
        Section("costs", "Cost", [_costs(found), *_below_budget(found), *never_trained(found)]),
        Section("answers", "Answers side by side", _side_by_side(_answers(start), found)),
        Section("run", "What was compared", [settings(found), folders(found)]),
    ]


def _answers(folder: Path) -> Sequence[Row]:
    run = measured(folder, _FILE)
    return run.rows if run else []


def _wins(runs: Sequence[Measured], before: Sequence[Row], judge: str) -> list[list[float]]:
    """Return the wins of all seeds on each prompt to which every response has a score; a judge may give none."""
    wins: list[list[float]] = []
    for prompt, other in enumerate(before):
        scores = [run.rows[prompt]["scores"][judge] for run in runs]
        if None not in (other["scores"][judge], *scores):
            wins.append([win(score, other["scores"][judge]) for score in scores])
    return wins


def _judges(found: Sequence[Outcome]) -> list[str]:
    """Return the judges that have scored answers of every algorithm."""
    return [name for name in found[0].rates if all(name in one.rates for one in found)] if found else []


def _judge(name: str) -> str:
    return {"judge": "the judge", "reward_model": "the reward model"}.get(name, name.replace("_", " "))


def _kl(run: Measured) -> float | None:
    return run.mean("kl")


def _length(run: Measured) -> float | None:
    return run.mean("tokens")


def _sampled_tokens(run: Measured) -> float | None:
    return max((row["ppo/sampled_tokens"] for row in run.metrics if "ppo/sampled_tokens" in row), default=None)


def _figures(found: Sequence[Outcome]) -> Figures:
    figures: list[Figure] = []
    for judge in _judges(found):
        points = [
            Point(algorithm_title(one.algorithm), one.mean(_kl) or 0.0, rate.mean, rate.low, rate.high)
            for one in found
            for rate in [one.rates[judge]]
        ]
        figures.append(
            Figure(
                title=f"By {_judge(judge)}",
                unit="share of prompts won against SFT (up) against KL in nats (right)",
                caption="Up and to the left is better: more wins at a smaller distance from the SFT policy. The "
                "vertical lines are 95% intervals over prompts. The dashed line is one half.",
                svg=plots.trade_offs(points, name=f"trade-{judge}"),
                legend=[],
                change="",
                numbers=[point.y for point in points],
            )
        )
    return Figures(figures)


def _win_rates(found: Sequence[Outcome], *, judge_taught: bool) -> Table:
    judges = _judges(found)
    rows: list[list[Cell]] = []
    for one in found:
        for judge in judges:
            shown = algorithm_title(one.algorithm) if judge == judges[0] else ""
            kl = num(one.mean(_kl)) if judge == judges[0] else ""
            by_seed = ", ".join(percent(share) for share in one.by_seed[judge])
            rows.append([shown, _judge(judge), Bar(one.rates[judge], "other"), by_seed, kl])
    taught = "The judge also ranked the pairs from which reward model and DPO learned. "
    return Table(
        "Win rates",
        "SFT and each algorithm answer the same held-out prompts; a tie counts half. The bar is the 95% interval over "
        "prompts, each with the mean of its seeds; the column beside it has each seed. "
        + (taught if judge_taught and "judge" in judges else "")
        + "KL is the mean over answers of the policy; for best-of-n it is log n - (n - 1) / n.",
        ["", "judge", "wins", "each seed", "KL, nats"],
        rows,
        "llblr",
    )


def _costs(found: Sequence[Outcome]) -> Table:
    def per_use(one: Outcome) -> str:
        n = one.algorithm.removeprefix("best-of-")
        return n if n != one.algorithm else "1"

    last: list[Column] = [
        ("answer length, tokens", lambda one: num(one.mean(_length))),
        ("answers sampled per use", per_use),
    ]
    return costs(
        found,
        "Means over the seeds, of the step that trains the policy. SFT, reward model and the sampling of its pairs are "
        "common to all. DPO samples nothing but these pairs, and best-of-n trains nothing: it samples n answers each "
        "time it is used. The peak is the resident memory of the first process.",
        ("tokens sampled", lambda one: count(one.mean(_sampled_tokens))),
        last,
    )


def _below_budget(found: Sequence[Outcome]) -> list[Block]:
    """Name the runs that sampled fewer tokens than the budget allows: they are not compared at an equal budget."""
    ended: list[str] = []
    for run in (run for one in found for run in one.runs):
        sampled, budget = _sampled_tokens(run), number(run.config, "ppo", "max_sampled_tokens")
        if sampled is not None and budget and sampled < budget:
            ended.append(f"{run.folder.name} ended after {sampled:,.0f} of {budget:,.0f} tokens")
    why = "`ppo.num_updates`, of which a comparison allows four times as many, or `ppo.stop_on` ended them"
    return [Prose(f"Below the budget: {listed(ended)}; {why}.")] if ended else []


def _side_by_side(before: Sequence[Row], found: Sequence[Outcome]) -> list[Block]:
    shown = [_prompt(i, before[i], found) for i in range(len(before))][: _SHOWN + _FOLDED]
    blocks: list[Block] = [Prose("Answers of the first seed of each algorithm, in the order of the prompts.")]
    blocks += shown[:_SHOWN]
    return [*blocks, Fold(f"{len(shown) - _SHOWN} more", shown[_SHOWN:])] if len(shown) > _SHOWN else blocks


def _prompt(index: int, before: Row, found: Sequence[Outcome]) -> Comparison:
    answers = [Answer("SFT", "sft", before["answer"])]
    answers += [Answer(algorithm_title(one.algorithm), "ppo", one.runs[0].rows[index]["answer"]) for one in found]
    return Comparison(before["prompt"], [("", answers)])
