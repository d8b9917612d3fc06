"""Packed layers compute what the plain ones compute, adapters included, and leave no trace."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tercet.config.lm import LmConfig
from tercet.lm import packed as module
from tercet.lm.models import Policy, load_policy
from tercet.lm.packed import packed

MakeConfig = Callable[..., LmConfig]
Disturbed = Callable[[LmConfig], Policy]
IDS = torch.tensor([[5, 9, 7, 30], [6, 2, 8, 40]])


def shadowed(policy: Policy) -> list[str]:
    """Names of the layers that compute otherwise than their class does."""
    return [name for name, layer in policy.named_modules() if "forward" in vars(layer)]


@torch.no_grad()
def logits(policy: Policy) -> Tensor:
    return policy.model(IDS).logits


@pytest.mark.parametrize("lora", [{"rank": 0}, {"rank": 2}, {"rank": 2, "only": False}], ids=["full", "lora", "head"])
def test_the_numbers_are_those_of_the_plain_layers(
    architecture: str, make_config: MakeConfig, lora: dict[str, Any], disturbed: Disturbed
) -> None:
    policy = disturbed(make_config(architecture, lora=lora))
    plain = logits(policy)
    with packed(policy.model, 2):
        assert len(shadowed(policy)) > 4
        assert torch.allclose(logits(policy), plain, atol=1e-5)
    assert not shadowed(policy)
    assert torch.equal(logits(policy), plain)


def test_adapters_that_are_off_stay_off(make_config: MakeConfig, disturbed: Disturbed) -> None:
    policy = disturbed(make_config("llama", lora={"rank": 2}))
    with policy.without_adapters():
        plain = logits(policy)
        with packed(policy.model, 2):
            assert torch.allclose(logits(policy), plain, atol=1e-5)
    assert not torch.allclose(logits(policy), plain, atol=1e-3)


def test_what_was_learned_meanwhile_is_seen_the_next_time(make_config: MakeConfig, disturbed: Disturbed) -> None:
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


def test_an_error_inside_leaves_the_plain_layers(make_config: MakeConfig) -> None:
    policy = load_policy(make_config("gpt2"))
    with pytest.raises(KeyError), packed(policy.model, 2):
        raise KeyError
    assert not shadowed(policy)


def test_where_it_does_not_pay_nothing_happens(make_config: MakeConfig) -> None:
    policy = load_policy(make_config("gpt2"))
    with packed(policy.model, module.MOST_ROWS + 1):
        assert not shadowed(policy)
    low = load_policy(make_config("gpt2", precision="bf16"))
    with low.autocast(), packed(low.model, 2):
        assert not shadowed(low)
