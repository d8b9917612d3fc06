"""The data: held-out prompts must not be among those that a step learns from."""

from tercet.report.doctor.finding import Finding
from tercet.report.formats import percent
from tercet.report.records import Record, find

_MOST = 0.1  # a few prompts such as "hello" are in every set


def leaks(record: Record) -> Finding | None:
    """Look at the share of held-out prompts that differ from a training prompt in punctuation or spaces only."""
    shares = find(record.results, "prompt_overlap") or {}
    if not shares:
        return None
    step = max(shares, key=lambda name: shares[name])
    text = f"{percent(shares[step])} of the held-out prompts of {step} are almost equal to one that it learns from"
    if shares[step] > _MOST:
        return Finding(
            "data_leaks",
            "alarm",
            "Held-out prompts are in the training data",
            f"{text}; they differ in punctuation, spaces or case only",
            "remove them from `data.train` or from `data.eval`",
            "data.md#held-out",
        )
    return Finding("data_leaks", "good", "Held-out prompts are not in the training data", text)
