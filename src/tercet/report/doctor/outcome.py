"""What PPO made of a language model: whether it is better than its start, or plainly worse."""

from math import sqrt

from tercet.report.doctor.finding import Finding
from tercet.report.formats import interval, listed, num, percent
from tercet.report.records import Record, curve, find, is_arm, kl_bound, number, rate

_VALIDATIONS = 3  # a fall must last this long
_FEW_PROMPTS = 8  # validation prompts that are assumed until PPO has ended, which alone counts them
_WHEN = "ppo.md#12-when-it-does-not-improve"
_UNDO = "lower `ppo.lr`, raise `ppo.kl_coef` or use another `ppo.reward`, and read the answers"


def worse(record: Record) -> Finding | None:
    """Look at the win rates against SFT by the judge, and by the reward model if it is part of the reward."""
    names = ["judge", *(["reward_model"] if "reward_model" in (find(record.config, "ppo", "reward") or {}) else [])]
    known = {name: one for name in names if (one := rate(record.results, "win_rate", "ppo_vs_sft", name))}
    if not known:
        return None
    lost = [name for name, one in known.items() if one.high < 0.5]
    wins = [
        f"{percent(known[name].mean)} by the {name.replace('_', ' ')} ({interval(known[name])})"
        for name in lost or known
    ]
    text = f"Against SFT, PPO wins {listed(wins)}"
    if lost:
        return Finding("ppo_worse", "alarm", "PPO made the answers worse", text, _UNDO, _WHEN)
    return Finding("ppo_worse", "good", "PPO is not clearly worse than SFT", text)


def falls(record: Record) -> Finding | None:
    """Check that the validation score is not below that of update 0 by more than chance, at the last validations.

    The margin is two standard errors of the difference of two means, with the spread of the scores in the first
    rollout. The prompts are the same each time, so that the true error is smaller.
    """
    scores, deviations = curve(record, "ppo/validation_score")[1], curve(record, "ppo/score_std")[1]
    if is_arm(record) or len(scores) <= _VALIDATIONS or not deviations:
        return None
    prompts = number(record.results, "best_checkpoint", "num_scores") or _FEW_PROMPTS
    margin = 2 * sqrt(2 / prompts) * deviations[0]
    text = f"The validation score was {num(scores[0])} at update 0"
    text += f" and at most {num(max(scores[-_VALIDATIONS:]))} in the last {_VALIDATIONS} validations"
    if scores[0] - max(scores[-_VALIDATIONS:]) > margin:
        text += f"; chance explains a fall of {num(margin)}"
        return Finding("validation_falls", "alarm", "The validation score fell", text, _UNDO, _WHEN)
    return Finding("validation_falls", "good", "The validation score does not fall", text)


def kept(record: Record) -> Finding | None:
    """Look at the update that was kept; arm.moved does so for an arm."""
    update = number(record.results, "best_checkpoint", "update")
    if update is None or is_arm(record):
        return None
    bound = kl_bound(record)
    within = f" within the KL bound of {bound:g} nats (`ppo.max_kl`)" if bound is not None else ""
    if update == 0:
        text = f"Update 0 was kept: no later one had a higher validation score{within}"
        remedy = "use another `ppo.lr`, more updates or another `ppo.reward`"
        remedy = "raise `ppo.kl_coef` or lower `ppo.lr`" if within else remedy
        return Finding("ppo_not_improved", "advice", "PPO did not improve the policy", text, remedy, _WHEN)
    text = f"Update {update:.0f} was kept{within}"
    return Finding("ppo_not_improved", "good", "PPO improved the validation score", text)
