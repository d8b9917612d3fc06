"""All checks of a run."""

from collections.abc import Sequence

from tercet.report.doctor import arm, data, judges, kl, lessons, outcome, responses, rewards, speed, updates
from tercet.report.doctor.finding import Finding
from tercet.report.records import Record

CHECKS = (
    data.leaks,
    lessons.sft,
    lessons.cloning,
    lessons.reward_model,
    lessons.dpo,
    lessons.gradients,
    rewards.chance,
    rewards.by_length,
    kl.reference,
    kl.negative,
    kl.running_away,
    kl.kept,
    updates.critic,
    updates.too_large,
    updates.too_small,
    updates.entropy,
    updates.gradients,
    rewards.equal_scores,
    rewards.saturated,
    rewards.unscored,
    responses.endings,
    responses.length,
    responses.answer_length,
    responses.duplicates,
    responses.copies,
    responses.variety,
    outcome.worse,
    outcome.falls,
    outcome.kept,
    judges.agreement,
    judges.unseen,
    judges.watched,
    judges.rounds,
    arm.moved,
    arm.pay,
    arm.judge,
    arm.ranks,
    arm.stays,
    arm.broken,
    speed.throughput,
    speed.reward_time,
)
_ORDER = ("alarm", "advice", "good")


def examine(record: Record) -> list[Finding]:
    """Return the findings of all checks whose data exist, alarms first; `record` is of one round."""
    found = [finding for check in CHECKS if (finding := check(record)) is not None]
    return sorted(found, key=lambda finding: _ORDER.index(finding.level))


def problems(record: Record) -> list[Finding]:
    """Return the findings that are not good."""
    return [finding for finding in examine(record) if not finding.is_good]


def by_round(record: Record) -> list[tuple[int, Sequence[Finding]]]:
    """Return the findings of round 0 and of each later one, with the number of the round."""
    return [(one.number, examine(one)) for one in (record, *record.rounds)]
