"""A policy with what sampling from it needs."""

from collections.abc import Callable
from dataclasses import replace

import torch

from tercet.config.lm import LmConfig
from tercet.lm.data.examples import Example
from tercet.lm.models.roles import load_policy
from tercet.lm.sampling.sampler import Sampler
from tercet.lm.text.encoder import Encoder


def test_responses_have_the_length_of_ppo_unless_stated(
    make_config: Callable[..., LmConfig], examples: list[Example], chance: torch.Generator
) -> None:
    config = make_config(data={"max_response_tokens": 3}, ppo={"max_response_tokens": 5})
    sampler = Sampler(load_policy(config), Encoder.of(config), temperature=0.0, batch_size=4)
    assert sampler.sample(examples, chance).batch.response_mask.shape[1] <= 5
    parts = sampler.sample_all(examples, chance, title="responses", max_tokens=2)
    assert [len(part.texts) for part in parts] == [4, 2]
    assert max(part.batch.response_mask.shape[1] for part in parts) <= 2


def test_temperature_0_is_greedy(make_config: Callable[..., LmConfig], examples: list[Example]) -> None:
    config = make_config()
    sampler = Sampler(load_policy(config), Encoder.of(config), temperature=0.0, batch_size=6)

    def texts(sampler: Sampler, seed: int) -> list[str]:
        return sampler.sample(examples, torch.Generator().manual_seed(seed)).texts

    assert texts(sampler, 0) == texts(sampler, 1)
    hot = replace(sampler, temperature=2.0)
    assert texts(hot, 0) != texts(hot, 1)
