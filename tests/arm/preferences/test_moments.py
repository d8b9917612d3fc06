"""Marks on an episode become pairs of states; rounds show the episodes with the most disagreement."""

import pytest
import torch
from tests.arm.conftest import make_episodes

from tercet.arm.policies.reward_ensemble import RewardEnsemble
from tercet.arm.preferences.moments import LOOK_BACK, moment_questions, pairs_of_marks
from tercet.arm.preferences.pairs import disagreement, pairs_from_answers
from tercet.arm.preferences.questions import Teacher, choose_episodes
from tercet.config.load import load_arm_config
from tercet.errors import FailedError


def mark(step: int, call: str) -> dict[str, object]:
    return {"step": step, "call": call}


def test_good_prefers_the_marked_state_and_bad_the_earlier_one() -> None:
    states = torch.arange(24.0).reshape(2, 12, 1)
    said = [[mark(7, "good"), mark(9, "bad")], [mark(2, "good"), mark(0, "good"), mark(11, "bad")]]
    pairs = pairs_of_marks(states, torch.tensor([12, 9]), said, "person")
    assert pairs.better.flatten().tolist() == [7, 4, 14, 15]
    assert pairs.worse.flatten().tolist() == [2, 9, 12, 20]  # the last one lies behind its episode's end, at 8
    assert pairs.better.shape == (4, 1, 1)
    assert pairs.preference.tolist() == [1.0] * 4


def test_no_marks_at_all_are_refused() -> None:
    with pytest.raises(FailedError, match="the judge person prefers no segment to another"):
        pairs_of_marks(torch.zeros(2, 12, 3), torch.tensor([12, 12]), [[], []], "person")


def test_moment_questions_give_the_same_pairs_as_marks() -> None:
    episodes = make_episodes(2, 9, ends={1: 7})
    moments = moment_questions(episodes)
    there = moments.segments.row[moments.second, 0], moments.segments.step[moments.second, 0]
    assert (there[1] - moments.segments.step[moments.first, 0]).unique().tolist() == [LOOK_BACK]
    said: list[list[dict[str, object]]] = [[], []]
    for row, step in zip(*there, strict=True):
        said[int(row)].append(mark(int(step), "good"))
    marked = pairs_of_marks(episodes.next_observations, episodes.first_ends() + 1, said, "person")
    states, preferences = moments.segments.states, torch.zeros(len(moments))
    asked = pairs_from_answers(states[moments.first], states[moments.second], preferences, "rule")
    assert torch.equal(marked.better, asked.better)
    assert torch.equal(marked.worse, asked.worse)


def test_a_round_shows_the_episodes_with_the_most_disagreement() -> None:
    config = load_arm_config("lift", ["horizon=9", "reward.segment_length=3"])
    episodes = make_episodes(8, 9)
    torch.manual_seed(0)
    model = RewardEnsemble(3, num_models=3, hidden_size=8)
    chosen = choose_episodes(
        episodes, Teacher(config.reward, config.env, config.seed), 15, name="round 1", model=model
    ).tolist()
    by_row = []
    for row in range(8):
        moments = moment_questions(episodes.rows(torch.tensor([row])))
        by_row.append(float(disagreement(moments, model).mean()))
    assert chosen == sorted(range(8), key=lambda row: -by_row[row])[:2]
    some = choose_episodes(episodes, Teacher(config.reward, config.env, config.seed), 999, name="learned").tolist()
    assert sorted(some) == list(range(8)) and some != sorted(some)
