"""The expected shrinkage of the kept checkpoint depends on the scores and the seed only."""

import pytest

from tercet.train.ppo.selection import Shrinkage

SCORES = [[0.0, 1.0, 2.0, 4.0], [1.0, 0.0, 3.0, 2.0], [2.0, 2.0, 1.0, 3.0]]


def test_the_same_seed_gives_the_same_shrinkage() -> None:
    first = Shrinkage.of(SCORES, seed=1)
    assert first is not None and first == Shrinkage.of(SCORES, seed=1)
    other = Shrinkage.of(SCORES, seed=2)
    assert other is not None and other != first
    assert other.expected_shrinkage == pytest.approx(first.expected_shrinkage, rel=0.1)
    assert (first.num_candidates, first.num_scores) == (3, 4)


def test_the_only_candidate_does_not_shrink() -> None:
    assert Shrinkage.of(SCORES[:1], seed=1) == Shrinkage(0.0, 1, 4)


def test_one_score_of_each_candidate_says_nothing() -> None:
    assert Shrinkage.of([[1.0], [2.0]], seed=1) is None
