import math
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tercet.core.statistics import (
    calibration,
    correlation,
    disagreement,
    explained_variance,
    ranking_accuracy,
    score_gain_and_bias,
    wins,
)

NAN = float("nan")
SEEDS = st.integers(0, 2**31)
THREE = torch.tensor([True, True, True, False])


def test_explained_variance_by_hand():
    returns = torch.tensor([0.0, 2.0, 4.0, NAN])  # variance 8/3
    values = torch.tensor([0.0, 1.0, 2.0, NAN])  # residual 0, 1, 2: variance 2/3
    assert explained_variance(values, returns, THREE).item() == pytest.approx(0.75)
    assert explained_variance(-returns, returns, THREE).item() == pytest.approx(-3.0)


@given(SEEDS)
def test_explained_variance_agrees_with_the_standard_library(seed: int):
    values, returns = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(seed))
    mask = torch.rand(4, 5, generator=torch.Generator().manual_seed(seed + 1)) < 0.7
    mask[0, :2] = True
    errors = (returns - values)[mask].tolist()
    expected = 1 - statistics.pvariance(errors) / statistics.pvariance(returns[mask].tolist())
    clean = explained_variance(values, returns, mask)
    assert clean.item() == pytest.approx(expected, rel=1e-4, abs=1e-4)
    junk = explained_variance(values.masked_fill(~mask, NAN), returns.masked_fill(~mask, float("inf")), mask)
    assert torch.equal(clean, junk)


@given(SEEDS, st.floats(-100.0, 100.0))
def test_explained_variance_is_1_for_a_perfect_critic_and_0_for_a_constant(seed: int, constant: float):
    returns = torch.randn(3, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    mask = torch.ones(3, 4, dtype=torch.bool)
    assert explained_variance(returns + constant, returns, mask).item() == pytest.approx(1.0, abs=1e-9)
    assert explained_variance(torch.full_like(returns, constant), returns, mask).item() == pytest.approx(0.0, abs=1e-9)


def test_equal_returns_leave_nothing_to_explain():
    returns = torch.full((3, 4), 0.1)
    mask = torch.ones(3, 4, dtype=torch.bool)
    assert explained_variance(torch.full((3, 4), 0.3), returns, mask).item() == 1.0
    assert explained_variance(torch.arange(12.0).view(3, 4), returns, mask).item() == 0.0


def test_the_scale_of_scores_by_hand():
    scale = score_gain_and_bias(torch.tensor([1.0, 5.0]))  # mean 3, standard deviation 2
    assert (scale.gain, scale.bias) == (0.5, -1.5)


@given(SEEDS, st.floats(1e-3, 1e3), st.floats(-1e3, 1e3))
def test_scaled_scores_have_mean_0_and_variance_1(seed: int, spread: float, center: float):
    noise = torch.randn(30, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    scores = spread * noise + center
    scale = score_gain_and_bias(scores)
    scaled = (scale.gain * scores + scale.bias).tolist()
    assert statistics.fmean(scaled) == pytest.approx(0.0, abs=1e-6)
    assert statistics.pvariance(scaled) == pytest.approx(1.0, rel=1e-6)


def test_the_scale_of_scores_far_from_0():
    scores = torch.arange(1000.0) + 2**20  # each exact in fp32, their mean square is not
    scale = score_gain_and_bias(scores)
    assert scale.gain == pytest.approx(1 / statistics.pstdev(scores.tolist()), rel=1e-9)
    assert scale.bias == pytest.approx(-statistics.fmean(scores.tolist()) * scale.gain, rel=1e-9)


NO_SPREAD = [[0.1] * 50, [0.0, 0.0], [1e3, 1e3 + 1e-4], [3.0], [1.0, NAN], [1.0, float("inf")], []]


@pytest.mark.parametrize("scores", NO_SPREAD)
def test_scores_without_a_scale_are_refused(scores: list[float]):
    with pytest.raises(ValueError, match="cannot be normalised"):
        score_gain_and_bias(torch.tensor(scores, dtype=torch.float64))


def test_a_tie_counts_half():
    assert wins(torch.tensor([2.0, 1e-30, 0.0, -0.0, -1e-30, NAN])).tolist() == [1.0, 1.0, 0.5, 0.5, 0.0, 0.0]


def test_correlation_by_hand():
    assert correlation(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 4.0, 6.0])) == pytest.approx(1.0)
    assert correlation(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([5.0, 1.0, -3.0])) == pytest.approx(-1.0)
    assert correlation(torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([1.0, -1.0, -1.0, 1.0])) == pytest.approx(0.0)
    assert correlation(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 3.0])) == 0.0


@given(SEEDS)
def test_correlation_agrees_with_the_standard_library(seed: int):
    a, b = torch.randn(2, 9, generator=torch.Generator().manual_seed(seed))
    assert correlation(a, a + b) == pytest.approx(statistics.correlation(a.tolist(), (a + b).tolist()), abs=1e-6)


def test_calibration_by_hand():
    margins = torch.tensor([0.1, -0.1, 2.0, 2.0, -2.0, 2.0])
    weak, strong = calibration(margins, num_bins=2)
    assert weak.num == strong.num == 3
    small, large = 1 / (1 + math.exp(-0.1)), 1 / (1 + math.exp(-2.0))
    assert weak.predicted == pytest.approx((2 * small + large) / 3)
    assert strong.predicted == pytest.approx(large)
    assert weak.observed * 3 + strong.observed * 3 == pytest.approx(4)
    assert len(calibration(torch.tensor([1.0, 2.0]))) == 2  # never an empty bin


@given(SEEDS, st.integers(1, 12))
def test_calibration_bins_hold_every_pair_once_in_the_order_of_the_predictions(seed: int, num: int):
    margins = torch.randn(num, generator=torch.Generator().manual_seed(seed))
    bins = calibration(margins)
    assert sum(one.num for one in bins) == num and max(one.num for one in bins) - min(one.num for one in bins) <= 1
    assert [one.predicted for one in bins] == sorted(one.predicted for one in bins)
    assert sum(one.num * one.observed for one in bins) == pytest.approx(wins(margins).sum().item())


def test_a_calibrated_model_is_found_to_be_one():
    chance = torch.Generator().manual_seed(0)
    margins = 2.0 * torch.randn(20_000, generator=chance)
    right = torch.rand(20_000, generator=chance) < margins.abs().sigmoid()
    for one in calibration(torch.where(right, margins.abs(), -margins.abs())):
        assert one.observed == pytest.approx(one.predicted, abs=0.02)


def test_models_disagree_by_the_spread_of_their_probabilities():
    # probabilities 0.9 and 0.5 on the first pair: 0.2 from their mean; equal ones on the second
    margins = torch.tensor([[math.log(9.0), 1.5], [0.0, 1.5]])
    assert disagreement(margins).tolist() == pytest.approx([0.2, 0.0], abs=1e-6)
    assert disagreement(margins[:1]).tolist() == [0.0, 0.0]


def test_ranking_accuracy_counts_pairs_of_a_good_and_a_bad_row() -> None:
    scores, is_good = torch.tensor([3.0, 1.0, 2.0, 1.0]), torch.tensor([True, True, False, False])
    assert ranking_accuracy(scores, is_good) == (1 + 1 + 0 + 0.5) / 4
    assert ranking_accuracy(-scores, is_good) == (0 + 0 + 1 + 0.5) / 4


def test_ranking_accuracy_is_unknown_where_all_rows_are_alike() -> None:
    assert ranking_accuracy(torch.ones(3), torch.ones(3, dtype=torch.bool)) is None
    assert ranking_accuracy(torch.ones(3), torch.zeros(3, dtype=torch.bool)) is None
