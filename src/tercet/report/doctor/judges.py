"""What judges see that took no part in training: the score may rise while the answers get worse."""

from math import hypot

from tercet.core.intervals import Interval
from tercet.report.doctor.finding import Finding
from tercet.report.formats import interval, listed, num, percent
from tercet.report.records import Record, curve, number, rate, unseen_judges, verdict, watched_judges
from tercet.runs.rounds import in_round

_VALIDATIONS = 3  # a fall must last this long, so that noise does not warn
_DOCS = "reward.md#judges"
_WATCHED_FALLS = "read the answers, raise `ppo.kl_coef`, use fewer updates or set `ppo.stop_on`"


def watched(record: Record) -> Finding | None:
    """Compare the judges of ppo.watch with the validation score, at the last validations."""
    names = watched_judges(record)
    means = {name: curve(record, f"ppo/watch/{name}")[1] for name in names}
    if not names or len(means[names[0]]) <= _VALIDATIONS:
        return None
    fallen = [name for name in names if _fell_as_the_score_rose(record, name)]
    text = listed(
        [f"{name.replace('_', ' ')} {num(means[name][0])} → {num(means[name][-1])}" for name in fallen or names]
    )
    if fallen:
        return Finding(
            "watched_judge_falls",
            "alarm",
            "A watched judge falls while the score rises",
            f"{text}. At each of the last {_VALIDATIONS} validations the score was above that at update 0, and "
            "the judge below its own by more than two standard errors. The policy exploits its reward",
            _WATCHED_FALLS,
            _DOCS,
        )
    return Finding("watched_judge_falls", "good", "Watched judges do not fall while the score rises", text)


def unseen(record: Record) -> Finding | None:
    """Compare the judge or reward model that taught with the judges that took no part in training."""

    def won(name: str) -> Interval | None:
        return rate(record.results, "win_rate", "ppo_vs_sft", name)

    taught = won("judge") or won("reward_model")
    known = {name.replace("_", " "): one for name in unseen_judges(record) if (one := won(name))}
    if taught is None or not known:
        return None
    wins = listed([f"{percent(one.mean)} by {name}" for name, one in known.items()])
    text = f"PPO wins {percent(taught.mean)} by what taught it, and {wins}, which took no part in training"
    parted = [name for name, one in known.items() if one.low <= 0.5 and one.high < taught.mean]
    if taught.low > 0.5 and parted:
        lost = any(one.high < 0.5 for one in known.values())
        title = "Unseen judges do not see the gain"
        if lost or len(parted) < len(known):
            title = "An unseen judge finds PPO worse" if lost else "Not every unseen judge sees the gain"
        return Finding(
            "unseen_judges",
            "alarm" if lost else "advice",
            title,
            f"{text}. The policy may exploit its reward",
            "read the answers, raise `ppo.kl_coef` or use fewer updates",
            _DOCS,
        )
    return Finding("unseen_judges", "good", "Unseen judges do not contradict", text)


def agreement(record: Record) -> Finding | None:
    """Compare the judge of the config with the reward model; that neither finds PPO better is another check."""
    judge, model = (rate(record.results, "win_rate", "ppo_vs_sft", key) for key in ("judge", "reward_model"))
    if judge is None or model is None:
        return None
    text = f"PPO wins {percent(model.mean)} by the reward model and {percent(judge.mean)} by the judge"
    if model.mean > 0.5 and judge.high < model.low and judge.low <= 0.5:
        return Finding(
            "judge_and_reward_model",
            "alarm",
            "PPO exploits its reward model",
            f"{text}: the score rises and the answers do not improve",
            "raise `ppo.kl_coef` or use fewer updates",
            "ppo.md#12-when-it-does-not-improve",
        )
    if (judge.mean > 0.5) != (model.mean > 0.5):
        return Finding(
            "judge_and_reward_model",
            "advice",
            "Judge and reward model disagree",
            text,
            "use more pairs for the reward model, or more updates",
            "reward.md#what-is-measured",
        )
    if judge.mean <= 0.5:
        return None
    return Finding("judge_and_reward_model", "good", "Judge and reward model agree", text)


def rounds(record: Record) -> Finding | None:
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
    docs = "reward.md#rounds-new-judgements-of-ppos-answers"
    if verdict(won) == "worse":
        remedy = "use fewer rounds, or `ppo.kl_coef` higher"
        return Finding("rounds", "alarm", "The rounds made the policy worse", text, remedy, docs)
    if kl is not None and limit is not None and kl > limit:
        reason = f"{num(kl)} nats per answer in `{stage}`, above the limit of {limit:g}"
        return Finding("rounds", "alarm", "KL of the last round above its limit", reason, "use fewer rounds", docs)
    return Finding("rounds", "good", "The rounds did not make the policy worse", text)


def _fell_as_the_score_rose(record: Record, name: str) -> bool:
    """Return True if the judge fell by more than two standard errors and the score rose, at the last validations."""
    metrics = ("ppo/validation_score", f"ppo/watch/{name}", f"ppo/watch_error/{name}")
    rows = [[number(row, metric) for metric in metrics] for row in record.metrics]
    known = [[value for value in row if value is not None] for row in rows if None not in row]
    if len(known) <= _VALIDATIONS:
        return False
    score, mean, error = known[0]
    return all(
        now > score and mean - later > 2 * hypot(error, later_error)
        for now, later, later_error in known[-_VALIDATIONS:]
    )
