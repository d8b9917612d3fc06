"""Segments lie within one episode."""

import dataclasses

import pytest
import torch
from tests.arm.conftest import make_episodes

from tercet.arm.play.episodes import Episodes
from tercet.arm.preferences.segments import cut


def test_windows_are_ordered_and_hold_the_states_after_actions() -> None:
    episodes = make_episodes(2, 6)
    segments = cut(episodes, 4, 2)
    assert len(segments) == 4
    assert torch.equal(segments.states[1], episodes.next_observations[0, 2:6])
    assert torch.equal(segments.actions[2], episodes.actions[1, 0:4])
    assert torch.equal(segments.progress[3], episodes.infos["progress"][1, 2:6])


def test_windows_stop_at_the_end_of_an_episode() -> None:
    episodes = make_episodes(1, 6, ends={0: 2})
    starts = [int((episodes.next_observations[0] == one[0]).all(-1).nonzero()[0]) for one in cut(episodes, 3, 1).states]
    assert starts == [0, 3]
    assert len(cut(episodes, 1, 1)) == 6


def test_the_last_state_of_a_terminated_episode_is_repeated() -> None:
    episodes = make_episodes(1, 7, ends={0: 2})
    segments = cut(episodes, 3, 1, repeat_last=True)
    # only the first episode terminated, so only its last state is repeated
    assert segments.step.tolist() == [[0, 1, 2], [1, 2, 2], [2, 2, 2], [3, 4, 5], [4, 5, 6]]
    assert torch.equal(segments.states, episodes.next_observations[0, segments.step])
    assert torch.equal(segments.progress, episodes.infos["progress"][0, segments.step])
    assert (segments.actions[1, 2] == 0).all() and torch.equal(segments.actions[1, :2], episodes.actions[0, 1:3])
    whole = make_episodes(3, 7)  # no episode terminates
    assert torch.equal(cut(whole, 3, 2, repeat_last=True).states, cut(whole, 3, 2).states)


@pytest.mark.parametrize("repeat_last", [False, True])
def test_no_window_holds_a_step_that_broke_the_simulation(repeat_last: bool) -> None:
    episodes = make_episodes(1, 6, ends={0: 2})
    episodes = dataclasses.replace(episodes, infos={**episodes.infos, "blown_up": episodes.terminated.float()})
    assert cut(episodes, 2, 1, repeat_last=repeat_last).step.tolist() == [[0, 1], [3, 4], [4, 5]]


def test_segments_record_row_and_step_of_joined_episodes() -> None:
    episodes = Episodes.joined([make_episodes(2, 6, ends={0: 2}), make_episodes(1, 6, seed=1)])
    segments = cut(episodes, 3, 1)
    assert segments.row.unique().tolist() == [0, 1, 2]
    assert torch.equal(segments.states, episodes.next_observations[segments.row, segments.step])
    assert segments.step[:, 0].tolist() == [0, 3, *range(4), *range(4)]


def test_step_by_step_splits_segments_into_single_steps() -> None:
    both = cut(make_episodes(2, 4), 2, 1)
    single = both.step_by_step()
    assert (len(both), len(single), single.states.shape[1]) == (6, 12, 1)
    assert torch.equal(single.states[:6, 0], both.states[:, 0])
    assert torch.equal(single.progress[6:, 0], both.progress[:, 1])
    assert torch.equal(single.step[6:, 0], both.step[:, 1])
