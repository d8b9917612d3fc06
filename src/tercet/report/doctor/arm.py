"""Checks of an arm's PPO that a language model has no counterpart of."""

from tercet.report.doctor.finding import Finding
from tercet.report.formats import num, percent
from tercet.report.records import Record, curve, is_arm, kl_bound, number

_FALL = 0.1  # of success in validation; more than chance explains with 64 starts
_FULL = 0.99  # success that cannot improve
_IMPROVE = "arm.md#3-improve"


def moved(record: Record) -> Finding | None:
    """Look at the update that was kept."""
    mark = number(record.results, "best_checkpoint", "update")
    if mark is None or not is_arm(record):
        return None
    bound = kl_bound(record)
    within = f" within the KL bound of {bound:g} nats (`ppo.max_kl`)" if bound is not None else ""
    if mark == 0:
        text = f"No update succeeded more often in validation than the initial policy{within}"
        title, remedy = "PPO did not improve the policy", "try another `ppo.lr`, more updates or another `ppo.reward`"
        is_full = (curve(record, "ppo/validation_score")[1] or [0.0])[0] > _FULL
        text += "" if within else _why_none(record)
        return Finding("arm_not_improved", "advice", title, text, "" if is_full else remedy, _IMPROVE)
    text = f"Update {mark:.0f} was kept{within}"
    return Finding("arm_not_improved", "good", "PPO improved success in validation", text)


def pay(record: Record) -> Finding | None:
    """Check whether success fell in validation, twice in a row, and how the reward changed meanwhile."""
    success, score = curve(record, "ppo/validation_score")[1], curve(record, "ppo/score")[1]
    if not is_arm(record) or len(success) < 3 or len(score) < 2:
        return None
    text = f"Success in validation went from {_success(success[0])} to {_success(success[-1])}"
    if success[0] - max(success[-2:]) <= _FALL:
        return Finding("success_falls", "good", "Success does not fall", text)
    few = max(1, len(score) // 5)
    before, after = sum(score[:few]) / few, sum(score[-few:]) / few
    if after <= before:
        remedy = "lower `ppo.lr`, or raise `ppo.kl_coef`"
        return Finding("success_falls", "alarm", "Success fell", f"{text}, and the reward fell too", remedy, _IMPROVE)
    return Finding(
        "success_falls",
        "alarm",
        "The reward rose while success fell",
        f"{text}, while the reward of an episode rose from {num(before)} to {num(after)}: the reward does not "
        "measure success",
        "use more rounds of judgements (`reward.num_rounds`), or add success to the reward: "
        "`ppo.reward={reward_model: 0.3, success: 0.3}`",
        _IMPROVE,
    )


def broken(record: Record) -> Finding | None:
    """Count the episodes that the physics ended."""
    values = curve(record, "ppo/blown_up")[1]
    if not values:
        return None
    count = sum(values)
    if count:
        text = (
            f"{count:.0f} episodes ended because of a numerical failure of the physics; the failing step had reward 0"
        )
        remedy = "check forces and speeds"
        return Finding("simulation_failed", "alarm", "The simulation failed", text, remedy, "arm.md#where-episodes-end")
    text = "No episode ended because of a failure of the physics"
    return Finding("simulation_failed", "good", "The simulation was stable", text)


def _why_none(record: Record) -> str:
    """Explain from validation why the start was kept."""
    success = curve(record, "ppo/validation_score")[1]
    if not success:
        return ""
    if success[0] - success[-1] > _FALL:
        return f": success fell, from {_success(success[0])} to {_success(success[-1])}"
    if success[0] > _FULL:
        return f": the initial policy already succeeds on {_success(success[0])}"
    return ": success did not change"


def _success(score: float) -> str:
    """Return the success rate in a validation score, which includes a tie-break of at most 0.001."""
    return percent(min(score, 1.0))
