"""Decoding with a cache gives the numbers of a forward without it; a cache that does not grow is refused."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaForCausalLM, PreTrainedModel

from tercet.config.lm import LmConfig
from tercet.errors import InputError
from tercet.lm.batch import pad
from tercet.lm.models.logprobs import response_logprobs
from tercet.lm.models.roles import Policy, load_policy
from tercet.lm.sampling.generate import generate
from tercet.lm.sampling.stepper import Stepper

MakeConfig = Callable[..., LmConfig]

PROMPTS = [[5, 9, 7, 30, 11, 2, 8, 66, 43, 90], [6], [2, 2, 40], [77, 78, 79, 80, 81], [6]]

_SIZE = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "initializer_range": 0.3}
_MLP = _SIZE | {"intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}
_MAMBA = {"mamba_d_state": 8, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_chunk_size": 8}
_DELTA = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
_MIXED = {"layer_types": ["linear_attention", "full_attention"]}
_EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
}
STATEFUL: dict[str, dict[str, Any]] = {
    "mamba": _SIZE | {"state_size": 8, "time_step_rank": 8},
    "mamba2": _SIZE | {"state_size": 8, "num_heads": 4, "head_dim": 16, "n_groups": 1, "chunk_size": 8},
    "falcon_mamba": _SIZE | {"state_size": 8, "time_step_rank": 8},
    "qwen3_next": _MLP | _DELTA | _MIXED | _EXPERTS,
    "qwen3_5_text": _MLP | _DELTA | _MIXED,
    "jamba": _MLP | {"attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 2, "mamba_d_state": 8,
                     "mamba_dt_rank": 8},
    "bamba": _MLP | _MAMBA | {"attn_layer_indices": [1]},
    "lfm2": _MLP | {"layer_types": ["conv", "full_attention"]},
    "falcon_h1": _MLP | _MAMBA | {"mamba_d_ssm": 64},
}  # fmt: skip


def made(kind: str, shape: dict[str, Any]) -> PreTrainedModel:
    torch.manual_seed(0)
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **shape, **ids)).float().eval()


@pytest.mark.parametrize("kind", STATEFUL)
@torch.no_grad()
def test_recurrent_states_equal_those_of_single_rows(kind: str) -> None:
    model = made(kind, STATEFUL[kind])
    step, rows = Stepper(model, PROMPTS, 0), [list(prompt) for prompt in PROMPTS]
    logits = step.logits
    for t in range(8):
        for row, found in zip(rows, logits, strict=True):
            plain = model(torch.tensor([row]), use_cache=False).logits[0, -1]
            torch.testing.assert_close(found, plain, rtol=1e-3, atol=1e-3)
        assert float(logits.std()) > 0.1
        if t == 3:  # the longest row leaves
            step.keep(torch.tensor([1, 2, 3]))
            rows = rows[1:4]
        tokens = torch.arange(len(rows)) + 100 + t
        for row, token in zip(rows, tokens.tolist(), strict=True):
            row.append(token)
        logits = step(tokens)


@pytest.mark.parametrize("kind", STATEFUL)
@torch.no_grad()
def test_logprobs_from_recurrent_states_equal_those_of_the_padded_training_forward(kind: str) -> None:
    policy = Policy(made(kind, STATEFUL[kind]))
    chance = torch.Generator().manual_seed(0)
    out = generate(policy.model, PROMPTS, end_ids=frozenset({2}), max_tokens=6, temperature=0.9, generator=chance)
    batch = pad(PROMPTS, out.tolist(), pad_id=0)
    training = response_logprobs(policy, batch, temperature=0.9).logprobs
    torch.testing.assert_close(training, out.logprobs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["gpt2", "bloom", "qwen3"])
@torch.no_grad()
def test_rows_that_join_later_get_the_logits_of_a_plain_forward(kind: str, make_config: MakeConfig) -> None:
    model = load_policy(make_config(kind)).model
    rows = [list(prompt) for prompt in (*PROMPTS[1:3], PROMPTS[0])]
    step = Stepper(model, rows[:2], 0)
    for row in rows[:2]:
        row.append(15)
    step(torch.full((2,), 15))
    assert step.join(Stepper(model, rows[2:], 0))
    for token in range(20, 25):
        found = step(torch.full((3,), token))
        for row, logits in zip(rows, found, strict=True):
            row.append(token)
            plain = model(torch.tensor([row]), use_cache=False).logits[0, -1]
            torch.testing.assert_close(logits, plain, rtol=1e-3, atol=1e-3)


def test_states_and_windows_are_not_joined(make_config: MakeConfig) -> None:
    with torch.no_grad():
        model = made("mamba", STATEFUL["mamba"])
        step, other = Stepper(model, PROMPTS[:2], 0), Stepper(model, PROMPTS[2:], 0)
    assert not step.join(other)
    assert len(step.mask) == 2


class Renames(LlamaForCausalLM):
    """A model that takes its cache under an earlier name in transformers."""

    def forward(self, input_ids: Any, attention_mask: Any = None, position_ids: Any = None, cache_params: Any = None,
                **more: Any) -> Any:  # fmt: skip
        return super().forward(input_ids, attention_mask, position_ids, cache_params, **more)


class Swallows(LlamaForCausalLM):
    """A model that takes a cache and does not fill it."""

    def forward(self, input_ids: Any, attention_mask: Any = None, position_ids: Any = None, cache: Any = None,
                **more: Any) -> Any:  # fmt: skip
        return super().forward(input_ids, position_ids=position_ids)


class TakesNone(LlamaForCausalLM):
    """A model that ignores all further arguments."""

    def forward(self, input_ids: Any, **more: Any) -> Any:
        return super().forward(input_ids)


def of_class(kind: type, make_config: MakeConfig) -> PreTrainedModel:
    model = load_policy(make_config("llama")).model
    model.__class__ = kind
    return model


@torch.no_grad()
def test_the_cache_is_passed_under_the_name_that_the_model_uses(make_config: MakeConfig) -> None:
    model = of_class(Renames, make_config)
    step = Stepper(model, PROMPTS, 0)
    found = step(torch.full((len(PROMPTS),), 5))
    for row, logits in zip(PROMPTS, found, strict=True):
        plain = LlamaForCausalLM.forward(model, torch.tensor([[*row, 5]])).logits[0, -1]
        torch.testing.assert_close(logits, plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("kind", "message"), [(Swallows, "left 0 of 1"), (TakesNone, "takes no cache")])
def test_a_cache_that_does_not_grow_is_refused(kind: type, message: str, make_config: MakeConfig) -> None:
    with pytest.raises(InputError, match=message):
        Stepper(of_class(kind, make_config), [[6]], 0)
