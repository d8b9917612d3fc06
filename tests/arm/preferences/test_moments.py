"""Marks on an episode become pairs of states."""

import pytest
import torch
from tests.arm.conftest import make_episodes

from tercet.arm.preferences.moments import LOOK_BACK, moment_questions, pairs_of_marks
from tercet.arm.preferences.pairs import pairs_from_answers
from tercet.errors import FailedError


def mark(step: int, call: str) -> dict[str, object]:
    return {"step": step, "call": call}


def test_good_prefers_the_marked_state_and_bad_the_earlier_one() -> None:
    states = torch.arange(24.0).reshape(2, 12, 1)
    marks = [[mark(7, "good"), mark(9, "bad")], [mark(2, "good"), mark(0, "good"), mark(11, "bad")]]
    pairs = pairs_of_marks(states, torch.tensor([12, 9]), marks, "person")
    assert pairs.better.flatten().tolist() == [7, 4, 14, 15]
    assert pairs.worse.flatten().tolist() == [2, 9, 12, 20]  # the last mark is after the end of its episode, at 8
    assert pairs.better.shape == (4, 1, 1)
    assert pairs.preference.tolist() == [1.0] * 4


def test_episodes_without_marks_are_refused() -> None:
    with pytest.raises(FailedError, match="the judge person prefers no segment to another"):
        pairs_of_marks(torch.zeros(2, 12, 3), torch.tensor([12, 12]), [[], []], "person")


def test_moment_questions_give_the_same_pairs_as_marks() -> None:
    episodes = make_episodes(2, 9, ends={1: 7})
    moments = moment_questions(episodes)
    row, step = moments.segments.row[moments.second, 0], moments.segments.step[moments.second, 0]
    assert (step - moments.segments.step[moments.first, 0]).unique().tolist() == [LOOK_BACK]
    marks: list[list[dict[str, object]]] = [[], []]
    for index, marked_step in zip(row.tolist(), step.tolist(), strict=True):
        marks[index].append(mark(marked_step, "good"))
    pairs = pairs_of_marks(episodes.next_observations, episodes.first_ends() + 1, marks, "person")
    states, preferences = moments.segments.states, torch.zeros(len(moments))
    expected = pairs_from_answers(states[moments.first], states[moments.second], preferences, "rule")
    assert torch.equal(pairs.better, expected.better)
    assert torch.equal(pairs.worse, expected.worse)
