"""Checks of an arm's PPO that a language model has no counterpart of."""

from collections.abc import Sequence
from statistics import fmean

from tercet.config.arm import EXPLORE_BY_PROBABILITIES, RewardConfig
from tercet.report.arm_return import is_by_return
from tercet.report.doctor.finding import Finding
from tercet.report.doctor.updates import too_large
from tercet.report.formats import listed, num, percent
from tercet.report.records import Record, curve, find, is_arm, kl_bound, number

_FALL = 0.1  # of success in validation; more than chance explains with 64 starts
_RISE = 0.02  # of success in validation; less is no change
_LEFT = 0.15  # share of episodes that reach success and do not end in it
_FULL = 0.99  # success that cannot improve
_RARE = 0.05  # success in validation, of which 64 starts have three
_CHANCE, _RANKS = 0.55, 0.65  # of pairs that the reward ranks right: up to here by chance; from here on well enough
_ENOUGH_ROLLOUTS = 5  # each has few pairs
_IMPROVE = "arm.md#3-improve"


def moved(record: Record) -> Finding | None:
    """Look at the update that was kept."""
    mark = number(record.results, "best_checkpoint", "update")
    if mark is None or not is_arm(record):
        return None
    bound = kl_bound(record)
    within = f" within the KL bound of {bound:g} nats (`ppo.max_kl`)" if bound is not None else ""
    if mark == 0:
        is_better = "had a higher return" if is_by_return(record) else "succeeded more often"
        text = f"No update {is_better} in validation than the initial policy{within}"
        title, remedy = "PPO did not improve the policy", "try another `ppo.lr`, more updates or another `ppo.reward`"
        is_full = not is_by_return(record) and (curve(record, "ppo/validation_score")[1] or [0.0])[0] > _FULL
        why = "" if within else why_not(record)
        text += f": {why}" if why else ""
        return Finding("arm_not_improved", "advice", title, text, "" if is_full else remedy, _IMPROVE)
    text = f"Update {mark:.0f} was kept{within}"
    what = "the return" if is_by_return(record) else "success"
    return Finding("arm_not_improved", "good", f"PPO improved {what} in validation", text)


def pay(record: Record) -> Finding | None:
    """Check whether success fell in validation, twice in a row, and how the reward changed meanwhile."""
    success, score = curve(record, "ppo/validation_score")[1], curve(record, "ppo/score")[1]
    if not is_arm(record) or is_by_return(record) or len(success) < 3 or len(score) < 2:
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
        f"use more rounds of judgements (`reward.num_rounds`), or {_more_success(record)}",
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


def judge(record: Record) -> Finding | None:
    """Check that the default judge, which compares `progress`, prefers the policy's own successful episodes."""
    values = curve(record, "ppo/progress_ranks_success")[1]
    if not _is_over(record, values) or not _learns_from_progress(record):
        return None
    what = "the successful one has the higher mean `progress`, which the judge compares,"
    text, mean = _ranked(what, values), fmean(values)
    if mean >= _RANKS:
        return Finding("judge_ranks", "good", "The judge ranks the policy's own episodes by success", text)
    title = f"The judge ranks the policy's own episodes {_how(mean)}"
    text += ". More judgements of this kind do not help"
    remedy = f"use another judge (`reward.judge`, a function or `person`), or {_more_success(record)}"
    return Finding("judge_ranks", "alarm" if mean < _CHANCE else "advice", title, text, remedy, _IMPROVE)


def ranks(record: Record) -> Finding | None:
    """Check that the reward prefers the policy's own successful episodes to those that fail.

    The second half of PPO counts, since rounds of judgements improve the reward; so it is known when PPO has ended.
    """
    values = curve(record, "ppo/score_ranks_success")[1]
    values = values[len(values) // 2 :]
    if not _is_over(record, values):
        return None
    text, mean = _ranked("the successful one has the higher reward", values), fmean(values)
    if mean >= _RANKS:
        return Finding("reward_ranks", "good", "The reward ranks the policy's own episodes by success", text)
    remedy, found = _more_success(record), judge(record)
    if found is None or found.is_good:  # else the reward model has learned what it was told
        remedy = (
            "ask for more judgements or rounds of them (`reward.num_pairs`, `reward.num_rounds`), about segments of "
            f"one episode (`reward.same_episode=0.5`), or {_more_success(record)}"
        )
    title = f"The reward ranks the policy's own episodes {_how(mean)}"
    return Finding("reward_ranks", "alarm" if mean < _CHANCE else "advice", title, text, remedy, _IMPROVE)


def _is_over(record: Record, values: Sequence[float]) -> bool:
    """Return True if PPO has ended, and is judged by success in enough rollouts."""
    is_over = number(record.results, "best_checkpoint", "update") is not None
    return is_arm(record) and not is_by_return(record) and is_over and len(values) >= _ENOUGH_ROLLOUTS


def _learns_from_progress(record: Record) -> bool:
    is_default = find(record.config, "reward", "judge") == RewardConfig.model_fields["judge"].default
    return is_default and "reward_model" in (find(record.config, "ppo", "reward") or {})


def _more_success(record: Record) -> str:
    if weight := number(record.config, "ppo", "reward", "success"):
        return f"raise the weight of `success` in `ppo.reward`, now {num(weight)}"
    return "add success to the reward: `ppo.reward={reward_model: 0.3, success: 0.3}`"


def _ranked(what: str, values: Sequence[float]) -> str:
    share = f"in {percent(fmean(values))} of the pairs, in the last {len(values)} rollouts that have both"
    return f"Of an episode that succeeds and one that fails, {what} {share}"


def _how(mean: float) -> str:
    if mean < 1 - _CHANCE:
        return "the wrong way round"
    return "no better than chance" if mean < _CHANCE else "hardly better than chance"


def stays(record: Record) -> Finding | None:
    """Check that episodes which reach success end in it, in the second half of PPO."""
    reached, success = curve(record, "ppo/reached")[1], curve(record, "ppo/success")[1]
    if not is_arm(record) or is_by_return(record) or len(reached) < _ENOUGH_ROLLOUTS:
        return None
    half = len(reached) // 2
    at_some_step, at_the_end = fmean(reached[half:]), fmean(success[len(success) - len(reached) + half :])
    text = f"{percent(at_some_step)} of the episodes of the last {len(reached) - half} rollouts reach success, and "
    text += f"{percent(at_the_end)} end in it"
    if at_some_step - at_the_end <= _LEFT:
        return Finding("leaves_success", "good", "Episodes that reach success end in it", text)
    title = "Episodes reach success and leave it again"
    return Finding("leaves_success", "advice", title, text, _more_success(record), _IMPROVE)


def why_not(record: Record) -> str:
    """Explain from the curves why PPO did not improve the policy; empty if they do not show it."""
    success, rollouts = curve(record, "ppo/validation_score")[1], curve(record, "ppo/success")[1]
    if not success or is_by_return(record):
        return ""
    fell = success[0] - success[-1] > _FALL
    if success[0] > _FULL and not fell:
        return f"the initial policy already succeeds on {_success(success[0])}"
    reasons: list[str] = []
    for found in (judge(record), ranks(record), stays(record), too_large(record)):
        if found and not found.is_good:
            reasons.append(f"{found.title[:1].lower()}{found.title[1:]}")
    if max(success) < _RARE:
        reasons.append(f"the policies succeed on at most {_success(max(success))}, which leaves little to compare")
    if rollouts and rollouts[0] < 0.5 * success[0]:
        reasons.append(
            f"with exploration the initial policy succeeds on {percent(rollouts[0])} and without it on "
            f"{_success(success[0])}, so lower it ({_lowered_by(record)})"
        )
    if fell:
        reasons.append(f"success fell, from {_success(success[0])} to {_success(success[-1])}")
    if not reasons and max(success) - success[0] > _RISE:
        return (
            f"success in validation rose only from {_success(success[0])} to {_success(max(success))}, which can be "
            "chance; more updates may help (`ppo.num_updates`)"
        )
    return listed(reasons) or "success did not change"


def _lowered_by(record: Record) -> str:
    """Return the key that lowers the exploration of this run's kind of policy."""
    if find(record.config, "policy", "kind") in EXPLORE_BY_PROBABILITIES:
        return "clone again with a lower `policy.log_std`"
    return "raise `ppo.keep_success`" if number(record.config, "ppo", "keep_success") else "`ppo.keep_success=0.8`"


def _success(score: float) -> str:
    """Return the success rate in a validation score, which includes a tie-break of at most 0.001."""
    return percent(min(score, 1.0))
