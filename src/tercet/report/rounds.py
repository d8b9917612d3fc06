"""The rounds of a language run: what each gained, and how well the reward model ranked the answers of the new actor."""

from tercet.core.intervals import Interval
from tercet.report import tables
from tercet.report.blocks import Bar, Block, Cell, Fold, Prose, Table
from tercet.report.curves.figures import ppo_blocks
from tercet.report.formats import interval, num, percent, score
from tercet.report.records import Record, number, rate
from tercet.runs.rounds import in_round

_LEAD = (
    "In each round the last actor answered training prompts, the judge ranked pairs of these answers, the reward model "
    "was trained on all pairs so far, and PPO continued from the last actor. The KL is counted from the SFT model."
)


def blocks(record: Record) -> list[Block]:
    """Show the rounds, or nothing if there are none."""
    if not record.rounds:
        return []
    shown = [table for table in (_gains(record), _figures(record)) if table is not None]
    folds = [Fold(f"Round {one.number}: curves of PPO", drawn) for one in record.rounds if (drawn := ppo_blocks(one))]
    return [Prose(_LEAD), *shown, *folds]


def _gains(record: Record) -> Table | None:
    rows: list[list[Cell]] = []
    for one in record.rounds:
        stage, before = in_round("ppo", one.number), in_round("ppo", one.number - 1)
        for other, name in (("sft", "SFT"), (before, _name(one.number - 1))):
            for key, judge in tables.judges(record).items():
                won = rate(record.results, "win_rate", f"{stage}_vs_{other}", key)
                if won is not None:
                    rows.append([f"{_name(one.number)} against {name}", judge, Bar(won), f"{won.num}"])
    if not rows:
        return None
    caption = "Paired comparisons on the same held-out prompts as above."
    return Table("What each round gained", caption, ["", "judge", "wins", "prompts"], rows, "llbr")


def _figures(record: Record) -> Table:
    rows: list[list[Cell]] = []
    for one in [record, *record.rounds]:
        stage = in_round("ppo", one.number)
        before = rate(one.results, "accuracy_before")
        after = rate(one.results, "reward_model", "accuracy", f"round-{one.number}")
        rows.append(
            [
                _name(one.number),
                num(number(one.results, "kl_to_reference")),
                score(number(record.results, "mean_score", stage, "judge")),
                num(number(record.results, "response_length", stage)),
                _share(before),
                _share(after),
                f"{after.num}" if after else "–",
            ]
        )
    return Table(
        "Round by round",
        "How often the reward model agrees with the judge on held-out pairs of answers that the last actor gave: the "
        "reward model of the round before, and that of this round. If the first is near one half, PPO had moved to "
        "answers that its reward model could not rank.",
        ["", "KL, nats", "judge's score", "tokens", "agreed before", "agrees now", "pairs"],
        rows,
        "lrrrrrr",
    )


def _name(number: int) -> str:
    return f"Round {number}" if number else "PPO"


def _share(agreed: Interval | None) -> str:
    return f"{percent(agreed.mean)} ({interval(agreed)})" if agreed else "–"
