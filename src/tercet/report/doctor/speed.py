"""Where the time of PPO goes."""

from statistics import fmean, median

from tercet.report.doctor.finding import Finding
from tercet.report.formats import num
from tercet.report.records import Record, curve

_ENOUGH, _FEW = 12, 5  # updates that a check needs
_SLOWER = 3.0  # times
_SECONDS = 0.5  # an update that takes less is not worth a word


def throughput(record: Record) -> Finding | None:
    """Compare the time of late updates with that of early ones, also per token, since responses may grow.

    Updates with a validation, and those that train the critic only, take another time and are left out.
    """
    trained, validated = curve(record, "ppo/actor_loss")[0], set(curve(record, "ppo/validation_score")[0])
    alike = [index for index in trained if index not in validated]
    seconds = _of_updates(record, "seconds")
    lengths = dict(zip(*curve(record, "ppo/response_length"), strict=True))
    known = [(seconds[index], lengths.get(index, 1.0)) for index in alike if index in seconds]
    if len(known) < _ENOUGH:
        return None
    third = len(known) // 3
    before, now = (median(time for time, _ in rows) for rows in (known[:third], known[-third:]))
    before_each, now_each = (median(time / length for time, length in rows) for rows in (known[:third], known[-third:]))
    text = f"An update took {num(before)} s in the first third and {num(now)} s in the last"
    if now > max(_SECONDS, _SLOWER * before) and now_each > _SLOWER * before_each:
        return Finding(
            "throughput_falls",
            "advice",
            "Updates take longer and longer",
            f"{text}, for about as many tokens",
            "look at the memory and other programs of the machine, and at reward functions that keep what they see",
            "performance.md#how-to-measure",
        )
    return Finding("throughput_falls", "good", "The time of an update is steady", text)


def reward_time(record: Record) -> Finding | None:
    """Look at the share of an update that the rewards take."""
    seconds, of_rewards = _of_updates(record, "seconds"), _of_updates(record, "reward_seconds")
    validated = set(curve(record, "ppo/validation_score")[0])
    known = [(of_rewards[index], seconds[index]) for index in of_rewards if index not in validated][-_FEW:]
    if len(known) < _FEW:
        return None
    rewards, whole = fmean(reward for reward, _ in known), fmean(time for _, time in known)
    text = f"{num(rewards)} s of {num(whole)} s in each of the last updates"
    if rewards > 0.5 * whole and rewards > _SECONDS:
        return Finding(
            "reward_takes_most_time",
            "advice",
            "The reward takes most of the time",
            f"{text} are spent in ppo.reward",
            "make the functions of `ppo.reward` faster, such as by answering all responses in one call, or raise "
            "`ppo.epochs` to use each rollout more",
            "ppo.md#4-the-score",
        )
    return Finding("reward_takes_most_time", "good", "The reward takes less than half of the time", text)


def _of_updates(record: Record, name: str) -> dict[float, float]:
    return {row["index"]: row[name] for row in record.timings if row.get("step") == "ppo" and name in row}
