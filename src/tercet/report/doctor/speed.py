"""Where the time of PPO goes."""

from collections.abc import Callable, Mapping
from statistics import fmean, median

from tercet.report.doctor.finding import Finding
from tercet.report.formats import num
from tercet.report.records import Record, curve

_ENOUGH, _FEW = 12, 5  # updates that a check needs
_SLOWER = 3.0  # times
_SECONDS = 0.5  # an update that takes less is not worth a word
_BUSY = 0.5  # CPUs that other programs use


def throughput(record: Record) -> Finding | None:
    """Compare the time of late updates with that of early ones, also per token, since responses may grow.

    Updates with a validation, and those that train the critic only, take another time and are left out. Nothing is said
    if other programs used the machine and the work of the run itself did not grow.
    """
    trained, validated = curve(record, "ppo/actor_loss")[0], set(curve(record, "ppo/validation_score")[0])
    times = {row["index"]: row for row in record.timings if row.get("step") == "ppo" and "seconds" in row}
    lengths = dict(zip(*curve(record, "ppo/response_length"), strict=True))
    rows = [times[index] for index in trained if index in times and index not in validated]
    if len(rows) < _ENOUGH:
        return None
    third = len(rows) // 3
    first, last = rows[:third], rows[-third:]

    def grown(value: Callable[[Mapping[str, float]], float]) -> float:
        return median(map(value, last)) / max(median(map(value, first)), 1e-9)

    before, now = (median(row["seconds"] for row in part) for part in (first, last))
    others = median(row.get("other_cpus", 0.0) for row in last)
    text = f"An update took {num(before)} s in the first third and {num(now)} s in the last"
    slower = now > max(_SECONDS, _SLOWER * before)
    slower = slower and grown(lambda row: row["seconds"] / lengths.get(row["index"], 1.0)) > _SLOWER
    if slower and others > _BUSY and grown(_own_work) < 2:
        text += f", when other programs used {num(others)} CPUs"
    elif slower:
        return Finding(
            "throughput_falls",
            "advice",
            "Updates take longer and longer",
            f"{text}, for about as many tokens",
            "look at the memory and other programs of the machine, and at reward functions that keep what they see",
            "performance.md#how-to-measure",
        )
    return Finding("throughput_falls", "good", "The work of an update is steady", text)


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


def _own_work(row: Mapping[str, float]) -> float:
    """Return the seconds of CPUs that the run used, and those that it waited for rewards."""
    return row.get("cpu_seconds", 0.0) + row.get("reward_seconds", 0.0)
