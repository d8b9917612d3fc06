"""Logits of a bf16 run are fp32 products of the last states and the head."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear

from tercet.config.lm import LmConfig
from tercet.lm.batch import pad
from tercet.lm.models.logprobs import response_logprobs
from tercet.lm.models.roles import Policy, load_policy
from tercet.lm.sampling.generate import generate

MakeConfig = Callable[..., LmConfig]
PROMPT, ANSWER = [5, 9, 7], [8, 3, 4]


def wanted(policy: Policy, ids: list[int], weight: Tensor) -> Tensor:
    with torch.no_grad(), policy.autocast():
        states = policy.model.base_model(torch.tensor([ids]), use_cache=False).last_hidden_state[0]
    return linear(states.float(), weight)


@pytest.mark.parametrize("lora", [{"rank": 0}, {"rank": 2}, {"rank": 2, "only": False}], ids=["full", "lora", "head"])
@pytest.mark.parametrize("learns", [True, False], ids=["learning", "frozen"])
@pytest.mark.parametrize("architecture", ["bloom", "gpt2", "llama", "opt-350m"])
def test_logits_are_fp32(architecture: str, make_config: MakeConfig, lora: dict[str, Any], learns: bool) -> None:
    policy = load_policy(make_config(architecture, precision="bf16", lora=lora), learns=learns).eval()
    logits = wanted(policy, PROMPT + ANSWER, policy.head.weight)
    assert logits.dtype == torch.float32
    with torch.no_grad(), policy.autocast():
        sampled = policy.model(torch.tensor([PROMPT + ANSWER])).logits[0]
    assert torch.equal(sampled, logits)
    with torch.no_grad():
        found = response_logprobs(policy, pad([PROMPT], [ANSWER], pad_id=2), temperature=1.0).logprobs[0]
    rows = logits.log_softmax(-1)[len(PROMPT) - 1 : -1]
    assert torch.allclose(found, rows[range(len(ANSWER)), ANSWER], atol=1e-5)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_sampled_token_has_the_logprob_of_an_fp32_logit(precision: str, make_config: MakeConfig) -> None:
    policy = load_policy(make_config("llama", precision=precision))
    with policy.autocast():
        chance = torch.Generator().manual_seed(0)
        drawn = generate(policy.model, [PROMPT], end_ids=[2], max_tokens=1, temperature=1.0, generator=chance)
    row = wanted(policy, PROMPT, policy.head.weight)[-1].log_softmax(-1)
    assert float(drawn.logprobs[0, 0]) == pytest.approx(float(row[drawn.ids[0, 0]]), abs=1e-5)


def test_a_trained_head_uses_its_own_weights(make_config: MakeConfig) -> None:
    policy = load_policy(make_config("gpt2", precision="bf16", lora={"rank": 2, "only": False}), learns=True).eval()
    before = policy.model.get_input_embeddings().weight.clone()
    with torch.no_grad():
        learned = policy.head.weight.add_(0.1)
        with policy.autocast():
            on = policy.model(torch.tensor([PROMPT])).logits[0]
            with policy.without_adapters():
                off = policy.model(torch.tensor([PROMPT])).logits[0]
    assert torch.equal(on, wanted(policy, PROMPT, learned))
    assert torch.equal(off, wanted(policy, PROMPT, before))


def test_in_fp32_the_head_is_not_changed(make_config: MakeConfig) -> None:
    assert type(load_policy(make_config("llama")).head) is torch.nn.Linear
