"""The report of an arm's run that is measured by its return (`measure: return`), where there is no success."""

from collections.abc import Mapping

from tercet.core.intervals import Interval
from tercet.report.blocks import Cell, Headline, Table
from tercet.report.formats import num
from tercet.report.records import Record, apart, find, number, progress, rate

PPO_IS = {
    "better": "PPO improved the policy",
    "worse": "PPO made the policy worse",
    "even": "No significant difference between PPO and its initial policy",
}


def is_by_return(record: Record) -> bool:
    """Return True if the run is measured by its return."""
    return find(record.config, "measure") == "return"


def start_and_ppo(record: Record) -> tuple[str, Interval | None, Interval | None]:
    """Return the name of the policy that PPO is compared with, and the returns of both."""
    start = "bc" if rate(record.results, "return", "bc") else "start"
    return start, rate(record.results, "return", start), rate(record.results, "return", "ppo")


def headline(record: Record, subjects: Mapping[str, str]) -> Headline:
    """Compare PPO's return with that of the policy before PPO, start by start."""
    start, before, after = start_and_ppo(record)
    if before is None or after is None:
        text, next_step = progress(record)
        return Headline(text, [next_step], "open")
    gained = rate(record.results, "return_gained")
    if gained is None or find(record.results, "same_starts") is False:  # not paired: the intervals must not overlap
        outcome = apart(before, after)
    else:
        outcome = "better" if gained.low > 0 else "worse" if gained.high < 0 else "even"
    text = (
        f"{PPO_IS[outcome]}: a return of {_with_interval(after)} on {after.num} fresh starts, against "
        f"{num(before.mean)} for {subjects[start]}."
    )
    paid = find(record.config, "ppo", "reward") or {}
    more = [f"The reward was {', '.join(f'`{name}`' for name in paid)}."]
    if gained is not None and find(record.results, "same_starts") is not False:
        more.insert(0, f"On the same starts PPO gains {_with_interval(gained)}.")
    tries, steps = find(record.config, "ppo", "num_eval_states"), number(record.results, "env_steps")
    more.append(f"The return on {tries} validation starts selected the checkpoint.")
    if steps is not None:
        more.append(f"Environment steps in all: {steps:,.0f}.")
    return Headline(text, more, outcome)


def returns(record: Record, names: Mapping[str, str], starts: str) -> Table | None:
    """Show the return of every stage on the same new starts."""
    rows: list[list[Cell]] = []
    for name, title in names.items():
        one = rate(record.results, "return", name)
        if one is not None:
            smooth = [num(number(record.results, key, name)) for key in ("action_change", "jerk")]
            rows.append([title, num(one.mean), f"{num(one.low)} to {num(one.high)}", f"{one.num}", *smooth])
    if not rows:
        return None
    return Table(
        "Return on fresh starts",
        f"{starts}, not used for training. The return is the sum of the environment's own reward over an episode, with "
        "the most likely actions. Change is the root mean square of action differences, jerk that of the joints "
        "(rad/s³); lower is smoother.",
        ["", "return", "95% interval", "starts", "change", "jerk"],
        rows,
        "lrrrrr",
    )


def _with_interval(one: Interval) -> str:
    return f"{num(one.mean)} (95% interval {num(one.low)} to {num(one.high)})"
