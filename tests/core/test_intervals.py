import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercet.core.intervals import Interval, bootstrap, wilson, win

OUTCOMES = st.lists(st.sampled_from([0, 0.5, 1]), min_size=1, max_size=200)


def test_wilson_by_hand():
    half = wilson([1, 0] * 5)
    assert (half.mean, half.num) == (0.5, 10)
    # center 0.5; half width 1.96 / (1 + 3.8416 / 10) * sqrt(0.025 + 3.8416 / 400) = 0.2634
    assert (half.low, half.high) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    none = wilson([0.0] * 10)
    assert (none.low, none.high) == pytest.approx((0.0, 3.8416 / 13.8416))  # z^2 / (n + z^2)
    assert wilson([0.5] * 10) == half  # ties count as half


@given(OUTCOMES, st.floats(0.5, 3.0))
def test_wilson_ends_where_the_mean_is_z_standard_errors_away(values: list[float], z: float):
    interval = wilson(values, z=z)
    assert 0.0 <= interval.low <= interval.mean <= interval.high <= 1.0
    for end in (interval.low, interval.high):
        standard_error = math.sqrt(max(end * (1 - end), 0.0) / len(values))
        assert abs(interval.mean - end) == pytest.approx(z * standard_error, abs=1e-6)


def test_wilson_covers_the_truth_95_times_in_100():
    """Exact, from the binomial distribution, averaged over rates of success; plain mean +- 1.96 se reaches 0.90."""
    num, rates = 30, [i / 40 for i in range(1, 40)]
    intervals = [wilson([1] * wins + [0] * (num - wins)) for wins in range(num + 1)]
    coverage = statistics.fmean(
        sum(
            math.comb(num, wins) * rate**wins * (1 - rate) ** (num - wins)
            for wins, interval in enumerate(intervals)
            if interval.low <= rate <= interval.high
        )
        for rate in rates
    )
    assert coverage == pytest.approx(0.95, abs=0.01)


def test_wilson_refuses_what_is_no_rate_of_success():
    for values in ([], [1.0, 1.5], [-0.1], [float("nan")]):
        with pytest.raises(ValueError, match="values from 0 to 1"):
            wilson(values)


def test_bootstrap_agrees_with_the_normal_interval_where_that_holds():
    chance = random.Random(0)
    values = [chance.gauss(3.0, 2.0) for _ in range(400)]
    half = 1.96 * statistics.stdev(values) / math.sqrt(400)
    interval = bootstrap(values, 1)
    assert (interval.mean, interval.num) == (statistics.fmean(values), 400)
    assert (interval.low, interval.high) == pytest.approx((interval.mean - half, interval.mean + half), abs=0.1 * half)


def test_bootstrap_knows_no_chance_but_its_seed():
    values = [float(i % 7) for i in range(50)]
    random.seed(0)
    first = bootstrap(values, 3)
    random.seed(1)
    assert bootstrap(values, 3) == first
    assert bootstrap(values, 4) != first


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=20), st.integers(0, 100))
def test_bootstrap_stays_within_the_values(values: list[float], seed: int):
    interval = bootstrap(values, seed, num_resamples=100)
    assert min(values) - 1e-9 <= interval.low <= interval.high <= max(values) + 1e-9


def test_equal_values_leave_no_doubt():
    assert bootstrap([2.0] * 5, 0) == Interval(mean=2.0, low=2.0, high=2.0, num=5)


def test_bootstrap_refuses_nothing_at_all():
    with pytest.raises(ValueError, match="at least one value"):
        bootstrap([], 0)


def test_a_tie_is_half_a_win():
    assert [win(2, 1), win(0.1 + 0.2, 0.3), win(1.0, 1), win(-1.0, 1.0)] == [1.0, 1.0, 0.5, 0.0]
