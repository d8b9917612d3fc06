import math

import pytest
import torch
from torch import Tensor

from tercet.core.chain import chain_clip_fraction, clip_ranges, clipped_chain_loss, discounts, steps_outside

NAN, INF = float("nan"), float("inf")
ONE = torch.ones(1, 1, dtype=torch.bool)


def chain_loss(inner: Tensor, old: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    return clipped_chain_loss(inner, old, advantages, mask, clip_range=0.2, clip_range_high=0.3)


def test_clip_ranges_grow_exponentially_to_that_of_ppo() -> None:
    # (exp(3 t) - 1) / (exp(3) - 1) at t = 1/4, 1/2, 3/4 is 0.058527, 0.182426, 0.444721
    expected = [0.01, 0.02112, 0.044661, 0.094497, 0.2]
    assert clip_ranges(5, clip_range=0.2).tolist() == pytest.approx(expected, abs=2e-6)
    assert clip_ranges(3, clip_range=0.004).tolist() == pytest.approx([0.004] * 3)
    assert clip_ranges(1, clip_range=0.2).tolist() == pytest.approx([0.2])


def test_the_advantage_is_discounted_towards_the_noise() -> None:
    assert discounts(3).tolist() == pytest.approx([0.9801, 0.99, 1.0])


def test_the_loss_by_hand() -> None:
    ratios = torch.tensor([[[1.5, 1.5, 1.5]]])
    first, middle, last = 0.9801, 0.99, 1.0
    growth = math.expm1(1.5) / math.expm1(3.0)
    gain = chain_loss(ratios.log(), torch.zeros(1, 1, 3), torch.tensor([[2.0]]), ONE)
    clipped = 1.01 * first + (1.01 + 0.29 * growth) * middle + 1.3 * last
    assert gain.item() == pytest.approx(-2.0 * clipped, rel=1e-6)
    low = chain_loss((1 / ratios).log(), torch.zeros(1, 1, 3), torch.tensor([[-2.0]]), ONE)
    clipped = 0.99 * first + (0.99 - 0.19 * growth) * middle + 0.8 * last
    assert low.item() == pytest.approx(2.0 * clipped, rel=1e-6)
    worse = chain_loss(ratios.log(), torch.zeros(1, 1, 3), torch.tensor([[-2.0]]), ONE)
    assert worse.item() == pytest.approx(2.0 * 1.5 * (first + middle + last), rel=1e-6)


def test_at_ratio_1_the_gradient_of_a_step_is_that_of_the_chain_times_its_discount() -> None:
    inner = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    advantages = torch.tensor([[1.0, -2.0, 0.5], [3.0, 0.0, -1.0]])
    chain_loss(inner, inner.detach(), advantages, torch.ones(2, 3, dtype=torch.bool)).sum().backward()
    torch.testing.assert_close(inner.grad, -advantages[..., None] * discounts(4))


def test_padding_costs_nothing_and_changes_nothing() -> None:
    generator = torch.Generator().manual_seed(1)
    inner, old = 0.1 * torch.randn(2, 2, 3, 4, generator=generator)
    advantages, mask = torch.randn(2, 3, generator=generator), torch.tensor([[True, True, False], [True, False, False]])
    clean = chain_loss(inner, old, advantages, mask)
    assert (clean != 0).equal(mask)
    for junk in (NAN, INF, -INF):
        padded = [x.masked_fill(~mask[..., None], junk) for x in (inner, old)]
        leaf = padded[0].requires_grad_()
        dirty = chain_loss(leaf, padded[1], advantages.masked_fill(~mask, junk), mask)
        assert torch.equal(dirty, clean)
        dirty.sum().backward()
        assert leaf.grad is not None and leaf.grad.isfinite().all()
        fraction = chain_clip_fraction(padded[0].detach(), padded[1], mask, clip_range=0.2, clip_range_high=0.3)
        assert 0 < float(fraction) < 1


def test_the_share_of_clipped_steps_by_hand() -> None:
    # ranges from 0.01 to 0.2 below 1, to 0.3 above it
    ratios = torch.tensor([[[1.005, 1.25], [1.02, 1.35], [0.985, 0.75]], [[5.0, 5.0]] * 3])
    mask = torch.tensor([[True, True, True], [False, False, False]])
    arguments = (ratios.log(), torch.zeros(2, 3, 2), mask)
    outside = steps_outside(*arguments, clip_range=0.2, clip_range_high=0.3)
    assert outside[0].tolist() == [[False, False], [True, True], [True, True]]
    assert float(chain_clip_fraction(*arguments, clip_range=0.2, clip_range_high=0.3)) == pytest.approx(4 / 6)
    part = chain_clip_fraction(*arguments, clip_range=0.2, clip_range_high=0.3, count=12)
    assert float(part) == pytest.approx(2 / 12)
