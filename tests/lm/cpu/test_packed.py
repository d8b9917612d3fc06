"""Packed layers compute the same as plain ones, with adapters, and are restored afterwards."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from tercet.config.lm import LmConfig
from tercet.lm.cpu import packed as module
from tercet.lm.cpu.packed import packed
from tercet.lm.models.roles import Policy, load_policy

MakeConfig = Callable[..., LmConfig]
Disturbed = Callable[[LmConfig], Policy]
IDS = torch.tensor([[5, 9, 7, 30], [6, 2, 8, 40]])


def shadowed(policy: Policy) -> list[str]:
    """Return the names of the layers whose forward was replaced."""
    return [name for name, layer in policy.named_modules() if "forward" in vars(layer)]


@torch.no_grad()
def logits(policy: Policy) -> Tensor:
    return policy.model(IDS).logits


@pytest.mark.parametrize("lora", [{"rank": 0}, {"rank": 2}, {"rank": 2, "only": False}], ids=["full", "lora", "head"])
def test_numbers_equal_those_of_the_plain_layers(
    architecture: str, make_config: MakeConfig, lora: dict[str, Any], disturbed: Disturbed
) -> None:
    policy = disturbed(make_config(architecture, lora=lora))
    plain = logits(policy)
    with packed(policy.model, 2):
        assert len(shadowed(policy)) > 4
        assert torch.allclose(logits(policy), plain, atol=1e-5)
    assert not shadowed(policy)
    assert torch.equal(logits(policy), plain)


def test_disabled_adapters_have_no_effect(make_config: MakeConfig, disturbed: Disturbed) -> None:
    policy = disturbed(make_config("llama", lora={"rank": 2}))
    with policy.without_adapters():
        plain = logits(policy)
        with packed(policy.model, 2):
            assert torch.allclose(logits(policy), plain, atol=1e-5)
    assert not torch.allclose(logits(policy), plain, atol=1e-3)


def test_packing_again_uses_the_changed_weights(make_config: MakeConfig, disturbed: Disturbed) -> None:
    policy = disturbed(make_config("gpt2", lora={"rank": 2}))
    with packed(policy.model, 2):
        before = logits(policy)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.mul_(-3.0)
    with packed(policy.model, 2):
        assert not torch.allclose(logits(policy), before, atol=1e-3)
        assert torch.allclose(logits(policy), logits(policy), atol=1e-6)


def test_plain_layers_are_restored_after_an_error(make_config: MakeConfig) -> None:
    policy = load_policy(make_config("gpt2"))
    with pytest.raises(KeyError), packed(policy.model, 2):
        raise KeyError
    assert not shadowed(policy)


def test_nothing_is_packed_where_it_would_not_be_faster(make_config: MakeConfig) -> None:
    policy = load_policy(make_config("gpt2"))
    with packed(policy.model, module.MOST_ROWS + 1):
        assert not shadowed(policy)
    low = load_policy(make_config("gpt2", precision="bf16"))
    with low.autocast(), packed(low.model, 2):
        assert not shadowed(low)


class Scaled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * super().forward(x)


@pytest.mark.parametrize("what", ["subclass", "hook"])
def test_a_layer_that_is_more_than_a_product_is_not_packed(what: str, make_config: MakeConfig) -> None:
    policy = load_policy(make_config("gpt2"))
    head = policy.model.lm_head
    if what == "subclass":
        head.__class__ = Scaled
    else:
        head.register_forward_hook(lambda _m, _i, out: 0.5 * out)
    plain = logits(policy)
    with packed(policy.model, 2):
        assert not any("lm_head" in name for name in shadowed(policy))
        assert torch.allclose(logits(policy), plain, atol=1e-5)


def test_a_router_that_subclasses_linear_is_not_packed() -> None:
    shape = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "num_local_experts": 4, "initializer_range": 0.3}
    ids = {"bos_token_id": 1, "eos_token_id": 2}
    torch.manual_seed(0)
    policy = Policy(AutoModelForCausalLM.from_config(AutoConfig.for_model("phimoe", **shape, **heads, **ids)).eval())
    plain = logits(policy)
    with packed(policy.model, 2):
        assert not any("router" in name for name in shadowed(policy)) and len(shadowed(policy)) > 4
        assert torch.allclose(logits(policy), plain, atol=1e-4)


def test_adapters_other_than_plain_lora_are_not_packed() -> None:
    torch.manual_seed(0)
    settings = LoraConfig(r=2, use_dora=True, target_modules=["0"])
    model = get_peft_model(nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4)), settings)  # type: ignore[arg-type]  # any module will do
    for name, parameter in model.named_parameters():
        if "lora" in name:
            parameter.data.normal_()
    x = torch.ones(2, 6)
    with torch.no_grad():
        plain = model(x)
        with packed(model, 2):
            assert torch.allclose(model(x), plain, atol=1e-5)
