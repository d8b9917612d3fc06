"""A sampler that draws from another distribution than the model's is refused at its first batch."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from tercet.config.lm import LmConfig
from tercet.errors import FailedError
from tercet.lm.cpu.decoder import Decoder
from tercet.lm.models.roles import load_policy
from tercet.lm.sampling import sampling_check
from tercet.lm.sampling.generate import SampledTokens, generate

MakeConfig = Callable[..., LmConfig]
PROMPTS = [[5, 9, 7, 30, 11, 2, 8], [6], [2, 2, 40]]


@pytest.fixture(autouse=True)
def nothing_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling_check, "_checked", set())


def drawn(model: Any, temperature: float = 1.0, prompts: list[list[int]] = PROMPTS) -> SampledTokens:
    chance = torch.Generator().manual_seed(0)
    return generate(model, prompts, end_ids=frozenset({2}), max_tokens=6, temperature=temperature, generator=chance)


class ForgetsPositions(LlamaForCausalLM):
    """A model that fills its cache and treats padding as tokens."""

    def forward(self, input_ids: Any, attention_mask: Any = None, cache: Any = None, **more: Any) -> Any:
        return super().forward(input_ids, cache=cache, use_cache=True)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_model_that_depends_on_padding_is_refused(make_config: MakeConfig, temperature: float) -> None:
    model = load_policy(make_config("llama")).model
    drawn(model, temperature)
    model.__class__ = ForgetsPositions
    with pytest.raises(FailedError, match=r"ForgetsPositions \(Stepper\): .* differ from those of a plain forward by"):
        drawn(model, temperature)


class LosesLong(LlamaForCausalLM):
    """A model that gives nan for a long text without a cache."""

    def forward(
        self,
        input_ids: Any,
        attention_mask: Any = None,
        position_ids: Any = None,
        cache: Any = None,
        use_cache: bool = True,
    ) -> Any:
        given = {"attention_mask": attention_mask, "position_ids": position_ids, "cache": cache}
        out = super().forward(input_ids, use_cache=use_cache, **given)
        if not use_cache and input_ids.shape[1] > max(map(len, PROMPTS)):
            out.logits = out.logits * float("nan")
        return out


def test_nan_is_refused(make_config: MakeConfig) -> None:
    model = load_policy(make_config("llama")).model
    model.__class__ = LosesLong
    for prompts in (PROMPTS, PROMPTS[::-1]):  # whichever row is looked at first
        with pytest.raises(FailedError, match="differ from those of a plain forward by nan"):
            drawn(model, prompts=prompts)


def test_the_fast_path_is_checked_too(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_policy(make_config("llama")).model
    monkeypatch.setattr(Decoder, "_hidden_columns", lambda _: None)
    with pytest.raises(FailedError, match=r"LlamaForCausalLM \(Decoder\)"):
        drawn(model)


def test_the_check_runs_once_per_kind_of_model_and_changes_nothing(make_config: MakeConfig) -> None:
    plain: list[Tensor] = []

    def count(model: Any) -> None:
        model.register_forward_hook(lambda _m, args, _out: plain.append(args[0]))

    model = load_policy(make_config("llama")).model
    count(model)  # a hook that changes no numbers, but the fast path leaves such a model to the other
    before = torch.get_rng_state()
    first = drawn(model)
    num = len(plain)
    second = drawn(model)
    assert len(plain) - num == num - 2  # the shortest and the longest prompt, once
    assert torch.equal(first.ids, second.ids) and torch.equal(first.logprobs, second.logprobs)
    assert torch.equal(before, torch.get_rng_state())
    other = load_policy(make_config("qwen2")).model
    drawn(other)
    assert len(sampling_check._checked) == 2
