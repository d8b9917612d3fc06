"""The weights of advantage-weighted regression by hand, against a slow version, and what they must not depend on."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tercet.core.awr import advantage_weights

ADVANTAGES = st.lists(st.floats(-5.0, 5.0), min_size=1, max_size=8)


def test_the_weights_by_hand() -> None:
    advantages = torch.tensor([0.0, math.log(2), -math.log(2), 100.0])
    assert advantage_weights(advantages, beta=0.5, cap=20.0).tolist() == pytest.approx([1.0, 4.0, 0.25, 20.0])


@given(ADVANTAGES, st.floats(0.1, 5.0), st.floats(1.0, 50.0))
def test_the_weights_agree_with_a_slow_version(advantages: list[float], beta: float, cap: float) -> None:
    weights = advantage_weights(torch.tensor(advantages, dtype=torch.float64), beta=beta, cap=cap)
    expected = [min(math.exp(advantage / beta), cap) for advantage in advantages]
    assert weights.tolist() == pytest.approx(expected, rel=1e-9)


@given(ADVANTAGES, st.floats(-1.0, 1.0), st.floats(0.1, 5.0))
def test_a_constant_more_in_every_advantage_changes_no_share(advantages: list[float], more: float, beta: float) -> None:
    """As long as the cap is not reached: rows are drawn in proportion to the weights."""
    first = advantage_weights(torch.tensor(advantages, dtype=torch.float64), beta=beta, cap=1e30)
    second = advantage_weights(torch.tensor(advantages, dtype=torch.float64) + more, beta=beta, cap=1e30)
    assert (second / second.sum()).tolist() == pytest.approx((first / first.sum()).tolist(), rel=1e-6)


def test_a_huge_advantage_has_the_weight_of_the_cap() -> None:
    assert advantage_weights(torch.tensor([1e30, -1e30]), beta=1e-3, cap=20.0).tolist() == pytest.approx([20.0, 0.0])


def test_the_weights_of_bf16_advantages_are_in_fp32() -> None:
    weights = advantage_weights(torch.tensor([1.0]).bfloat16(), beta=0.3, cap=100.0)
    assert weights.dtype == torch.float32
    assert weights.item() == pytest.approx(math.exp(1 / 0.3), rel=1e-5)
