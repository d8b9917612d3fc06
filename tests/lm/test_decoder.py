"""The fast path says what transformers' forward says, token after token, whatever leaves the batch and is learned."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tercet.config.lm import LmConfig
from tercet.lm import decoder
from tercet.lm.decoder import Decoder, knows
from tercet.lm.models import Policy, load_policy
from tercet.lm.packed import packed
from tercet.lm.stepper import Stepper

MakeConfig = Callable[..., LmConfig]
Disturbed = Callable[[LmConfig], Policy]

KNOWN = ["opt", "opt-350m", "llama", "qwen2"]
PROMPTS = [[5, 9, 7, 30, 11, 2, 8], [6], [2, 2, 40], [77, 78, 79, 80, 81], [6]]


@torch.no_grad()
def largest_difference(policy: Policy, prompts: list[list[int]], leave: dict[int, list[int]]) -> float:
    """Between the logits of both paths over nine tokens; `leave` says who goes on from a token on."""
    slow, fast = Stepper(policy.model, prompts, 2), Decoder(policy.model, prompts)
    worst, chance, num = float((slow.logits - fast.logits).abs().max()), torch.Generator().manual_seed(1), len(prompts)
    for t in range(9):
        if t in leave:
            rows = torch.tensor(leave[t])
            slow.keep(rows)
            fast.keep(rows)
            num = len(rows)
        tokens = torch.randint(4, 299, (num,), generator=chance)
        logits = slow(tokens)
        assert float(logits.std()) > 0.1  # flat logits would agree however wrong they were
        worst = max(worst, float((logits - fast(tokens)).abs().max()))
    return worst


@pytest.mark.parametrize("kind", KNOWN)
@pytest.mark.parametrize("lora", [{"rank": 0}, {"rank": 2}, {"rank": 2, "only": False}], ids=["full", "lora", "head"])
def test_its_logits_are_those_of_transformers(
    kind: str, lora: dict[str, Any], make_config: MakeConfig, disturbed: Disturbed
) -> None:
    policy = disturbed(make_config(kind, lora=lora))
    assert knows(policy.model, len(PROMPTS))
    assert largest_difference(policy, PROMPTS, {}) < 2e-4


@pytest.mark.parametrize("kind", KNOWN)
def test_rows_that_leave_take_their_columns_along(
    kind: str, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder, "_ROOM", 2)  # so that the cache grows on the way as well
    policy = load_policy(make_config(kind))
    leave = {2: [1, 2, 3, 4], 5: [0, 1]}  # the longest row first
    assert largest_difference(policy, PROMPTS, leave) < 2e-4
    assert largest_difference(policy, [PROMPTS[0][:3], PROMPTS[2]], {4: [1]}) < 2e-4  # of one length: nothing is hidden


def test_adapters_that_are_off_stay_off(make_config: MakeConfig, disturbed: Disturbed) -> None:
    policy = disturbed(make_config("llama", lora={"rank": 2}))
    with policy.without_adapters():
        assert largest_difference(policy, PROMPTS, {}) < 2e-4


def test_it_takes_no_model_that_it_does_not_know(make_config: MakeConfig) -> None:
    for kind in ("gpt2", "bloom", "qwen3", "gpt_neox"):
        assert not knows(load_policy(make_config(kind)).model, 4)
    shape = make_config("qwen2").model.architecture
    windowed = shape | {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
    assert not knows(load_policy(make_config("qwen2", model={"architecture": windowed})).model, 4)


def test_it_leaves_the_model_as_it_was(make_config: MakeConfig) -> None:
    policy = load_policy(make_config("opt"))
    before = {name: value.clone() for name, value in policy.model.state_dict().items()}
    largest_difference(policy, PROMPTS, {})
    with packed(policy.model, 2):
        pass
    assert all(torch.equal(value, before[name]) for name, value in policy.model.state_dict().items())
