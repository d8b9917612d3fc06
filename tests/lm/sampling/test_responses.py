"""Responses as tokens and as text."""

from collections.abc import Callable

import pytest
import torch

from tercet.config.lm import LmConfig
from tercet.lm.data.examples import Example
from tercet.lm.models.logprobs import response_logprobs
from tercet.lm.models.roles import Policy, load_policy
from tercet.lm.sampling.responses import Responses, respond, respond_all
from tercet.lm.text.encoder import Encoder

MakeConfig = Callable[..., LmConfig]


def sampled(policy: Policy, encoder: Encoder, examples: list[Example], temperature: float = 1.0) -> Responses:
    return respond(
        policy,
        encoder,
        examples,
        generator=torch.Generator().manual_seed(0),
        temperature=temperature,
        max_tokens=encoder.max_response_tokens,
    )


def test_tokens_texts_and_logprobs_match(make_config: MakeConfig, examples: list[Example]) -> None:
    config = make_config("gpt2")
    policy, encoder = load_policy(config), Encoder.of(config)
    responses = sampled(policy, encoder, examples)
    assert responses.prompts == [example.prompt for example in examples]
    for i, example in enumerate(examples):
        ids, start, end = (
            responses.batch.ids[i].tolist(),
            int(responses.batch.prompt_lengths[i]),
            int(responses.batch.lengths[i]),
        )
        assert ids[:start] == encoder.prompt(example)
        text = encoder.tokenizer.decode([token for token in ids[start:end] if token > 2]).strip()
        assert responses.texts[i] == text
        assert bool(responses.ended[i]) == (ids[end - 1] == 2)
    with torch.no_grad():
        logprobs = response_logprobs(policy, responses.batch, temperature=1.0).logprobs
    assert responses.logprobs.shape == responses.batch.response_mask.shape
    assert torch.allclose(logprobs, responses.logprobs, atol=5e-5)


def test_batches_do_not_change_greedy_responses(make_config: MakeConfig, examples: list[Example]) -> None:
    config = make_config("llama")
    policy, encoder = load_policy(config), Encoder.of(config)
    texts = []
    for batch_size in (1, 4, 6):
        batches = respond_all(
            policy,
            encoder,
            examples,
            generator=torch.Generator().manual_seed(batch_size),
            temperature=0.0,
            max_tokens=6,
            batch_size=batch_size,
            title="greedy",
        )
        assert [len(part.texts) for part in batches] == {1: [1] * 6, 4: [4, 2], 6: [6]}[batch_size]
        texts.append([text for part in batches for text in part.texts])
    assert texts[0] == texts[1] == texts[2]


def test_sampling_switches_to_evaluation_mode(make_config: MakeConfig, examples: list[Example]) -> None:
    config = make_config("gpt2", lora={"rank": 2})
    policy, encoder = load_policy(config, learns=True, lora_dropout=0.9), Encoder.of(config)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            parameter.data.fill_(0.3)
    first = sampled(policy.train(), encoder, examples).texts
    assert sampled(policy.train(), encoder, examples).texts == first


def test_gradient_checkpointing_does_not_disable_the_cache(make_config: MakeConfig, examples: list[Example]) -> None:
    """In training mode with checkpointing, transformers turns the cache off, and responses would be wrong."""
    texts = []
    for on in (False, True):
        config = make_config("llama", model={"gradient_checkpointing": on})
        policy = load_policy(config, learns=True).train()
        texts.append(sampled(policy, Encoder.of(config), examples, temperature=0.0).texts)
    assert texts[0] == texts[1]


def test_a_response_at_the_limit_is_cut_off_and_not_ended(make_config: MakeConfig, examples: list[Example]) -> None:
    config = make_config("opt", data={"max_response_tokens": 1})
    responses = sampled(load_policy(config), Encoder.of(config), examples)
    assert responses.batch.response_mask.shape == (6, 1) and responses.batch.response_mask.all()
    first = responses.batch.ids[torch.arange(6), responses.batch.prompt_lengths]
    assert responses.ended.tolist() == first.eq(2).tolist()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_logprobs_are_fp32_in_any_precision(make_config: MakeConfig, examples: list[Example], precision: str) -> None:
    config = make_config("llama", precision=precision)
    assert sampled(load_policy(config), Encoder.of(config), examples).logprobs.dtype == torch.float32
