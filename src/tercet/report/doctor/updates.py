"""The optimizer steps of PPO: how large they are, what becomes of the entropy, and what the critic explains."""

from statistics import fmean, median

from tercet.report.doctor.finding import Finding
from tercet.report.doctor.rewards import is_learned
from tercet.report.doctor.windows import last, spikes
from tercet.report.formats import listed, num, percent
from tercet.report.records import Record, curve, find, is_arm, number

_FEW, _ENOUGH = 5, 10  # updates that a check needs
_CLIPPED = {False: 0.3, True: 0.35}  # by whether it is an arm, which is clipped more at the start
_APPROX_KL = 0.25  # nats per token
_ENTROPY_LEFT = 0.3
_ENTROPY_FALL = 5.0  # nats per decision of an arm, whose entropy may be below 0
_EXPLAINED = 0.05
_HARMFUL = -1.0  # the errors of the critic vary twice as much as the returns


def too_large(record: Record) -> Finding | None:
    """Look at clip fraction, the KL from the policy of the rollout, and updates that ppo.kl_stop ended."""
    clipped, moved = curve(record, "ppo/clip_fraction")[1], curve(record, "ppo/approx_kl")[1]
    if len(clipped) < _FEW:
        return None
    what = "actions" if is_arm(record) else "tokens"
    clips = find(record.config, "ppo", "ratio_of") in (
        None,
        "token",
    )  # a ratio of responses is clipped much closer to 1
    text = f"{percent(last(clipped, _FEW))} of the {what} were clipped in the last {_FEW} updates"
    too_far = moved and last(moved, _FEW) > _APPROX_KL
    if too_far:
        text += f", and the policy moved by {num(last(moved, _FEW))} nats per token within an update"
    ended = _ended_early(record)
    if ended is not None and ended < 0.5:
        text += f", and ppo.kl_stop left {percent(ended)} of the optimizer steps"
    if (clips and last(clipped, _FEW) > _CLIPPED[is_arm(record)]) or too_far or (ended is not None and ended < 0.5):
        follows = number(record.config, "ppo", "update_kl")
        remedy = "lower `ppo.update_kl` or `ppo.epochs`" if follows else "lower `ppo.lr` or `ppo.epochs`"
        return Finding("updates_too_large", "alarm", "Updates are too large", text, remedy, _WHEN)
    return Finding("updates_too_large", "good", "Updates are not too large", text)


def too_small(record: Record) -> Finding | None:
    """Look at clip fraction and the KL from the policy of the rollout over all updates."""
    clipped, moved = curve(record, "ppo/clip_fraction")[1], curve(record, "ppo/approx_kl")[1]
    if len(clipped) < _FEW or len(moved) < _FEW:
        return None
    text = f"{percent(fmean(clipped))} of the {'actions' if is_arm(record) else 'tokens'} were clipped, and an update "
    text += f"moved the policy by {num(fmean(moved))} nats per {'action' if is_arm(record) else 'token'}"
    if fmean(clipped) < 1e-3 and fmean(moved) < 1e-5:
        return Finding("updates_too_small", "advice", "Updates are too small", text, "raise `ppo.lr`", _WHEN)
    return Finding("updates_too_small", "good", "Updates are large enough", text)


def entropy(record: Record) -> Finding | None:
    """Compare the entropy of the last updates with that of the first one."""
    values = curve(record, "ppo/entropy")[1]
    if len(values) < _FEW:
        return None
    now, arm = last(values), is_arm(record)
    text = f"{num(values[0])} nats per {'action' if arm else 'token'} at first, {num(now)} in the last 3 updates"
    if values[0] - now > _ENTROPY_FALL if arm else max(values[-3:]) < _ENTROPY_LEFT * values[0]:
        remedy = "raise `ppo.entropy_coef` or `ppo.kl_coef`, or lower `ppo.lr`"
        if not arm and is_learned(record):
            text += "; the score has risen and responses differ between prompts, as with one right response to each"
            return Finding("entropy_collapse", "advice", "The policy hardly explores any more", text, remedy, _WHEN)
        return Finding("entropy_collapse", "alarm", "Entropy has collapsed", text, remedy, _WHEN)
    return Finding("entropy_collapse", "good", "Entropy is sufficient", text)


def gradients(record: Record) -> Finding | None:
    """Find updates whose gradient is many times that of the updates before; that of a sound critic varies more."""
    most = number(record.config, "ppo", "max_grad_norm") or 1.0
    found = {
        f"{len(spiked)} of the {role}, up to {num(max(spiked))}": spiked
        for role, factor in (("actor", 10), ("critic", 30))
        if (spiked := spikes(curve(record, f"ppo/{role}_grad_norm")[1], factor=factor, least=most))
    }
    if len(curve(record, "ppo/critic_grad_norm")[1] or curve(record, "ppo/actor_grad_norm")[1]) < _ENOUGH:
        return None
    if sum(map(len, found.values())) >= 2:
        return Finding(
            "gradient_spikes",
            "alarm",
            "Gradients spike",
            f"Norms of the gradient many times that of the updates before: {listed(list(found))}",
            "lower `ppo.lr`, `ppo.critic_lr` or `ppo.max_grad_norm`, and look for outliers among the scores",
            _WHEN,
        )
    return Finding("gradient_spikes", "good", "Gradients are steady", "No two norms far above those before them")


def critic(record: Record) -> Finding | None:
    """Look at the explained variance of each update of the second half; 0 is that of a constant.

    That of a small rollout is noisy, so a sound critic is sometimes near 0, but not in every update. With a critic that
    explains nothing, PPO still learns from the scores, only more slowly: this is advice. One that is far worse than a
    constant adds noise to the advantages.
    """
    values = curve(record, "ppo/explained_variance")[1]
    if len(values) < _ENOUGH:
        return None
    half, name, docs = values[len(values) // 2 :], "critic_explains_nothing", "ppo.md#6-values"
    if median(half) < _HARMFUL:
        text = f"Explained variance has the median {num(median(half))} in the second half; a constant has 0"
        remedy = "lower `ppo.critic_lr`, and look for outliers among the scores"
        return Finding(name, "alarm", "The critic is worse than a constant", text, remedy, docs)
    text = f"Explained variance is at most {num(max(half))} in the second half; a constant has 0"
    if max(half) < _EXPLAINED:
        remedy = "raise `ppo.critic_lr`, its warm-up or the size of a rollout"
        return Finding(name, "advice", "The critic explains nothing", text, remedy, docs)
    return Finding(name, "good", "The critic predicts a part of the return", text)


_WHEN = "ppo.md#12-when-it-does-not-improve"


def _ended_early(record: Record) -> float | None:
    """Return which share of the planned optimizer steps the last updates took; None without ppo.kl_stop."""
    taken = curve(record, "ppo/num_minibatches")[1]
    epochs, steps = (number(record.config, "ppo", key) for key in ("epochs", "num_minibatches"))
    if not number(record.config, "ppo", "kl_stop") or not epochs or not steps or len(taken) < _FEW:
        return None
    return last(taken, _FEW) / (epochs * steps)
