"""The responses that PPO samples: their length and end, and whether they repeat each other or the prompt."""

from tercet.report.doctor.finding import Finding
from tercet.report.doctor.windows import first, last, late
from tercet.report.formats import num, percent
from tercet.report.records import Record, curve, find

_FEW, _ENOUGH = 5, 10  # updates that a check needs
_LENGTH = "reward.md#what-is-measured"


def length(record: Record) -> Finding | None:
    """Compare the length in the last updates with that in the first."""
    values = curve(record, "ppo/response_length")[1]
    if len(values) < _ENOUGH:
        return None
    before, now = first(values), last(values)
    text = f"{num(before)} tokens in the first 3 updates, {num(now)} in the last 3"
    if abs(now - before) >= 4 and not 0.5 <= now / before <= 2:
        grow = now > before
        remedy = "check whether the reward favours length; " + (
            "raise `ppo.kl_coef` or `ppo.missing_eos_penalty`" if grow else "raise `ppo.kl_coef`"
        )
        title = "Responses grow" if grow else "Responses shrink"
        return Finding("length_changes", "alarm", title, text, remedy, _LENGTH)
    return Finding("length_changes", "good", "The length of responses changed little", text)


def endings(record: Record) -> Finding | None:
    """Look at the share of responses that end with EOS."""
    values = curve(record, "ppo/eos_fraction")[1]
    if len(values) < _ENOUGH:
        return None
    text = f"{percent(late(values))} of the responses of the last updates end with EOS"
    if late(values) < 0.5:
        title = "Responses never end" if late(values) < 0.02 else "Many responses reach the length limit"
        return Finding(
            "no_eos",
            "alarm",
            title,
            text,
            "run SFT on responses that fit into `ppo.max_response_tokens`, or raise it or `ppo.missing_eos_penalty`",
            "sft.md#what-is-learned",
        )
    return Finding("no_eos", "good", "Responses end with EOS", text)


def duplicates(record: Record) -> Finding | None:
    """Look at the share of responses that another prompt of the rollout got too."""
    values = curve(record, "ppo/duplicate_fraction")[1]
    if len(values) < _FEW:
        return None
    text = f"{percent(last(values))} of the responses of the last 3 updates were given to another prompt too"
    if min(values[-3:]) > 0.5:
        remedy = "raise `ppo.kl_coef` or `ppo.entropy_coef`, or use a reward that depends on the prompt"
        title = "The same response to many prompts"
        return Finding("duplicate_responses", "alarm", title, text, remedy, "ppo.md#12-when-it-does-not-improve")
    return Finding("duplicate_responses", "good", "Responses differ between prompts", text)


def copies(record: Record) -> Finding | None:
    """Look at the share of responses that repeat the prompt."""
    values = curve(record, "ppo/copied_fraction")[1]
    if len(values) < _FEW:
        return None
    text = f"{percent(last(values))} of the responses of the last 3 updates repeat their prompt"
    if min(values[-3:]) > 0.3:
        remedy = "use a reward that pays nothing for words of the prompt, or raise `ppo.kl_coef`"
        return Finding("copied_responses", "alarm", "Responses copy the prompt", text, remedy, "reward.md#judges")
    return Finding("copied_responses", "good", "Responses do not copy the prompt", text)


def variety(record: Record) -> Finding | None:
    """Compare how many held-out answers of PPO and SFT are distinct."""
    answers = {
        stage: [str(find(row, "answers", stage)).strip() for row in record.held_out if find(row, "answers", stage)]
        for stage in ("sft", "ppo")
    }
    if not answers["sft"] or not answers["ppo"]:
        return None
    sft, ppo = (len(set(answers[stage])) / len(answers[stage]) for stage in ("sft", "ppo"))
    text = f"{percent(ppo)} of its held-out answers are distinct, {percent(sft)} of SFT's"
    if ppo < 0.5 * sft:
        remedy = "raise `ppo.kl_coef` or use fewer updates: the policy gives the same answer to different prompts"
        return Finding(
            "held_out_duplicates", "alarm", "PPO repeats itself", text, remedy, "ppo.md#12-when-it-does-not-improve"
        )
    return Finding("held_out_duplicates", "good", "PPO's answers differ between prompts", text)


def answer_length(record: Record) -> Finding | None:
    """Compare the length of held-out answers before and after PPO."""
    before, after = (find(record.results, "response_length", stage) for stage in ("sft", "ppo"))
    if not before or after is None:
        return None
    text = f"{num(before)} tokens after SFT, {num(after)} after PPO"
    if abs(after - before) >= 4 and not 0.5 <= after / before <= 2:
        remedy = "check whether the reward favours length"
        return Finding("answer_length", "alarm", "Answer length changed strongly", text, remedy, _LENGTH)
    return Finding("answer_length", "good", "Answer length changed little", text)
