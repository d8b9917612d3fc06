"""Watched scores and the rule by which they stop training, worked out by hand."""

import math

import pytest
import torch

from tercet.train.ppo.watch import NEVER, StopRule, Watched

RULE = StopRule({"asks": 0.1, "other": 0.5}, 2)


def means(*asks: float) -> list[dict[str, float]]:
    return [{"asks": value, "other": 0.5, "free": -value} for value in asks]


def test_a_watched_score_has_its_mean_and_standard_error() -> None:
    watched = Watched.of(torch.tensor([0.0, 1.0, 1.0, 0.0]))
    assert watched.mean == 0.5
    assert watched.error == pytest.approx((4 * 0.25 / 3) ** 0.5 / 2)
    assert math.isnan(Watched.of(torch.tensor([1.0])).error)
    assert Watched.of(torch.tensor([0.0, math.nan, 1.0, 1.0, 0.0])).error == watched.error


@pytest.mark.parametrize(
    ("asks", "stops"),
    [
        ((0.9,), False),
        ((0.9, 0.7), False),  # once
        ((0.9, 0.7, 0.7), True),
        ((0.9, 0.7, 0.85, 0.7), False),  # not in a row
        ((0.9, 0.7, 0.85, 0.7, 0.6), True),
        ((0.9, 0.85, 0.81), False),  # by less than allowed, from update 0
        ((0.5, 0.9, 0.5, 0.45), False),  # below an earlier validation, but not below update 0
        ((0.5, 0.25, 0.25, 0.5), False),  # it has recovered
    ],
)
def test_training_stops_after_a_large_fall_at_validations_in_a_row(asks: tuple[float, ...], stops: bool) -> None:
    assert list(RULE.reason(means(*asks))) == (["asks"] if stops else [])


def test_a_fall_of_exactly_the_amount_is_allowed() -> None:
    assert not StopRule({"asks": 0.25}, 1).reason(means(0.75, 0.5))
    assert StopRule({"asks": 0.25}, 1).reason(means(0.75, 0.25)) == {"asks": 0.5}


def test_a_fall_is_over_the_prompts_with_a_score_at_both() -> None:
    rule = StopRule({"asks": 0.1}, 1)
    before = {"asks": [0.9, 0.9, None, 0.0]}
    assert not rule.reason([before, {"asks": [0.9, 0.9, 0.6, None]}])
    assert not rule.reason([before, {"asks": [None, None, 0.1, None]}])  # no common prompt
    assert rule.reason([before, {"asks": [0.4, 0.9, 1.0, None]}]) == {"asks": pytest.approx(0.25)}


def test_falls_of_different_scores_are_not_added_up() -> None:
    rule = StopRule({"asks": 0.1, "free": 0.1}, 2)
    assert not rule.reason([*means(0.5, 0.9), *means(0.1)])  # first free falls, then asks
    assert rule.falls([*means(0.5, 0.9), *means(0.1)]) == {"asks": 0.4}


def test_no_amounts_never_stop() -> None:
    assert not NEVER.reason(means(0.9, 0.0, 0.0, 0.0))
    assert not NEVER.reason([{}])
