"""The figures that a reward model is judged by."""

import pytest
import torch

from tercet.core.statistics import ScoreScale
from tercet.lm.preferences.pair_scores import PairScores, summary


def test_figures_by_hand() -> None:
    scores = PairScores(
        chosen=torch.tensor([2.0, 1.0, 0.0, 3.0]),
        rejected=torch.tensor([1.0, 1.0, 2.0, -1.0]),
        chosen_lengths=torch.tensor([4, 3, 2, 5]),
        rejected_lengths=torch.tensor([3, 3, 4, 1]),
    )
    found = summary(scores)
    assert found["accuracy"]["mean"] == 0.625  # right, a tie, wrong, right
    assert found["accuracy"]["num_prompts"] == 4
    assert 0 < found["accuracy"]["low"] < 0.625 < found["accuracy"]["high"] < 1
    assert found["margin"] == pytest.approx(0.75)
    assert (found["score_chosen"], found["score_rejected"]) == (1.5, 0.75)
    assert found["length_correlation"] == pytest.approx(1.0)  # every score is its length less 2
    assert found["length_accuracy"] == 0.625  # the longer one is chosen, a tie, the shorter one, the longer one
    scaled = summary(scores, ScoreScale(gain=2.0, bias=-1.0))
    assert scaled["margin"] == pytest.approx(1.5) and scaled["score_chosen"] == pytest.approx(2.0)
    assert scaled["accuracy"] == found["accuracy"] and scaled["calibration"] == found["calibration"]


def test_a_summary_by_hand() -> None:
    scores = PairScores(
        chosen=torch.tensor([2.0, 1.0, 0.0]),
        rejected=torch.tensor([1.0, 1.0, 2.0]),
        chosen_lengths=torch.tensor([4, 2, 0]),
        rejected_lengths=torch.tensor([2, 2, 4]),
    )
    found = summary(scores)
    assert found["accuracy"]["mean"] == 0.5  # right, a tie, wrong
    assert found["margin"] == pytest.approx(-1 / 3)
    assert found["score_chosen"] == pytest.approx(1.0)
    assert found["score_rejected"] == pytest.approx(4 / 3)
    assert found["length_correlation"] == pytest.approx(1.0)  # length = 2 * score


def test_the_rule_of_length_may_prefer_the_shorter_response() -> None:
    scores = PairScores(torch.ones(4), torch.zeros(4), torch.tensor([1, 1, 1, 3]), torch.tensor([2, 2, 2, 2]))
    assert summary(scores)["length_accuracy"] == 0.75
