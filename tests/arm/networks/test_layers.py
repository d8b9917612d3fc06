"""Observations are scaled independently of their units."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tercet.arm.networks.layers import MAX_SCALED, MIN_STD, Scaled


def test_measured_observations_have_mean_0_and_deviation_1() -> None:
    scaled = Scaled(2)
    observations = torch.randn(50, 4, 2) * torch.tensor([3.0, 0.5]) + torch.tensor([10.0, -1.0])
    scaled.measure(observations)
    out = scaled(observations).flatten(0, 1)
    torch.testing.assert_close(out.mean(0), torch.zeros(2), rtol=0, atol=1e-5)
    torch.testing.assert_close(out.std(0, unbiased=False), torch.ones(2), rtol=1e-4, atol=0)


@given(scales=st.lists(st.floats(-8, 8).map(lambda power: 10**power), min_size=5, max_size=5))
def test_scaled_observations_do_not_depend_on_units(scales: list[float]) -> None:
    """Measured and later observations are scaled to the same numbers, whether a column is in metres or millimetres."""
    chance = torch.Generator().manual_seed(0)
    observations = torch.randn(40, 5, generator=chance) * torch.tensor([3.0, 1e-3, 1.0, 0.0, 0.0])
    observations += torch.tensor([10.0, 0.0, -200.0, 0.4, 0.0])  # the fourth never varies, the fifth is always 0
    later = observations + torch.randn(40, 5, generator=chance) * torch.tensor([3.0, 1e-3, 1.0, 0.1, 0.1])
    scaled, converted = Scaled(5), Scaled(5)
    scaled.measure(observations)
    converted.measure(observations * torch.tensor(scales))
    torch.testing.assert_close(converted(later * torch.tensor(scales)), scaled(later), rtol=1e-3, atol=1e-3)
    assert scaled.ignored() == converted.ignored() == [4]


def test_constant_numbers_are_not_magnified_and_large_values_are_clipped() -> None:
    scaled = Scaled(4)
    rounding = 0.1 + torch.randn(9) * 1e-8
    scaled.measure(torch.stack([torch.full((9,), 2.0), rounding, torch.zeros(9), torch.randn(9) * 1e-17], 1))
    later = scaled(torch.tensor([[2.1, 0.11, 0.1, 0.1]]))
    torch.testing.assert_close(later, torch.tensor([[0.05, 0.1, 0.0, 0.0]]), rtol=1e-3, atol=1e-6)
    assert scaled(torch.tensor([[200.0, 0.1, 0.0, 0.0]]))[0, 0] == MAX_SCALED


def test_min_std_bounds_the_deviation_of_known_units() -> None:
    scaled = Scaled(2)
    scaled.measure_with_min_std(torch.stack([torch.zeros(9), torch.linspace(-1, 1, 9)], 1))
    assert scaled.std.tolist() == pytest.approx([MIN_STD, 0.6455], rel=1e-3)


def test_a_running_scale_is_that_of_all_observations_so_far() -> None:
    chance = torch.Generator().manual_seed(0)
    parts = [torch.randn(20, 4, 3, generator=chance) * 2 + index for index in range(3)]
    parts = [torch.cat([part, torch.zeros(20, 4, 1)], -1) for part in parts]  # the last number is always 0
    running, measured = Scaled(4), Scaled(4)
    for index, part in enumerate(parts):
        running.follow(part, share=1 / (index + 1))
    measured.measure(torch.stack(parts))
    torch.testing.assert_close(running.mean, measured.mean)
    torch.testing.assert_close(running.std, measured.std)
    assert running.ignored() == [3]


def test_a_number_that_begins_to_vary_is_no_longer_ignored() -> None:
    running = Scaled(1)
    running.follow(torch.zeros(10, 1), share=1.0)
    assert running.ignored() == [0]
    running.follow(torch.linspace(-1, 1, 10)[:, None], share=0.5)
    assert running.ignored() == [] and 0.3 < float(running.std) < 0.6
