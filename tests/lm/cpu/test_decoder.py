"""The decoder gives the logits of transformers' forward at every token, with adapters and when rows leave the batch."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tercet.config.lm import LmConfig
from tercet.lm.cpu import decoder
from tercet.lm.cpu.decoder import Decoder, can_decode
from tercet.lm.cpu.packed import packed
from tercet.lm.models.roles import Policy, load_policy
from tercet.lm.sampling.stepper import Stepper

MakeConfig = Callable[..., LmConfig]
Disturbed = Callable[[LmConfig], Policy]

KNOWN = ["opt", "opt-350m", "llama", "qwen2"]
PROMPTS = [[5, 9, 7, 30, 11, 2, 8], [6], [2, 2, 40], [77, 78, 79, 80, 81], [6]]


@torch.no_grad()
def largest_difference(policy: Policy, prompts: list[list[int]], leave: dict[int, list[int]]) -> float:
    """Return the differences of the logits over nine tokens; `leave` maps a token to the rows that stay."""
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
def test_the_logits_equal_those_of_transformers(
    kind: str, lora: dict[str, Any], make_config: MakeConfig, disturbed: Disturbed
) -> None:
    policy = disturbed(make_config(kind, lora=lora))
    assert can_decode(policy.model, len(PROMPTS))
    assert largest_difference(policy, PROMPTS, {}) < 2e-4


@pytest.mark.parametrize("kind", KNOWN)
def test_columns_that_only_removed_rows_needed_are_removed(
    kind: str, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder, "_NEW_COLUMNS", 2)  # so that the cache grows on the way as well
    policy = load_policy(make_config(kind))
    leave = {2: [1, 2, 3, 4], 5: [0, 1]}  # the longest row first
    assert largest_difference(policy, PROMPTS, leave) < 2e-4
    assert largest_difference(policy, [PROMPTS[0][:3], PROMPTS[2]], {4: [1]}) < 2e-4  # of one length: nothing is hidden


def test_disabled_adapters_have_no_effect(make_config: MakeConfig, disturbed: Disturbed) -> None:
    policy = disturbed(make_config("llama", lora={"rank": 2}))
    with policy.without_adapters():
        assert largest_difference(policy, PROMPTS, {}) < 2e-4


def test_unsupported_models_are_not_decoded(make_config: MakeConfig) -> None:
    for kind in ("gpt2", "bloom", "qwen3", "gpt_neox"):
        assert not can_decode(load_policy(make_config(kind)).model, 4)
    shape = make_config("qwen2").model.architecture
    windowed = shape | {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
    assert not can_decode(load_policy(make_config("qwen2", model={"architecture": windowed})).model, 4)


@pytest.mark.parametrize("kind", ["opt", "llama"])
@torch.no_grad()
def test_rows_that_join_later_and_the_rows_before_get_the_logits_of_a_batch_of_their_own(
    kind: str, make_config: MakeConfig
) -> None:
    policy = load_policy(make_config(kind))
    network = decoder.network_of(policy.model, 4)
    first, second = PROMPTS[1:3], PROMPTS[3:]
    for early, late in ((first, PROMPTS[:1]), (PROMPTS[:1], second)):  # a longer row joins, then shorter ones
        one, other = (Decoder(policy.model, prompts, network) for prompts in (early, late))
        alone = [Decoder(policy.model, prompts) for prompts in (early, late)]
        for decoders in ((one,), (alone[0],)):
            for token in (11, 12, 13):
                decoders[0](torch.full((len(early),), token))
        assert one.join(other)
        for token in range(20, 26):
            joined = one(torch.full((len(early) + len(late),), token))
            apart = torch.cat([single(torch.full((len(single.lengths),), token)) for single in alone])
            torch.testing.assert_close(joined, apart, rtol=0, atol=2e-4)
        assert float(joined.std()) > 0.1


LLAMA_ROPES = {
    "linear": {"factor": 4.0},
    "llama3": {
        "factor": 4.0,
        "original_max_position_embeddings": 16,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
    },
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 16},
    "default": {"partial_rotary_factor": 0.5},
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "wide heads": ("llama", {"head_dim": 24}),
    "gelu": ("llama", {"hidden_act": "gelu_pytorch_tanh"}),
    "tied": ("llama", {"tie_word_embeddings": True}),
    "no biases": ("opt", {"enable_bias": False, "layer_norm_elementwise_affine": False}),
    "OPT gelu": ("opt", {"activation_function": "gelu"}),
    "no last norm": ("opt", {"_remove_final_layer_norm": True}),
    "untied": ("opt", {"tie_word_embeddings": False}),
    "window in no layer": ("qwen2", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2}),
    **{f"rope {kind}": ("llama", {"rope_parameters": {"rope_type": kind, "rope_theta": 1e4} | more})
       for kind, more in LLAMA_ROPES.items()},
}  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_of_the_config_equals_the_forward_without_a_cache(variant: str, make_config: MakeConfig) -> None:
    kind, more = VARIANTS[variant]
    shape = dict(make_config(kind).model.architecture) | more
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(shape.pop("model_type"), **shape)).eval()
    for parameter in model.parameters():  # norms and biases too
        parameter.data.add_(0.2 * torch.randn(parameter.shape))
    assert can_decode(model, len(PROMPTS))
    rows = [list(prompt) for prompt in PROMPTS]
    with torch.no_grad():
        step = Decoder(model, PROMPTS)
        logits = step.logits
        for t in range(12):
            for row, found in zip(rows, logits, strict=True):
                torch.testing.assert_close(found, model(torch.tensor([row])).logits[0, -1], rtol=1e-4, atol=2e-4)
                row.append(7 + t)
            logits = step(torch.full((len(rows),), 7 + t))


def test_models_with_hooks_or_other_forwards_are_not_decoded(make_config: MakeConfig) -> None:
    model = load_policy(make_config("llama")).model
    assert can_decode(model, 4)
    hook = model.model.layers[1].mlp.register_forward_hook(lambda _m, _i, out: 0.5 * out)
    assert not can_decode(model, 4)
    hook.remove()
    model.lm_head.forward = lambda x: 0.5 * torch.nn.functional.linear(x, model.lm_head.weight)
    assert not can_decode(model, 4)


def test_decoding_does_not_change_the_model(make_config: MakeConfig) -> None:
    policy = load_policy(make_config("opt"))
    before = {name: value.clone() for name, value in policy.model.state_dict().items()}
    largest_difference(policy, PROMPTS, {})
    with packed(policy.model, 2):
        pass
    assert all(torch.equal(value, before[name]) for name, value in policy.model.state_dict().items())
