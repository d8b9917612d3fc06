"""Marks on an episode become pairs of states, and the episodes that are shown are those worth watching."""

import pytest
import torch
from tests.arm.conftest import make_episodes

from tercet.arm.policies.roles import RewardEnsemble
from tercet.arm.preferences.moments import LOOK_BACK, about_moments, pairs_of_marks
from tercet.arm.preferences.pairs import answered, disagreement
from tercet.arm.preferences.questions import to_watch
from tercet.config.load import load_arm_config
from tercet.errors import FailedError


def mark(step: int, call: str) -> dict[str, object]:
    return {"step": step, "call": call}


def test_good_prefers_the_state_there_and_bad_the_one_a_moment_before() -> None:
    states = torch.arange(24.0).reshape(2, 12, 1)
    said = [[mark(7, "good"), mark(9, "bad")], [mark(2, "good"), mark(0, "good"), mark(11, "bad")]]
    pairs = pairs_of_marks(states, torch.tensor([12, 9]), said, "person")
    assert pairs.better.flatten().tolist() == [7, 4, 14, 15]
    assert pairs.worse.flatten().tolist() == [2, 9, 12, 20]  # the last one lies behind its episode's end, at 8
    assert pairs.better.shape == (4, 1, 1)
    assert pairs.preference.tolist() == [1.0] * 4


def test_an_episode_that_nobody_marked_says_nothing_and_nothing_at_all_is_refused() -> None:
    with pytest.raises(FailedError, match="the judge person tells no two segments apart"):
        pairs_of_marks(torch.zeros(2, 12, 3), torch.tensor([12, 12]), [[], []], "person")


def test_every_moment_as_a_question_gives_the_pairs_that_marking_it_gives() -> None:
    episodes = make_episodes(2, 9, ends={1: 7})
    moments = about_moments(episodes)
    there = moments.segments.row[moments.second, 0], moments.segments.step[moments.second, 0]
    assert (there[1] - moments.segments.step[moments.first, 0]).unique().tolist() == [LOOK_BACK]
    said: list[list[dict[str, object]]] = [[], []]
    for row, step in zip(*there, strict=True):
        said[int(row)].append(mark(int(step), "good"))
    marked = pairs_of_marks(episodes.next_observations, episodes.first_ends() + 1, said, "person")
    states, preferences = moments.segments.states, torch.zeros(len(moments))
    asked = answered(states[moments.first], states[moments.second], preferences, "rule")
    assert torch.equal(marked.better, asked.better)
    assert torch.equal(marked.worse, asked.worse)


def test_in_a_round_the_episodes_are_shown_on_which_the_models_disagree_most() -> None:
    config = load_arm_config("lift", ["horizon=9", "reward.segment_length=3"])
    episodes = make_episodes(8, 9)
    torch.manual_seed(0)
    model = RewardEnsemble(3, num_models=3, hidden_size=8)
    chosen = to_watch(episodes, config, 15, name="round 1", model=model).tolist()
    by_row = []
    for row in range(8):
        moments = about_moments(episodes.rows(torch.tensor([row])))
        by_row.append(float(disagreement(moments, model).mean()))
    assert chosen == sorted(range(8), key=lambda row: -by_row[row])[:2]
    some = to_watch(episodes, config, 999, name="learned").tolist()
    assert sorted(some) == list(range(8)) and some != sorted(some)
