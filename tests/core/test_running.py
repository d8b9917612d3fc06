import pytest
import torch

from tercet.core.running import discounted_sums, merge_moments


def test_moments_merged_part_by_part_are_those_of_all_values() -> None:
    values = torch.randn(90, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 5 + 2
    mean = variance = torch.full((3,), 7.0, dtype=torch.float64)  # of no value: the first part replaces them
    for index, part in enumerate(values.split(30)):
        mean, variance = merge_moments(mean, variance, part.mean(0), part.var(0, unbiased=False), share=1 / (index + 1))
    torch.testing.assert_close(mean, values.mean(0))
    torch.testing.assert_close(variance, values.var(0, unbiased=False))


def test_two_constants_merge_to_the_variance_between_them() -> None:
    nothing = torch.zeros(())
    mean, variance = merge_moments(torch.tensor(0.0), nothing, torch.tensor(4.0), nothing, share=0.25)
    assert (float(mean), float(variance)) == (1.0, 3.0)  # three values of 0 and one of 4


def test_discounted_sums_begin_anew_after_an_end() -> None:
    rewards = torch.tensor([[1.0, 2.0, 4.0, 8.0]])
    ends = torch.tensor([[False, True, False, False]])
    assert discounted_sums(rewards, ends, gamma=0.5).tolist() == [[1.0, 2.5, 4.0, 10.0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sums_keep_the_type_of_the_rewards_and_rows_are_apart(dtype: torch.dtype) -> None:
    rewards = torch.tensor([[1.0, 1.0], [3.0, 0.0]], dtype=dtype)
    sums = discounted_sums(rewards, torch.zeros(2, 2, dtype=torch.bool), gamma=1.0)
    assert sums.dtype == dtype and sums.tolist() == [[1.0, 2.0], [3.0, 3.0]]
