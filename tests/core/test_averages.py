"""What a mean is over: tokens, responses, or responses of the longest length."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tercet.core.averages import MeanOver, weights
from tercet.core.masked import masked_mean

MASK = torch.tensor([[True, True, True, True], [True, False, False, False], [True, True, False, False]])
LOSSES = torch.tensor([[1.0, 2.0, 3.0, 6.0], [5.0, 99.0, 99.0, 99.0], [2.0, 4.0, 99.0, 99.0]])
KINDS: list[MeanOver] = ["tokens", "responses", "max_length"]


def mean(losses: Tensor, mask: Tensor, kind: MeanOver, *, max_length: int = 10, rows: int = 99) -> float:
    """The mean in micro-batches of `rows` rows, as a training step computes it."""
    found = weights(mask, mean_over=kind, max_length=max_length)
    count = found.count.sum(dtype=torch.float64)
    parts = zip(losses.split(rows), found.loss.split(rows), mask.split(rows), strict=True)
    return sum(float(masked_mean(x * weight, part, count=count)) for x, weight, part in parts)


def test_the_three_means_by_hand():
    assert mean(LOSSES, MASK, "tokens") == pytest.approx((12 + 5 + 6) / 7)
    assert mean(LOSSES, MASK, "responses") == pytest.approx((12 / 4 + 5 + 6 / 2) / 3)
    assert mean(LOSSES, MASK, "max_length", max_length=10) == pytest.approx((12 + 5 + 6) / (3 * 10))


@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 2**31), rows=st.integers(1, 5))
def test_micro_batches_add_up(kind: MeanOver, seed: int, rows: int):
    """A mean of the means of micro-batches would be something else."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 7, (5, 1), generator=generator)
    mask, losses = torch.arange(6) < lengths, torch.randn(5, 6, generator=generator)
    assert mean(losses, mask, kind, rows=rows) == pytest.approx(mean(losses, mask, kind), abs=1e-5)


@given(st.integers(0, 2**31))
def test_with_equal_lengths_all_means_agree_but_for_the_length(seed: int):
    losses = torch.randn(3, 4, generator=torch.Generator().manual_seed(seed))
    mask = torch.ones(3, 4, dtype=torch.bool)
    means = [mean(losses, mask, kind, max_length=8) for kind in KINDS]
    assert means == pytest.approx([float(losses.mean()), float(losses.mean()), float(losses.mean()) / 2], abs=1e-6)


def test_the_mean_over_tokens_changes_no_bit():
    found = weights(MASK, mean_over="tokens", max_length=1)
    assert torch.equal(found.loss, MASK.float()) and torch.equal(found.count, MASK.float())


def test_padding_and_an_empty_response_weigh_nothing():
    mask = torch.tensor([[True, False], [False, False]])
    for kind in KINDS:
        found = weights(mask, mean_over=kind, max_length=4)
        for weight in (found.loss, found.count):
            assert weight.isfinite().all() and weight[~mask].eq(0).all() and weight[0, 0] > 0
