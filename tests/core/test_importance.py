"""Truncated importance weights: by hand, and the property that they are for."""

import math

import pytest
import torch

from tercet.core.importance import truncated_weights

ALL = torch.ones(1, 4, dtype=torch.bool)


def test_weights_are_ratios_of_probabilities_up_to_the_cap() -> None:
    policy = torch.tensor([[0.5, 0.2, 0.9, 0.1]]).log()
    sampler = torch.tensor([[0.5, 0.4, 0.1, 0.06]]).log()
    weights = truncated_weights(policy, sampler, ALL, cap=2.0)
    assert weights[0].tolist() == pytest.approx([1.0, 0.5, 2.0, 0.1 / 0.06], rel=1e-6)


def test_padding_has_weight_one_whatever_it_holds() -> None:
    junk = torch.tensor([[0.0, float("inf"), float("nan"), -1e30]])
    mask = torch.tensor([[True, False, False, False]])
    assert truncated_weights(junk, -junk, mask, cap=2.0).tolist() == [[1.0, 1.0, 1.0, 1.0]]


def test_weighted_samples_of_another_distribution_have_the_policys_mean() -> None:
    policy, sampler = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.3, 0.3, 0.4])
    drawn = torch.multinomial(sampler, 200_000, replacement=True, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(1, len(drawn), dtype=torch.bool)
    weights = truncated_weights(policy.log()[drawn][None], sampler.log()[drawn][None], mask, cap=2.0)
    value = torch.tensor([1.0, 10.0, 100.0])
    assert float((weights[0] * value[drawn]).mean()) == pytest.approx(float(policy @ value), rel=0.01)


def test_weights_of_bf16_log_probabilities_are_computed_in_fp32() -> None:
    low = torch.full((1, 4), math.log(0.5)).bfloat16()
    assert truncated_weights(low, low, ALL, cap=2.0).dtype == torch.float32
