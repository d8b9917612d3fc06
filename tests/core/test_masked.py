import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tercet.core.masked import is_last, masked_mean, masked_var, whiten, zero_padding
from tercet.core.precision import full_precision

NAN, INF = float("nan"), float("inf")
X = torch.tensor([[1.0, 2.0, NAN], [3.0, INF, -INF]])
MASK = torch.tensor([[True, True, False], [True, False, False]])


def random_batch(seed: int, b: int = 4, t: int = 7) -> tuple[Tensor, Tensor]:
    """Numbers far from mean 0 and variance 1, and a mask that is True at least once."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(b, t, generator=generator) < 0.6
    mask[0, 0] = True
    return 3.0 * torch.randn(b, t, generator=generator) + 5.0, mask


def test_by_hand():
    assert zero_padding(X, MASK).tolist() == [[1.0, 2.0, 0.0], [3.0, 0.0, 0.0]]
    assert masked_mean(X, MASK).item() == 2.0
    assert masked_mean(X, MASK, count=12).item() == 0.5
    assert masked_var(X, MASK).item() == pytest.approx(2 / 3)  # (1 + 0 + 1) / 3


def test_whiten_by_hand():
    x, mask = torch.tensor([0.0, 4.0, NAN]), torch.tensor([True, True, False])  # mean 2, standard deviation 2
    assert whiten(x, mask).tolist() == pytest.approx([-1.0, 1.0, 0.0])
    assert whiten(x, mask, center=False).tolist() == pytest.approx([1.0, 3.0, 0.0])


@given(st.integers(0, 2**31))
def test_agrees_with_the_standard_library(seed: int):
    x, mask = random_batch(seed)
    numbers = x[mask].tolist()
    assert masked_mean(x, mask).item() == pytest.approx(statistics.fmean(numbers), rel=1e-6)
    assert masked_var(x, mask).item() == pytest.approx(statistics.pvariance(numbers), rel=1e-5, abs=1e-12)


@given(st.integers(0, 2**31), st.sampled_from([NAN, INF, -INF, 1e30]))
def test_junk_outside_the_mask_changes_neither_values_nor_gradients(seed: int, junk: float):
    x, mask = random_batch(seed)
    for function in (masked_mean, masked_var, lambda x, m: whiten(x, m).pow(3).sum()):
        clean, dirty = x.clone().requires_grad_(), x.masked_fill(~mask, junk).requires_grad_()
        of_clean, of_dirty = function(clean, mask), function(dirty, mask)
        of_clean.backward()
        of_dirty.backward()
        assert of_clean.item() == of_dirty.item()
        assert clean.grad is not None and dirty.grad is not None
        assert torch.equal(clean.grad, dirty.grad)
        assert dirty.grad[~mask].eq(0).all()


@given(st.integers(0, 2**31), st.integers(1, 3))
def test_micro_batches_add_up_to_the_mean_of_the_batch(seed: int, first: int):
    x, mask = random_batch(seed)
    count = mask.sum()
    halves = (slice(None, first), slice(first, None))
    parts = [masked_mean(x[rows], mask[rows], count=count).item() for rows in halves]
    assert sum(parts) == pytest.approx(masked_mean(x, mask).item(), rel=1e-6)


def test_a_mean_of_nothing_is_not_a_number():
    assert masked_mean(X, torch.zeros_like(MASK)).isnan()
    assert masked_mean(X, torch.zeros_like(MASK), count=3).item() == 0.0


@given(st.integers(0, 2**31))
def test_whitened_numbers_have_mean_0_or_their_own_and_variance_1(seed: int):
    x, mask = random_batch(seed)
    if mask.sum() < 2:
        return
    centered, own = whiten(x, mask)[mask], whiten(x, mask, center=False)[mask]
    assert centered.mean().item() == pytest.approx(0.0, abs=1e-5)
    assert own.mean().item() == pytest.approx(x[mask].mean().item(), abs=1e-4)
    for whitened in (centered, own):
        assert whitened.var(correction=0).item() == pytest.approx(1.0, abs=1e-3)
    assert torch.allclose(whiten(10.0 * x - 7.0, mask)[mask], centered, atol=1e-4)


@pytest.mark.parametrize("constant", [0.0, 0.1, -1.0 / 3.0, 12345.678])
def test_equal_numbers_have_no_variance_and_whiten_to_0(constant: float):
    x, mask = torch.full((97, 31), constant), torch.ones(97, 31, dtype=torch.bool)
    assert masked_var(x, mask).item() == 0.0
    assert whiten(x, mask).eq(0).all()


def test_bf16_is_summed_in_fp32_and_fp64_stays_fp64():
    ones = torch.ones(301, dtype=torch.bfloat16)  # between 256 and 512 bf16 knows the even numbers alone
    total = masked_mean(ones, torch.ones(301, dtype=torch.bool), count=1)
    assert total.dtype == torch.float32 and total.item() == 301.0
    assert full_precision(ones).dtype == torch.float32
    assert masked_mean(ones.double(), torch.ones(301, dtype=torch.bool)).dtype == torch.float64


def test_the_argument_is_left_alone():
    x = X.clone()
    for function in (zero_padding, masked_mean, masked_var, whiten):
        function(x, MASK)
    assert torch.equal(x.nan_to_num(7.0), X.nan_to_num(7.0))


def test_the_last_true_of_each_row_by_hand():
    mask = torch.tensor([[True, True, False], [True, False, True], [False, False, False], [False, True, False]])
    last = [[False, True, False], [False, False, True], [False, False, False], [False, True, False]]
    assert is_last(mask).tolist() == last
