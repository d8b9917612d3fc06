"""A comparison on the arm: success on starts that all runs share, curves of learning, and the same starts filmed."""

from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path
from statistics import fmean

from tercet.report import plots
from tercet.report.arm import NAMES
from tercet.report.blocks import Bar, Block, Cell, Figure, Figures, Headline, Key, Prose, Section, Table, Video, Videos
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
    costs,
    count,
    folders,
    never_trained,
    not_tuned,
    seeds,
    settings,
)
from tercet.report.formats import listed, num, percent
from tercet.report.plots import Colour, Series
from tercet.report.records import algorithm_title, find, number

START = "start"
SUCCESS = "success"
_FILE = "starts.json"
_COLOURS: tuple[Colour, ...] = ("ppo", "sft", "other", "ink", "base", "muted")


def outcomes(out: Path, algorithms: Sequence[str], num_seeds: int) -> list[Outcome]:
    """Return the outcome of every algorithm of which a run has been measured, in their order."""
    all_runs = {algorithm: measured_runs(out, algorithm, num_seeds, _FILE) for algorithm in algorithms}
    return [_outcome(algorithm, runs) for algorithm, runs in all_runs.items() if runs]


def as_json(out: Path, found: Sequence[Outcome]) -> Row:
    """Return the outcomes for results.json, first that of the policy from which all start."""
    own: dict[str, Number] = {"return": _return, "steps_to_success": _time, "kl": _kl, "env_steps": _env_steps}
    start = _start(out)
    return {
        one.algorithm: one.figures(own if one is start else {**own, **COST_FIGURES})
        | {SUCCESS: one.rate_as_json(SUCCESS, "states")}
        for one in [*([start] if start else []), *found]
    }


def headline(out: Path, found: Sequence[Outcome]) -> Headline:
    """Say how often each algorithm succeeds, and how often the policy before it."""
    start = _start(out)
    if not found or not start:
        return NOTHING_YET
    parts = [f"{algorithm_title(one.algorithm)} {percent(one.rates[SUCCESS].mean)}" for one in found]
    before = f"{percent(start.rates[SUCCESS].mean)} {_before(start)}"
    starts = f"All were measured on the same {start.rates[SUCCESS].num} fresh starts, with {seeds(found)}."
    if any(find(run.results, "compare", "same_starts") is False for one in [start, *found] for run in one.runs):
        starts = f"Each was measured on other starts, because {_NO_REPEAT}, with {seeds(found)}."
    return Headline(f"Success: {listed(parts)}, against {before}.", [f"{starts} {not_tuned(start.runs[0])}"], "open")


def sections(out: Path, found: Sequence[Outcome]) -> list[Section]:
    """Return the sections of the page."""
    start = _start(out)
    everything = [*([start] if start else []), *found]
    return [
        Section("success", "Success", [_success(everything, is_scratch=_is_scratch(start))]),
        Section("learning", "How fast it was learned", _learning(found)),
        Section("costs", "Cost", [_costs(found), *never_trained(found)]),
        Section("videos", "The same starts side by side", _videos(everything)),
        Section("run", "What was compared", [settings(found), folders(found)]),
    ]


_NO_REPEAT = "the environment does not reproduce a start from its seed"


def _outcome(name: str, runs: Sequence[Measured]) -> Outcome:
    succeeded = [[float(row["success"]) for row in rows] for rows in zip(*(run.rows for run in runs), strict=True)]
    return Outcome.of(name, runs, {SUCCESS: succeeded})


def _start(out: Path) -> Outcome | None:
    """Return the outcome of the policy from which all start; None before it is measured."""
    run = measured(out / START_FOLDER, _FILE)
    return _outcome(START, [run]) if run else None


def _is_scratch(start: Outcome | None) -> bool:
    return start is not None and find(start.runs[0].config, "bc", "demonstrations") == "none"


def _before(start: Outcome) -> str:
    return "before" if _is_scratch(start) else "of the clone"


def _title(one: Outcome) -> str:
    if one.algorithm != START:
        return algorithm_title(one.algorithm)
    return NAMES["start" if _is_scratch(one) else "bc"]


def _return(run: Measured) -> float | None:
    return run.mean("return")


def _time(run: Measured) -> float | None:
    times = [row["steps"] for row in run.rows if row["success"]]
    return fmean(times) if times else None


def _kl(run: Measured) -> float | None:
    kl = number(run.results, "best_checkpoint", "kl")
    return None if kl is None else max(0.0, kl)  # below 0 by rounding


def _steps_per_update(run: Measured) -> float:
    return (number(run.config, "ppo", "num_envs") or 0) * (number(run.config, "horizon") or 0)


def _env_steps(run: Measured) -> float | None:
    updates = run.num_updates()
    return None if updates is None else updates * _steps_per_update(run)


def _success(everything: Sequence[Outcome], *, is_scratch: bool) -> Table:
    rows: list[list[Cell]] = [
        [
            _title(one),
            Bar(one.rates[SUCCESS], "sft" if one.algorithm == START else "ppo"),
            "" if one.algorithm == START else ", ".join(percent(share) for share in one.by_seed[SUCCESS]),
            num(one.mean(_return)),
            num(one.mean(_time)),
            num(one.mean(_kl)),
        ]
        for one in everything
    ]
    caption = (
        "Share of starts whose episode ends in success, with the most likely actions. The bar is the 95% interval over "
        "starts, each with the mean of its seeds; the column beside it has each seed. Return is the sum of the "
        "environment's dense reward. Steps to success are counted in episodes that ended in success. KL is that of the "
        "kept policy from its initial policy on validation starts, in nats per episode."
    )
    if is_scratch:
        caption += (
            " Each seed has an initial policy of its own, the same for all algorithms; the first row is the first."
        )
    return Table(
        "Success on fresh starts", caption, ["", "success", "each seed", "return", "steps", "KL"], rows, "lblrrr"
    )


def _learning(found: Sequence[Outcome]) -> list[Block]:
    plotted = [
        _curves(
            found,
            "ppo/validation_score",
            "Success in validation",
            "The most likely actions on the validation starts of a seed, mean over the seeds. A run keeps the policy "
            "at its highest point.",
        ),
        _curves(
            found,
            "ppo/success",
            "Success in rollouts",
            "With exploration, on the starts of each rollout, mean over the seeds.",
        ),
    ]
    figures = [figure for figure in plotted if figure]
    return [Figures(figures)] if figures else []


def _curves(found: Sequence[Outcome], metric: str, title: str, caption: str) -> Figure | None:
    """Plot a metric of each algorithm over the environment steps, as the mean of its seeds; None if no run has it."""
    lines: list[Series] = []
    colours: Iterator[Colour] = cycle(_COLOURS)
    for one in found:
        points: dict[float, list[float]] = {}
        for run in one.runs:
            for row in run.metrics:
                if metric in row:
                    points.setdefault(row["index"] * _steps_per_update(run) / 1000, []).append(row[metric])
        xs = sorted(points)
        if xs:
            lines.append(Series(algorithm_title(one.algorithm), next(colours), xs, [fmean(points[x]) for x in xs]))
    if not lines:
        return None
    return Figure(
        title=title,
        unit="share of episodes (up) against thousands of environment steps (right)",
        caption=caption,
        svg=plots.curves(lines, name=metric.replace("/", "-"), bottom=0.0),
        legend=[Key(line.label, line.colour) for line in lines],
        change="",
        numbers=lines[0].ys,
    )


def _costs(found: Sequence[Outcome]) -> Table:
    rounds = max((int(number(run.results, "rounds", "num") or 0) for one in found for run in one.runs), default=0)
    caption = (
        "Means over the seeds, of step 3. Environment steps are those of the rollouts, an equal number for all; "
        "validation is the same for all and not counted. What comes before step 3 is common to all. The peak is the "
        "resident memory of the first process."
    )
    if rounds:
        caption += f" Each run asks the judge about its own episodes in {rounds} round{'s' if rounds > 1 else ''}."
    return costs(found, caption, ("environment steps", lambda one: count(one.mean(_env_steps))))


def _videos(everything: Sequence[Outcome]) -> list[Block]:
    """Show the first seed of each algorithm from the same starts, one row of videos for each start."""
    first = [(_title(one), one.runs[0]) for one in everything]
    missing = [text for _, run in first if (text := find(run.results, "compare", "videos_missing"))]
    blocks: list[Block] = [Prose(f"Videos are missing: {missing[0]}")] if missing else []
    for index in range(len(first[0][1].rows)):
        name = f"compare/videos/start-{index}.mp4"
        shown = [
            Video(
                f"{title}: {'success' if run.rows[index]['success'] else 'no success'}",
                f"{run.folder.name}/{name}",
                (run.folder / name).read_bytes(),
            )
            for title, run in first
            if (run.folder / name).is_file()
        ]
        blocks += [Videos(f"Start {index + 1}, with the first seed of each.", shown, together=True)] if shown else []
    return blocks
