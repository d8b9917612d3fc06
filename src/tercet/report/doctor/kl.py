"""The KL from the reference."""

from statistics import fmean, stdev

from tercet.report.doctor.finding import Finding
from tercet.report.doctor.windows import last
from tercet.report.formats import num
from tercet.report.records import Record, curve, is_arm, number

_BEYOND = 1.5  # times ppo.max_kl; the end of a sound run may be a little above it
_PER_TOKEN = 2.0  # nats; 0.6 is usual at the end of the default run
_NEGATIVE = -0.05  # nats per response
_APART = 0.1  # nats; rounding is below 0.01


def running_away(record: Record) -> Finding | None:
    """Compare the KL of the last updates with ppo.max_kl, beyond which no policy is kept."""
    kl, bound = curve(record, "ppo/kl")[1], number(record.config, "ppo", "max_kl")
    if len(kl) < 3 or bound is None:
        return None
    text = f"{num(last(kl))} nats per {_unit(record)} in the last 3 updates; ppo.max_kl is {bound:g}"
    length = curve(record, "ppo/response_length")[1]
    per_token = last(kl) / last(length) if length else 0.0
    if per_token > _PER_TOKEN:
        text = f"{num(per_token)} nats per token in the last 3 updates, {num(last(kl))} per response"
    if min(kl[-3:]) > _BEYOND * bound or per_token > _PER_TOKEN:
        return Finding(
            "kl_running_away",
            "alarm",
            "KL is running away",
            text,
            "raise `ppo.kl_coef`, or lower `ppo.lr`",
            "ppo.md#5-the-reward-of-each-token",
        )
    return Finding("kl_running_away", "good", "KL is not running away", text)


def kept(record: Record) -> Finding | None:
    """Compare the KL of the policy that was kept with ppo.max_kl."""
    kl, limit = number(record.results, "kl_to_reference"), number(record.config, "ppo", "max_kl")
    if kl is None or limit is None:
        return None
    if kl > limit:
        return Finding(
            "kl_of_the_kept_policy",
            "alarm",
            "KL from the reference above its limit",
            f"{num(kl)} nats per answer, above the limit of {limit:g}",
            "raise `ppo.kl_coef` or take fewer updates",
            "ppo.md#10-the-loop-and-which-actor-is-kept",
        )
    text = f"{num(kl)} nats per answer, within the limit of {limit:g}"
    return Finding("kl_of_the_kept_policy", "good", "KL from the reference within its limit", text)


def negative(record: Record) -> Finding | None:
    """A mean of k1 below 0 by more than chance: the responses do not come from the distribution of their numbers."""
    kl = curve(record, "ppo/kl")[1][-6:]
    if len(kl) < 6:
        return None
    mean, error = fmean(kl), stdev(kl) / len(kl) ** 0.5
    text = f"{num(mean)} nats per {_unit(record)} on average in the last 6 updates"
    if max(kl) < 0 and mean < _NEGATIVE and mean + 3 * error < 0:
        return Finding(
            "kl_negative",
            "alarm",
            "KL is negative",
            f"{text}, but a KL cannot be below 0: the sampler does not draw from the policy",
            "use `ppo.sampler=own`, no top-k or penalty of your own, and the same temperature everywhere",
            "ppo.md#2-sampling",
        )
    return Finding("kl_negative", "good", "KL is not negative", text)


def reference(record: Record) -> Finding | None:
    """Before the first step the policy must be its reference; in a later round it need not be."""
    before = curve(record, "ppo/validation_kl"), curve(record, "ppo/kl")
    measured = [values[0] for (indices, values), index in zip(before, (0, 1), strict=True) if indices[:1] == [index]]
    if record.number or not measured:
        return None
    kl = max(measured, key=abs)
    text = f"{num(kl)} nats per {_unit(record)} before the first step of the policy"
    if abs(kl) > _APART:
        return Finding(
            "reference_is_not_the_start",
            "alarm",
            "The reference is not the start",
            f"{text}, where both are one model",
            "give the policy that PPO starts from as the reference: set `ppo.policy`, and check code of your own",
            "ppo.md#11-the-self-check",
        )
    return Finding("reference_is_not_the_start", "good", "PPO starts at its reference", text)


def _unit(record: Record) -> str:
    return "episode" if is_arm(record) else "response"
