"""The reward: whether it tells responses apart, and whether the reward model measures more than length."""

from collections.abc import Mapping

from tercet.core.intervals import Interval
from tercet.report.doctor.finding import Finding
from tercet.report.doctor.windows import first, last, late
from tercet.report.formats import interval, listed, num, percent
from tercet.report.records import Record, curve, find, is_arm, number, rate

_FEW = 5  # updates that a check needs
_REPEATED = 0.1  # of the responses; from here on, the policy gives one response to many prompts
_MANY_UNSCORED = 0.1  # of the answers
_MOSTLY_LENGTH = 0.8  # correlation of score and length
_ENOUGH_PAIRS = 50  # held-out pairs; with fewer, the interval of a sound model often includes one half
_HARDLY_BETTER = 0.6  # accuracy; an interval below it is that of a poor model, however few the pairs


def is_learned(record: Record) -> bool:
    """Return True if the score rose by more than its first standard deviation, and responses differ between prompts."""
    scores, deviations = curve(record, "ppo/score")[1], curve(record, "ppo/score_std")[1]
    repeated = curve(record, "ppo/duplicate_fraction")[1] or [0.0 if is_arm(record) else 1.0]
    if len(scores) < _FEW or not deviations or last(repeated) >= _REPEATED:
        return False
    return late(scores) - first(scores) > first(deviations)


def equal_scores(record: Record) -> Finding | None:
    """All advantages are 0, or nothing but the critic's errors, if all scores are equal."""
    groups, deviations = curve(record, "ppo/equal_groups")[1], curve(record, "ppo/score_std")[1]
    if len(groups) >= _FEW:
        text = f"{percent(late(groups))} of the groups had answers of equal scores in the last updates"
        if late(groups) > 0.5 and is_learned(record):
            text += ", and the scores have risen: these prompts are learned"
            remedy = "end the run, or use harder prompts"
            return Finding("no_advantages", "advice", "Little is left to learn", text, remedy, "algorithms.md#groups")
        if late(groups) > 0.5:
            remedy = "use prompts of another difficulty, a finer reward, or a larger `ppo.group_size`"
            return Finding("no_advantages", "alarm", "Most groups teach nothing", text, remedy, "algorithms.md#groups")
        return Finding("no_advantages", "good", "Most groups teach something", text)
    if len(deviations) < _FEW:
        return None
    text = f"The standard deviation of the scores is {num(late(deviations))} in the last updates"
    if max(deviations[-_FEW:]) < 1e-6:
        return Finding(
            "no_advantages",
            "alarm",
            "All scores are equal",
            f"{text}: no advantage has a cause in the reward",
            "use a reward that gives different scores, or raise `ppo.temperature`" if not is_arm(record) else
            "use a reward that gives different scores, or raise `policy.log_std`",
            "ppo.md#4-the-score",
        )  # fmt: skip
    return Finding("no_advantages", "good", "Scores differ", text)


def saturated(record: Record) -> Finding | None:
    """Look at the share of scores beyond ppo.reward_clip."""
    values, limit = curve(record, "ppo/reward_clip_fraction")[1], number(record.config, "ppo", "reward_clip")
    if len(values) < _FEW or limit is None:
        return None
    text = f"{percent(late(values))} of the scores were beyond ±{limit:g} in the last updates"
    if late(values) > 0.2:
        return Finding(
            "reward_saturated",
            "alarm",
            "Many scores are clipped",
            f"{text}, where all answers get the same reward",
            "raise `ppo.reward_clip` or lower the weights of `ppo.reward`",
            "ppo.md#4-the-score",
        )
    return Finding("reward_saturated", "good", "Few scores are clipped", text)


def unscored(record: Record) -> Finding | None:
    """Look at the answers to which a function of ppo.reward gave no score; there is nothing to say if all have one."""
    shares: dict[str, float] = {}
    for name in find(record.config, "ppo", "reward") or {}:
        values = [number(row, f"ppo/unscored/{name}") or 0.0 for row in record.metrics if "ppo/score" in row]
        if len(values) >= _FEW and any(values):
            shares[name] = late(values)
    if not shares:
        return None
    text = "In the last updates " + listed([f"{name} gave no score to {percent(one)}" for name, one in shares.items()])
    text += " of the answers; such an answer counts as one of mean score in this term"
    if max(shares.values()) > _MANY_UNSCORED:
        return Finding(
            "unscored",
            "advice",
            "Many answers get no score",
            text,
            "return 0 for an answer that is wrong, and None only where nothing can be said",
            "reward-functions.md#what-a-function-returns",
        )
    return Finding("unscored", "good", "Few answers get no score", text)


def chance(record: Record) -> Finding | None:
    """Look at the intervals of the reward model's accuracy; a few held-out pairs can say little."""
    intervals = _accuracies(record)
    if not intervals:
        return None
    docs = "arm.md#2-judge" if is_arm(record) else "reward.md#what-is-measured"
    unsure = {name: one for name, one in intervals.items() if one.low <= 0.5}
    failed = {name: one for name, one in unsure.items() if one.num >= _ENOUGH_PAIRS or one.high < _HARDLY_BETTER}
    if failed:
        return Finding(
            "reward_model_chance",
            "alarm",
            "The reward model may be no better than chance",
            f"Its accuracy: {_described(failed)}. Chance has 50%",
            "use more pairs or a larger model, or another `reward.lr`",
            docs,
        )
    if unsure:
        return Finding(
            "reward_model_chance",
            "advice",
            "Too few held-out pairs to tell the reward model from chance",
            f"Its accuracy: {_described(unsure)}. Chance has 50%",
            "raise `reward.num_sampled_pairs`, of which a share is held out" if record.sampled_pairs else
            "raise `reward.num_eval`, or hold out more pairs",
            docs,
        )  # fmt: skip
    text = f"The 95% intervals of its accuracy begin at {percent(min(one.low for one in intervals.values()))} or above"
    return Finding("reward_model_chance", "good", "The reward model is better than chance", text)


def by_length(record: Record) -> Finding | None:
    """Compare the reward model with a rule that prefers the longer response, or the shorter one, of every pair."""
    model, rule, correlation = (find(record.results, "reward_model", key) or {} for key in _BY_LENGTH)
    names = [] if is_arm(record) else [name for name in model if number(correlation, name) is not None]
    if not names:
        return None
    worst = max(names, key=lambda name: abs(number(correlation, name) or 0.0))
    related, accuracy, of_rule = (number(correlation, worst), number(model, worst, "mean"), number(rule, worst))
    text = f"Its score correlates with the length of the answer at {num(related)}"
    enough, no_better = (number(model, worst, "num_prompts") or 0) >= _ENOUGH_PAIRS, False
    if of_rule is not None and accuracy is not None and accuracy <= of_rule + 0.02:
        no_better = True
        text += f"; it ranks {percent(accuracy)} of the held-out pairs as judged, and length alone {percent(of_rule)}"
    if related is not None and (abs(related) > _MOSTLY_LENGTH or (no_better and enough and abs(related) > 0.5)):
        return Finding(
            "reward_model_length",
            "alarm",
            "The reward model measures length",
            text,
            "use pairs of equal length or another judge; PPO would learn to write long or short answers",
            "reward.md#what-is-measured",
        )
    return Finding("reward_model_length", "good", "The reward model does not mainly measure length", text)


_BY_LENGTH = ("accuracy", "length_accuracy", "length_correlation")


def _described(sets: Mapping[str, Interval]) -> str:
    texts = [
        f"{percent(one.mean)}{f' on {name}' if name else ''} ({interval(one)}, {one.num} held-out pairs)"
        for name, one in sets.items()
    ]
    return listed(texts)


def _accuracies(record: Record) -> dict[str, Interval]:
    """Return the accuracy of the reward model with its interval, for each set; that of an arm has one without name."""
    if is_arm(record):
        keys = ("accuracy", "accuracy_low", "accuracy_high", "num_held_out")
        mean, low, high, held_out = (number(record.results, "reward_model", key) for key in keys)
        if mean is None or low is None or high is None:
            return {}
        return {"": Interval(mean, low, high, int(held_out or 0))}
    by_set = find(record.results, "reward_model", "accuracy") or {}
    return {name: one for name in by_set if (one := rate(by_set, name))}
