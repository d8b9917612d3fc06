"""The unpadded forward has the numbers and gradients of the padded batch."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tercet.config.lm import LmConfig
from tercet.lm.batch import TokenBatch, pad
from tercet.lm.cpu.prefixes import Prefixes
from tercet.lm.cpu.unpadded import can_be_unpadded, unpadded_hidden
from tercet.lm.models import roles
from tercet.lm.models.logprobs import response_logprobs
from tercet.lm.models.roles import load_policy, load_score_model

MakeConfig = Callable[..., LmConfig]


def numbers_and_gradients(config: LmConfig, batch: TokenBatch) -> list[Tensor]:
    """Return outputs and gradients of a policy and a score model."""
    policy, model = load_policy(config, learns=True).train(), load_score_model(config, learns=True).train()
    out, scores = response_logprobs(policy, batch, temperature=0.9), model(batch)
    kept = scores.masked_fill(batch.attention_mask == 0, 0.0)
    (out.logprobs.sum() + out.entropy.sum() + kept.square().sum()).backward()
    grads = [p.grad for m in (policy, model) for p in m.parameters() if p.grad is not None]
    return [out.logprobs, out.entropy, kept, *grads]


def check(config: LmConfig, batch: TokenBatch, monkeypatch: pytest.MonkeyPatch) -> None:
    without = numbers_and_gradients(config, batch)
    with monkeypatch.context() as patched:
        patched.setattr(roles, "can_be_unpadded", lambda _: False)
        patched.setattr(roles, "like_lengths", lambda lengths: [list(range(len(lengths)))])
        padded = numbers_and_gradients(config, batch)
    for ours, theirs in zip(without, padded, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * max(1.0, float(theirs.detach().abs().max())))


def test_numbers_and_gradients_equal_those_of_the_padded_batch(
    architecture: str, make_config: MakeConfig, batch: TokenBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(architecture)
    assert can_be_unpadded(load_policy(config).model) == (architecture != "bloom")
    check(config, batch, monkeypatch)


@pytest.mark.parametrize("architecture", ["opt", "llama"])
def test_a_recomputed_layer_is_unpadded_in_the_backward_pass_too(
    architecture: str, make_config: MakeConfig, batch: TokenBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(make_config(architecture, model={"gradient_checkpointing": True}), batch, monkeypatch)


def test_with_adapters(make_config: MakeConfig, batch: TokenBatch, monkeypatch: pytest.MonkeyPatch) -> None:
    for only in (True, False):
        check(make_config("llama", lora={"rank": 2, "only": only}), batch, monkeypatch)


def test_grouped_query_attention(make_config: MakeConfig, batch: TokenBatch, monkeypatch: pytest.MonkeyPatch) -> None:
    grouped = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    shape = make_config("llama").model.architecture | grouped
    check(make_config("llama", model={"architecture": shape}), batch, monkeypatch)


def test_padding_is_not_computed(make_config: MakeConfig, batch: TokenBatch) -> None:
    model = load_policy(make_config("opt")).model
    seen: list[torch.Size] = []
    model.model.decoder.layers[1].fc1.register_forward_hook(lambda _module, _inputs, out: seen.append(out.shape[:-1]))
    states = unpadded_hidden(model, batch, Prefixes.of(batch.sequences))
    assert [shape.numel() for shape in seen] == [int(batch.lengths.sum())] != [batch.ids.numel()]
    assert states[batch.attention_mask == 0].eq(0).all()


def test_the_attention_of_the_model_is_restored(make_config: MakeConfig, batch: TokenBatch) -> None:
    model = load_policy(make_config("gpt2")).model
    before = model.config._attn_implementation
    unpadded_hidden(model, batch, Prefixes.of(batch.sequences))
    assert model.config._attn_implementation == before
    too_long = pad([[5] * 100], [[6]], pad_id=0)  # of 64 positions
    with pytest.raises(IndexError):
        unpadded_hidden(model, too_long, Prefixes.of(too_long.sequences))
    assert model.config._attn_implementation == before


def test_a_model_with_a_window_is_padded(make_config: MakeConfig) -> None:
    shape = make_config("qwen2").model.architecture | {
        "use_sliding_window": True,
        "sliding_window": 4,
        "max_window_layers": 0,
    }
    assert not can_be_unpadded(load_policy(make_config("qwen2", model={"architecture": shape})).model)
