"""Advantages of groups: by hand, against slow versions, and what must not be made of rounding."""

import statistics
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tercet.core.groups import deviations, is_equal, leave_one_out, standardised

SEEDS = st.integers(0, 2**31)
SIZES = st.integers(2, 9)
Estimator = Callable[..., Tensor]
ALL: list[Estimator] = [deviations, leave_one_out, standardised]


def returns_of(seed: int, group_size: int, num: int = 3) -> Tensor:
    return torch.randn(num * group_size, generator=torch.Generator().manual_seed(seed))


def test_two_groups_by_hand():
    returns = torch.tensor([1.0, 2.0, 6.0, 0.0, 0.0, -3.0])  # means 3 and -1
    assert deviations(returns, group_size=3).tolist() == [-2.0, -1.0, 3.0, 1.0, 1.0, -2.0]
    assert leave_one_out(returns, group_size=3).tolist() == [-3.0, -1.5, 4.5, 1.5, 1.5, -3.0]
    # variances (4 + 1 + 9) / 2 = 7 and (1 + 1 + 4) / 2 = 3
    expected = [-2.0 / (7**0.5 + 1e-4), -1.0 / (7**0.5 + 1e-4), 3.0 / (7**0.5 + 1e-4)]
    assert standardised(returns, group_size=3)[:3].tolist() == pytest.approx(expected, rel=1e-6)
    assert standardised(returns, group_size=3)[5].item() == pytest.approx(-2.0 / (3**0.5 + 1e-4), rel=1e-6)


@given(SEEDS, SIZES)
def test_they_agree_with_slow_versions(seed: int, size: int):
    returns = returns_of(seed, size)
    rows = returns.double().tolist()
    for i, value in enumerate(rows):
        group = rows[i // size * size : i // size * size + size]
        others = [other for j, other in enumerate(rows) if j // size == i // size and j != i]
        mean, std = statistics.fmean(group), statistics.stdev(group)
        assert deviations(returns, group_size=size)[i].item() == pytest.approx(value - mean, abs=1e-5)
        found = leave_one_out(returns, group_size=size)[i].item()
        assert found == pytest.approx(value - statistics.fmean(others), abs=1e-5)
        found = standardised(returns, group_size=size)[i].item()
        assert found == pytest.approx((value - mean) / (std + 1e-4), abs=1e-4)


@pytest.mark.parametrize("estimator", ALL)
@given(seed=SEEDS, size=SIZES)
def test_a_group_sums_to_0_and_sees_only_itself(estimator: Estimator, seed: int, size: int):
    returns = returns_of(seed, size)
    before = estimator(returns, group_size=size)
    assert before.view(-1, size).sum(1).abs().max() < 1e-4
    changed = returns.clone()
    changed[size:] += torch.arange(len(changed) - size)
    after = estimator(changed, group_size=size)
    assert torch.equal(before[:size], after[:size]) and not torch.equal(before[size:], after[size:])


@pytest.mark.parametrize("estimator", ALL)
def test_rewards_that_differ_by_rounding_are_worth_nothing(estimator: Estimator):
    """Divided by their own spread they would be +-1."""
    nearly = torch.tensor([3.0, 3.0 + 1e-6, 3.0 - 1e-6, 3.0, 0.1, 0.1, 0.1 + 3e-8, 0.1, 0.0, 0.0, 0.0, 0.0])
    nearly = torch.cat([nearly, -nearly])
    assert is_equal(nearly, group_size=4).all()
    assert estimator(nearly, group_size=4).eq(0).all()


def test_a_small_but_real_difference_counts():
    returns = torch.tensor([1.0, 1.01, 0.0, 1e-3])
    assert is_equal(returns, group_size=2).tolist() == [False, False]
    assert standardised(returns, group_size=2).abs().min() > 0.6


def test_tiny_differences_near_0_stay_small():
    """Far below any reward of unit scale, where no share of the largest return tells rounding from a difference."""
    assert standardised(torch.tensor([1e-7, -1e-7]), group_size=2).abs().max() < 1e-2


@pytest.mark.parametrize("estimator", [*ALL, is_equal])
def test_a_group_of_one_and_a_split_group_are_refused(estimator: Estimator):
    for num, size in ((4, 1), (5, 2), (3, 4)):
        with pytest.raises(ValueError, match=f"{num} returns are not groups of {size}"):
            estimator(torch.arange(float(num)), group_size=size)


@pytest.mark.parametrize("estimator", ALL)
def test_no_gradient_flows_into_returns_and_bf16_becomes_fp32(estimator: Estimator):
    returns = torch.tensor([1.0, 2.0]).bfloat16().requires_grad_()
    found = estimator(returns, group_size=2)
    assert found.dtype == torch.float32 and not found.requires_grad
