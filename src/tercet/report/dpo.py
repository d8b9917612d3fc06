"""What DPO reached: its win rate, and how it ranks held-out pairs."""

from tercet.core.intervals import Interval
from tercet.report.blocks import Bar, Cell, Table
from tercet.report.formats import interval, num, percent, score
from tercet.report.records import Record, find, number, rate


def accuracy(record: Record) -> Table | None:
    """Show how the implicit reward of DPO ranks the held-out pairs of each set."""
    sets = find(record.results, "dpo", "accuracy") or {}
    rates = {name: one for name in sorted(sets) if (one := rate(sets, name)) is not None}
    rows: list[list[Cell]] = [
        [name, Bar(one, "other"), f"{one.num}", score(number(record.results, "dpo", "margin", name))]
        for name, one in rates.items()
    ]
    if not rows:
        return None
    return Table(
        "Does it prefer the better answer?",
        "The implicit reward of an answer is beta times the log-ratio of the policy to the SFT policy. Accuracy is the "
        "share of held-out pairs whose preferred answer has the higher one, with its 95% interval; ties count half.",
        ["set", "accuracy", "pairs", "margin"],
        rows,
        "lbrr",
    )


def win(record: Record) -> tuple[str, Interval | None]:
    """Return DPO's win rate against SFT by the judge, or else by the reward model, and the name of that judge."""
    rates = {judge: rate(record.results, "win_rate", "dpo_vs_sft", judge) for judge in ("judge", "reward_model")}
    return next(((judge, one) for judge, one in rates.items() if one is not None), ("", None))


def sentence(record: Record) -> str:
    """State DPO's win rate against SFT, with its KL; empty if it was not measured."""
    judge, won = win(record)
    if won is None:
        return ""
    by = " by the reward model's own score" if judge == "reward_model" else ""
    kl = number(record.results, "dpo", "kl_to_reference")
    cost = f", at a KL of {num(kl)} nats per answer" if kl is not None else ""
    return f"DPO won {percent(won.mean)} of {won.num} held-out prompts against SFT{by} ({interval(won)}){cost}."
