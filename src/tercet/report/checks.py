"""Checks of a run that an expert would do first, with their meaning."""

from collections.abc import Sequence
from math import hypot

from tercet.core.intervals import Interval
from tercet.report.blocks import Check, Checks
from tercet.report.formats import interval, listed, num, percent
from tercet.report.records import Record, curve, find, number, rate, unseen_judges, verdict, watched_judges
from tercet.report.summary import accuracies
from tercet.runs.rounds import in_round

_WATCHED_VALIDATIONS = 3  # a fall must last this long, so that noise does not warn


def checks(record: Record) -> Checks | None:
    """Return all checks whose data exist, problems first."""
    asked = (
        _reward_model,
        _length_bias,
        _kl,
        _critic,
        _groups,
        _scores,
        _clipping,
        _entropy,
        _endings,
        _length,
        _variety,
        _agreement,
        _unseen,
        _watched,
        _rounds,
    )
    results = [check for ask in asked if (check := ask(record)) is not None]
    return Checks(sorted(results, key=lambda check: check.good)) if results else None


def _reward_model(record: Record) -> Check | None:
    intervals = accuracies(record)
    if not intervals:
        return None
    chance = [name for name, one in intervals.items() if one.low <= 0.5]
    if chance:
        return Check(
            False,
            "The reward model may be no better than chance",
            f"On {', '.join(chance)} the accuracy interval includes one half: use more pairs or a larger model.",
        )
    return Check(True, "The reward model is better than chance", "Every accuracy interval lies above one half.")


def _length_bias(record: Record) -> Check | None:
    values = [number(record.results, "reward_model", "length_correlation", name) for name in accuracies(record)]
    known = [value for value in values if value is not None]
    if not known:
        return None
    worst = max(known, key=abs)
    text = f"Its score correlates with the length of the answer at {num(worst)}"
    if abs(worst) > 0.5:
        return Check(
            False,
            "The reward model favours length",
            f"{text}; PPO may learn to write long or short answers instead of good ones.",
        )
    return Check(
        True, "The reward model does not mainly measure length", f"{text}; a value beyond ±0.5 would be a warning."
    )


def _kl(record: Record) -> Check | None:
    kl, limit = number(record.results, "kl_to_reference"), number(record.config, "ppo", "max_kl")
    if kl is None or limit is None:
        return None
    if kl > limit:
        return Check(
            False,
            "KL from the reference above its limit",
            f"{num(kl)} nats per answer, above the limit of {limit:g}: raise `ppo.kl_coef` or take fewer updates.",
        )
    return Check(
        True, "KL from the reference within its limit", f"{num(kl)} nats per answer, within the limit of {limit:g}."
    )


def _critic(record: Record) -> Check | None:
    late = _late(curve(record, "ppo/explained_variance")[1])
    if late is None:
        return None
    if late < 0.1:
        return Check(
            False,
            "The critic predicts poorly",
            f"Explained variance ends at {num(late)}, where a constant has 0: raise `ppo.critic_lr` or "
            "`ppo.critic_warmup_updates`.",
        )
    return Check(True, "The critic predicts the return", f"Explained variance ends at {num(late)}.")


def _groups(record: Record) -> Check | None:
    late = _late(curve(record, "ppo/equal_groups")[1])
    if late is None:
        return None
    text = f"{percent(late)} of the groups had answers of equal scores at the end, from which nothing is learned"
    if late > 0.5:
        remedy = "use prompts of another difficulty, a finer reward, or a larger `ppo.group_size`"
        return Check(False, "Most groups teach nothing", f"{text}: {remedy}.")
    return Check(True, "Most groups teach something", f"{text}.")


def _scores(record: Record) -> Check | None:
    late, limit = _late(curve(record, "ppo/reward_clip_fraction")[1]), number(record.config, "ppo", "reward_clip")
    if late is None or limit is None:
        return None
    text = f"{percent(late)} of the scores were beyond ±{limit:g} at the end of training"
    if late > 0.2:
        return Check(
            False,
            "Many scores are clipped",
            f"{text}, where all answers get the same reward: raise `ppo.reward_clip` or lower the weights of "
            "`ppo.reward`.",
        )
    return Check(True, "Few scores are clipped", f"{text}.")


def _clipping(record: Record) -> Check | None:
    values = curve(record, "ppo/clip_fraction")[1]
    if not values:
        return None
    mean = sum(values) / len(values)
    if mean > 0.3:
        return Check(
            False,
            "Updates are too large",
            f"{percent(mean)} of the tokens were clipped: lower `ppo.lr` or `ppo.epochs`.",
        )
    if mean < 0.001 and len(values) > 5:
        return Check(False, "Updates are too small", "Almost no token was clipped: `ppo.lr` could be higher.")
    return Check(True, "Update size is normal", f"{percent(mean)} of the tokens were clipped.")


def _entropy(record: Record) -> Check | None:
    values = curve(record, "ppo/entropy")[1]
    late = _late(values)
    if late is None or values[0] <= 0:
        return None
    remaining = late / values[0]
    if remaining < 0.3:
        return Check(
            False,
            "Entropy has collapsed",
            f"{percent(remaining)} of the initial entropy is left: raise `ppo.entropy_coef` or `ppo.kl_coef`.",
        )
    return Check(True, "Entropy is sufficient", f"{percent(remaining)} of the initial entropy is left.")


def _endings(record: Record) -> Check | None:
    late = _late(curve(record, "ppo/eos_fraction")[1])
    if late is None:
        return None
    if late < 0.5:
        return Check(
            False,
            "Many answers reach the length limit",
            f"{percent(late)} of the answers end with EOS: raise `ppo.max_response_tokens` or "
            "`ppo.missing_eos_penalty`.",
        )
    return Check(True, "Answers end with EOS", f"{percent(late)} of them at the end of training.")


def _length(record: Record) -> Check | None:
    before, after = (number(record.results, "response_length", stage) for stage in ("sft", "ppo"))
    if not before or after is None:
        return None
    text = f"{num(before)} tokens after SFT, {num(after)} after PPO"
    if not 0.5 <= after / before <= 2:
        return Check(False, "Answer length changed strongly", f"{text}: check whether the reward favours length.")
    return Check(True, "Answer length changed little", f"{text}.")


def _variety(record: Record) -> Check | None:
    answers = {
        stage: [str(find(row, "answers", stage)).strip() for row in record.held_out if find(row, "answers", stage)]
        for stage in ("sft", "ppo")
    }
    if not answers["sft"] or not answers["ppo"]:
        return None
    sft, ppo = (len(set(answers[stage])) / len(answers[stage]) for stage in ("sft", "ppo"))
    text = f"{percent(ppo)} of its held-out answers are distinct, {percent(sft)} of SFT's"
    if ppo < 0.5 * sft:
        return Check(False, "PPO repeats itself", f"{text}: the policy gives the same answer to different prompts.")
    return Check(True, "PPO's answers differ between prompts", f"{text}.")


def _agreement(record: Record) -> Check | None:
    judge, model = (rate(record.results, "win_rate", "ppo_vs_sft", key) for key in ("judge", "reward_model"))
    if judge is None or model is None:
        return None
    text = f"PPO wins {percent(model.mean)} by the reward model and {percent(judge.mean)} by the judge"
    if model.mean > 0.5 and judge.high < model.low and judge.low <= 0.5:
        return Check(
            False,
            "PPO exploits its reward model",
            f"{text}: the score rises and the answers do not improve. Raise `ppo.kl_coef` or use fewer updates.",
        )
    if (judge.mean > 0.5) != (model.mean > 0.5):
        return Check(False, "Judge and reward model disagree", f"{text}.")
    return Check(True, "Judge and reward model agree", f"{text}.")


def _unseen(record: Record) -> Check | None:
    """Compare the judge or reward model that taught with the judges that took no part in training."""

    def won(name: str) -> Interval | None:
        return rate(record.results, "win_rate", "ppo_vs_sft", name)

    taught = won("judge") or won("reward_model")
    unseen = {name.replace("_", " "): one for name in unseen_judges(record) if (one := won(name))}
    if taught is None or not unseen:
        return None
    wins = listed([f"{percent(one.mean)} by {name}" for name, one in unseen.items()])
    text = f"PPO wins {percent(taught.mean)} by what taught it, and {wins}, which took no part in training"
    parted = [name for name, one in unseen.items() if one.low <= 0.5 and one.high < taught.mean]
    if taught.low > 0.5 and parted:
        all_of_them = len(parted) == len(unseen)
        return Check(
            False,
            "Unseen judges do not see the gain" if all_of_them else "Not every unseen judge sees the gain",
            f"{text}. The policy may exploit its reward: read the answers, raise `ppo.kl_coef` or use fewer updates.",
        )
    return Check(True, "Unseen judges do not contradict", f"{text}.")


def _watched(record: Record) -> Check | None:
    """Compare the judges of ppo.watch with the validation score, at the last validations."""
    names = watched_judges(record)
    means = {name: curve(record, f"ppo/watch/{name}")[1] for name in names}
    if not names or len(means[names[0]]) <= _WATCHED_VALIDATIONS:
        return None
    fallen = [name for name in names if _fell_as_the_score_rose(record, name)]
    text = listed(
        [f"{name.replace('_', ' ')} {num(means[name][0])} → {num(means[name][-1])}" for name in fallen or names]
    )
    if fallen:
        return Check(
            False,
            "A watched judge falls while the score rises",
            f"{text}. At each of the last {_WATCHED_VALIDATIONS} validations the score was above that at update 0, and "
            "the judge below its own by more than two standard errors. The policy exploits its reward: read the "
            "answers, raise `ppo.kl_coef`, use fewer updates or set `ppo.stop_on`.",
        )
    return Check(True, "Watched judges do not fall while the score rises", f"{text}.")


def _fell_as_the_score_rose(record: Record, name: str) -> bool:
    """Return True if the judge fell by more than two standard errors and the score rose, at the last validations."""
    metrics = ("ppo/validation_score", f"ppo/watch/{name}", f"ppo/watch_error/{name}")
    rows = [[number(row, metric) for metric in metrics] for row in record.metrics]
    known = [[value for value in row if value is not None] for row in rows if None not in row]
    if len(known) <= _WATCHED_VALIDATIONS:
        return False
    score, mean, error = known[0]
    return all(
        now > score and mean - later > 2 * hypot(error, later_error)
        for now, later, later_error in known[-_WATCHED_VALIDATIONS:]
    )


def _rounds(record: Record) -> Check | None:
    """Check that the last round did not lose what PPO had gained, and that its KL is within the limit."""
    stages = [in_round("ppo", one.number) for one in record.rounds]
    measured = [
        (stage, won, number(one.results, "kl_to_reference"))
        for stage, one in zip(stages, record.rounds, strict=True)
        if (won := rate(record.results, "win_rate", f"{stage}_vs_ppo", "judge"))
    ]
    if not measured:
        return None
    stage, won, kl = measured[-1]
    limit = number(record.config, "ppo", "max_kl")
    text = f"`{stage}` wins {percent(won.mean)} against `ppo` by the judge ({interval(won)})"
    if verdict(won) == "worse":
        return Check(False, "The rounds made the policy worse", f"{text}: use fewer rounds, or `ppo.kl_coef` higher.")
    if kl is not None and limit is not None and kl > limit:
        reason = f"{num(kl)} nats per answer in `{stage}`, above the limit of {limit:g}: use fewer rounds."
        return Check(False, "KL of the last round above its limit", reason)
    return Check(True, "The rounds did not make the policy worse", f"{text}.")


def _late(values: Sequence[float]) -> float | None:
    """Return the mean of the last fifth of the values."""
    last = values[-max(1, len(values) // 5) :]
    return sum(last) / len(last) if last else None
