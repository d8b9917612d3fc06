"""The page of a comparison: win rate against KL, what each algorithm cost, and their answers side by side."""

import json
from collections.abc import Sequence
from pathlib import Path

from tercet.config.ppo import SETTINGS
from tercet.errors import InputError
from tercet.report import comparison, plots, render_html, render_markdown
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
    Page,
    Prose,
    Section,
    Table,
)
from tercet.report.comparison import Outcome
from tercet.report.formats import duration, listed, num, percent
from tercet.report.plots import Point
from tercet.report.records import algorithm_title
from tercet.runs.atomic import write_text
from tercet.version import __version__

_SHOWN, _FOLDED = 12, 60  # prompts with their answers


def write(out: Path) -> Path:
    """Write OUT/report.html, OUT/report.md and OUT/results.json from the runs so far; return the HTML file."""
    plan = comparison.plan_of(out)
    if not plan:
        raise InputError(f"{out}: no comparison (no {comparison.FILE})")
    found = comparison.outcomes(out, plan["algorithms"], plan["seeds"])
    page = compose(out, found)
    write_text(out / "results.json", json.dumps(comparison.as_json(found), indent=2) + "\n")
    write_text(out / "report.md", render_markdown.render(page))
    html = out / "report.html"
    write_text(html, render_html.render(page))
    return html


def compose(out: Path, found: Sequence[Outcome]) -> Page:
    """Return the page of a comparison."""
    start = out / comparison.START
    return Page(
        title=out.resolve().name,
        subtitle=f"{listed([algorithm_title(one.algorithm) for one in found])} · from one SFT policy and reward model",
        top=[_headline(found)],
        sections=[
            Section("trade", "Win rate against KL", [_figures(found)] if found else []),
            Section(
                "wins",
                "Against SFT",
                [_wins(found, sampled_pairs=(start / "reward" / "pairs.jsonl").is_file())] if found else [],
            ),
            Section("costs", "Cost", [_costs(found), *_below_budget(found)] if found else []),
            Section("answers", "Answers side by side", _answers(out, found)),
            Section("run", "What was compared", [_settings(found), _folders(found)] if found else []),
        ],
        footer=f"Made by Tercet {__version__} from the run folders in this folder; results.json holds every figure of "
        "this page, and each run folder has a report of its own.",
    )


def _headline(found: Sequence[Outcome]) -> Headline:
    if not found:
        return Headline("No run has been measured yet.", ["Repeat the command to continue."], "open")
    judge = next(iter(comparison.judges(found)), "")
    if not judge:
        return Headline("No judge has scored the answers of all.", [], "open")
    parts = [
        f"{algorithm_title(one.algorithm)} {percent(one.win_rate[judge].mean)} at {num(one.kl)} nats" for one in found
    ]
    interval = found[0].win_rate[judge]
    return Headline(
        f"Wins against SFT by {_judge(judge)}: {listed(parts)}.",
        [
            f"All were measured on the same {interval.num} held-out prompts, with {_seeds(found)}. Differences within "
            "the intervals below are not significant. No algorithm was tuned for this comparison: each ran with the "
            "settings of the preset, which was made for PPO.",
        ],
        "open",
    )


def _seeds(found: Sequence[Outcome]) -> str:
    numbers = sorted({len(one.runs) for one in found})
    text = " to ".join(map(str, {numbers[0]: 0, numbers[-1]: 0}))
    return f"{text} seed{'s' if numbers[-1] > 1 else ''} of each"


def _judge(name: str) -> str:
    return {"judge": "the judge", "reward_model": "the reward model"}.get(name, name.replace("_", " "))


def _figures(found: Sequence[Outcome]) -> Figures:
    figures = []
    for judge in comparison.judges(found):
        points = [
            Point(algorithm_title(one.algorithm), one.kl, rate.mean, rate.low, rate.high)
            for one in found
            for rate in [one.win_rate[judge]]
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


def _wins(found: Sequence[Outcome], *, sampled_pairs: bool) -> Table:
    judges = comparison.judges(found)
    rows: list[list[Cell]] = []
    for one in found:
        for judge in judges:
            shown = algorithm_title(one.algorithm) if judge == judges[0] else ""
            kl = num(one.kl) if judge == judges[0] else ""
            by_seed = ", ".join(percent(share) for share in one.by_seed[judge])
            rows.append([shown, _judge(judge), Bar(one.win_rate[judge], "other"), by_seed, kl])
    taught = "The judge also ranked the pairs from which reward model and DPO learned. "
    return Table(
        "Win rates",
        "SFT and each algorithm answer the same held-out prompts; a tie counts half. The bar is the 95% interval over "
        "prompts, each with the mean of its seeds; the column beside it has each seed. "
        + (taught if sampled_pairs and "judge" in judges else "")
        + "KL is the mean over answers of the policy; for best-of-n it is log n - (n - 1) / n.",
        ["", "judge", "wins", "each seed", "KL, nats"],
        rows,
        "llblr",
    )


def _costs(found: Sequence[Outcome]) -> Table:
    rows: list[list[Cell]] = []
    has_gpu = any(one.mean("gpu_peak_bytes") for one in found)
    for one in found:
        sampled = one.mean("sampled_tokens")
        peaks = [one.mean("peak_bytes"), *([one.mean("gpu_peak_bytes")] if has_gpu else [])]
        n = one.algorithm.removeprefix("best-of-")
        rows.append(
            [
                algorithm_title(one.algorithm),
                f"{sampled:,.0f}" if sampled else "–",
                num(one.mean("num_updates")),
                duration(one.mean("seconds")) or "–",
                *(f"{peak / 2**30:.2f}" if peak else "–" for peak in peaks),
                num(one.mean("length")),
                n if one.algorithm.startswith("best-of-") else "1",
            ]
        )
    head = ["", "tokens sampled", "updates", "time", "peak GiB", *(["peak GiB of the GPU"] if has_gpu else [])]
    return Table(
        "What each cost",
        "Means over the seeds, of the step that trains the policy. SFT, reward model and the sampling of its pairs are "
        "common to all. DPO samples nothing but these pairs, and best-of-n trains nothing: it samples n answers each "
        "time it is used. The peak is the resident memory of the first process.",
        [*head, "answer length, tokens", "answers sampled per use"],
        rows,
        "l" + "r" * (len(head) + 1),
    )


def _below_budget(found: Sequence[Outcome]) -> list[Block]:
    """Name the runs that sampled fewer tokens than the budget allows: they are not compared at an equal budget."""
    ended = [
        f"{run.folder.name} ended after {run.sampled_tokens:,.0f} of {run.budget:,.0f} tokens"
        for one in found
        for run in one.runs
        if run.sampled_tokens is not None and run.budget is not None and run.sampled_tokens < run.budget
    ]
    why = "`ppo.num_updates`, of which a comparison allows four times as many, or `ppo.stop_on` ended them"
    return [Prose(f"Below the budget: {listed(ended)}; {why}.")] if ended else []


def _answers(out: Path, found: Sequence[Outcome]) -> list[Block]:
    before = comparison.start_answers(out)
    if not found or not before:
        return []
    shown = [_prompt(i, before[i], found) for i in range(len(before))][: _SHOWN + _FOLDED]
    blocks: list[Block] = [Prose("Answers of the first seed of each algorithm, in the order of the prompts.")]
    blocks += shown[:_SHOWN]
    return [*blocks, Fold(f"{len(shown) - _SHOWN} more", shown[_SHOWN:])] if len(shown) > _SHOWN else blocks


def _prompt(index: int, before: comparison.Row, found: Sequence[Outcome]) -> Comparison:
    answers = [Answer("SFT", "sft", before["answer"])]
    answers += [Answer(algorithm_title(one.algorithm), "ppo", one.runs[0].answers[index]["answer"]) for one in found]
    return Comparison(before["prompt"], [("", answers)])


def _settings(found: Sequence[Outcome]) -> Table:
    """Show what distinguishes the relatives of PPO."""
    keys = [key for key in SETTINGS["ppo"] if len({repr(SETTINGS[name][key]) for name in SETTINGS}) > 1]
    rows: list[list[Cell]] = [
        [algorithm_title(one.algorithm), *(str(SETTINGS[one.algorithm][key]) for key in keys)]
        for one in found
        if one.algorithm in SETTINGS
    ]
    return Table(
        "Settings", "What each algorithm sets, unless the command gave it.", ["", *keys], rows, "l" * (1 + len(keys))
    )


def _folders(found: Sequence[Outcome]) -> Table:
    rows: list[list[Cell]] = [[algorithm_title(one.algorithm), run.folder.name] for one in found for run in one.runs]
    return Table("Runs", "Folders of the runs, each with its report.", ["", "folder"], rows, "ll")
