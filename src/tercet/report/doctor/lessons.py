"""The supervised steps: whether the loss falls, and whether single steps are out of the ordinary."""

import math

from tercet.report.doctor.finding import Finding
from tercet.report.doctor.windows import first, last_third, spikes
from tercet.report.formats import num
from tercet.report.records import Record, curve, is_arm, number

_ENOUGH = 10  # optimizer steps that a check needs
_NAMES = {"sft": "SFT", "bc": "Cloning", "reward": "The reward model", "dpo": "DPO"}
_OF_PAIRS = ("reward", "dpo")  # a model that knows nothing has the loss ln 2, and batches differ much
_DOCS = {
    "sft": "sft.md#what-is-learned",
    "bc": "arm.md#1-imitate",
    "reward": "reward.md#what-is-learned",
    "dpo": "algorithms.md#dpo-no-reward-model-and-no-sampling",
}


def sft(record: Record) -> Finding | None:
    """Look at the loss of SFT, and at the held-out perplexity before and after."""
    return _diverges(record, "sft") or _sft_learned(record)


def cloning(record: Record) -> Finding | None:
    """Look at the loss of behaviour cloning."""
    return _diverges(record, "bc") or _cloning_learned(record)


def reward_model(record: Record) -> Finding | None:
    """Look at the loss of the reward model; how good it is on held-out pairs is another check."""
    return _diverges(record, "reward") or _falls(record, "reward")


def dpo(record: Record) -> Finding | None:
    """Look at the loss of DPO."""
    return _diverges(record, "dpo") or _falls(record, "dpo")


def gradients(record: Record) -> Finding | None:
    """Find optimizer steps of SFT or cloning whose gradient is many times that of the steps before.

    The gradient of a reward model that has learned its pairs is near 0 but for the few pairs that it gets wrong, so it
    is left out.
    """
    step = "bc" if is_arm(record) else "sft"
    norms, most = curve(record, f"{step}/grad_norm")[1], number(record.config, step, "max_grad_norm") or 1.0
    if len(norms) < _ENOUGH:
        return None
    found = spikes(norms, factor=10, least=most)
    if len(found) >= 2:
        return Finding(
            f"{step}_gradient_spikes",
            "alarm",
            f"Gradients of {step.upper()} spike",
            f"{len(found)} optimizer steps have a gradient many times that of those before, up to {num(max(found))}",
            f"lower `{step}.lr`, and look for rows that do not belong to the data",
            _DOCS[step],
        )
    return Finding(
        f"{step}_gradient_spikes",
        "good",
        f"Gradients of {step.upper()} are steady",
        "No two norms are far above others",
    )


def _diverges(record: Record, step: str) -> Finding | None:
    """Return an alarm if the loss rises instead of falling."""
    loss = curve(record, f"{step}/loss")[1]
    if len(loss) < _ENOUGH:
        return None
    # a loss that is lost at once has large values among the first ones
    before, now = min(first(loss), 1.5 * loss[0]), last_third(loss)
    if now > (1.5 * max(before, math.log(2)) if step in _OF_PAIRS else 1.2 * before):
        text = f"The loss rises, from {num(loss[0])} in the first step to {num(now)} in the last third"
        return Finding(f"{step}_lr", "alarm", f"{_NAMES[step]} diverges", text, f"lower `{step}.lr`", _DOCS[step])
    return None


def _falls(record: Record, step: str) -> Finding | None:
    loss = curve(record, f"{step}/loss")[1]
    if len(loss) < _ENOUGH:
        return None
    text = f"The loss is {num(first(loss))} in the first 3 steps and {num(last_third(loss))} in the last third"
    return Finding(f"{step}_lr", "good", f"{_NAMES[step]} does not diverge", text)


def _sft_learned(record: Record) -> Finding | None:
    before, after = (number(record.results, "perplexity", stage) for stage in ("base", "sft"))
    if before is None or after is None:
        return _falls(record, "sft")
    text = f"The held-out perplexity is {num(before)} before SFT and {num(after)} after it"
    if after > before:
        remedy = "lower `sft.lr`, use fewer steps or more data"
        return Finding("sft_lr", "alarm", "SFT made the model worse", text, remedy, _DOCS["sft"])
    if after > 0.99 * before:
        return Finding(
            "sft_lr", "advice", "SFT learned nothing", text, "raise `sft.lr` or `sft.max_steps`", _DOCS["sft"]
        )
    return Finding("sft_lr", "good", "SFT learned from its data", text)


def _cloning_learned(record: Record) -> Finding | None:
    loss = curve(record, "bc/loss")[1]
    if len(loss) < _ENOUGH or not {"clone_success", "clone_return"} & set(record.results):  # the step has not ended
        return _falls(record, "bc")
    before, now = first(loss), last_third(loss)
    if now > 0.95 * before:
        text = f"The loss is {num(before)} in the first 3 steps and {num(now)} in the last third"
        remedy = "raise `bc.lr` or `bc.epochs`"
        return Finding("bc_lr", "advice", "Cloning learned nothing", text, remedy, _DOCS["bc"])
    return _falls(record, "bc")
