"""Questions about segments, the pairs made from the answers, and selection by disagreement."""

from pathlib import Path

import pytest
import torch
from tests.arm.conftest import make_episodes

from tercet.arm.networks.reward_ensemble import RewardEnsemble
from tercet.arm.preferences.judge import nearer_the_target
from tercet.arm.preferences.pairs import (
    Pairs,
    Questions,
    join_pairs,
    judge_preferences,
    load_pairs,
    most_disputed,
    pairs_from_answers,
    segment_questions,
    step_questions,
)
from tercet.arm.preferences.segments import Segments
from tercet.errors import FailedError, InputError


def chance() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_the_share_of_comparisons_within_one_episode_is_same_episode() -> None:
    episodes = make_episodes(6, 9)
    for share in (0.0, 0.5, 1.0):
        questions = segment_questions(episodes, 3, 2000, chance(), same_episode=share)
        row = questions.segments.row[:, 0]
        same_episode = (row[questions.first] == row[questions.second]).float().mean()
        by_chance = 6 / 41  # of the 41 others, 6 are of the same episode
        assert abs(float(same_episode) - (share + (1 - share) * by_chance)) < 0.04
        assert (questions.first != questions.second).all()
        if share == 1.0:  # all other segments of the episode are equally likely
            distance = (questions.first % 7 - questions.second % 7).abs().bincount(minlength=7)[1:] / 2000
            assert torch.allclose(distance, torch.tensor([6.0, 5, 4, 3, 2, 1]) * 2 / 42, atol=0.04)


def test_an_episode_with_one_segment_is_compared_with_others() -> None:
    questions = segment_questions(make_episodes(3, 4), 4, 20, chance(), same_episode=1.0)
    assert (questions.first != questions.second).all()


def segments_of(progress: list[float]) -> Segments:
    """One-step segments whose state is their index."""
    values = torch.tensor(progress)[:, None]
    states = torch.arange(float(len(progress)))[:, None, None].expand(-1, 1, 3)
    where = torch.zeros(len(progress), 1, dtype=torch.long)
    return Segments(states, torch.zeros(len(progress), 1, 2), values, torch.zeros_like(values), where, where)


def by_rule(progress: list[float], first: list[int], second: list[int]) -> Pairs:
    segments, left, right = segments_of(progress), torch.tensor(first), torch.tensor(second)
    preferences = judge_preferences(Questions(segments, left, right), nearer_the_target, "rule")
    return pairs_from_answers(segments.states[left], segments.states[right], preferences, "rule")


def test_the_nearer_segment_is_better_and_a_tie_counts_half() -> None:
    pairs = by_rule([0.1, 0.7, 0.5, 0.5], [0, 1, 2], [1, 0, 3])
    assert pairs.better[:2, 0, 0].tolist() == [1, 1]
    assert pairs.worse[:2, 0, 0].tolist() == [0, 0]
    assert pairs.preference.tolist() == [1.0, 1.0, 0.5]
    assert len(pairs.without_ties()) == 2


def test_unanswered_questions_are_dropped() -> None:
    states = torch.arange(8.0).reshape(2, 4, 1, 1)
    pairs = pairs_from_answers(states[0], states[1], torch.tensor([0.0, float("nan"), 0.5, 1.0]), "person")
    assert pairs.better.flatten().tolist() == [4, 2, 3]
    assert pairs.worse.flatten().tolist() == [0, 6, 7]
    assert pairs.preference.tolist() == [1.0, 0.5, 1.0]


def test_a_judge_that_gives_only_ties_is_refused() -> None:
    with pytest.raises(FailedError, match="the judge rule prefers no segment to another"):
        by_rule([0.5, 0.5], [0], [1])


def test_questions_compare_two_different_segments() -> None:
    questions = segment_questions(make_episodes(4, 6), 3, 200, chance())
    assert (questions.first != questions.second).all()
    assert questions.first.unique().numel() > 10


def test_repeated_segment_pairs_are_dropped() -> None:
    segments = segments_of([0.1, 0.2, 0.3])
    distinct = Questions(segments, torch.tensor([2, 0, 1, 0, 1]), torch.tensor([1, 1, 2, 1, 0])).distinct()
    assert (distinct.first.tolist(), distinct.second.tolist()) == ([2, 0], [1, 1])


def test_too_long_segments_are_refused() -> None:
    with pytest.raises(FailedError, match=r"fewer than two segments of 4 steps; lower reward.segment_length"):
        segment_questions(make_episodes(1, 4), 4, 3, chance())


def test_segments_repeat_the_last_state_of_an_episode_that_terminated() -> None:
    ended = make_episodes(8, 20, ends=dict.fromkeys(range(8), 6))
    last = ended.next_observations[:, 6]
    states = segment_questions(ended, 6, 50, chance()).segments.states
    is_at_end = (states[:, -1, None] == last).all(-1).any(1)
    assert is_at_end.sum() == 8 * 3  # of the starts 0, 2, 4 and 6, three reach the end
    assert (states[is_at_end][:, -2:].diff(dim=1) == 0).all(-1).sum() == 8 * 3


def test_steps_are_compared_with_the_step_before() -> None:
    episodes = make_episodes(2, 5)
    questions = step_questions(episodes, 100, chance())
    assert len(questions.first) == 8  # all steps of the episodes
    before, after = questions.segments.states[questions.first, 0], questions.segments.states[questions.second, 0]
    for one, other in zip(before, after, strict=True):
        row, step = (episodes.next_observations == one).all(-1).nonzero()[0].tolist()
        assert torch.equal(other, episodes.next_observations[row, step + 1])


def test_most_disputed_selects_the_questions_with_the_most_disagreement() -> None:
    model = RewardEnsemble(3, num_models=2, hidden_size=4)
    with torch.no_grad():  # the second model negates the first, so they disagree more for larger rewards
        for first, second in zip(model.nets[0].parameters(), model.nets[1].parameters(), strict=True):
            second.copy_(first)
        model.nets[1][-1].weight.neg_()
        model.nets[1][-1].bias.neg_()
    questions = Questions(segments_of([0.0] * 8), torch.zeros(7, dtype=torch.long), torch.arange(1, 8))
    sums = model.each(questions.segments.states).sum(-1)
    gaps = (sums[0, 1:] - sums[0, 0]).abs()
    disputed = most_disputed(questions, model, 3)
    assert sorted(disputed.second.tolist()) == sorted((gaps.argsort(descending=True)[:3] + 1).tolist())


def test_saved_pairs_load_unchanged_and_damage_is_reported(tmp_path: Path) -> None:
    pairs = Pairs(torch.rand(2, 3, 4), torch.rand(2, 3, 4), torch.tensor([1.0, 0.5]))
    pairs.save(tmp_path / "pairs.safetensors")
    joined = join_pairs([load_pairs(tmp_path / "pairs.safetensors")] * 2)
    assert torch.equal(joined.better[2:], pairs.better)
    assert joined.preference.tolist() == [1.0, 0.5, 1.0, 0.5]
    (tmp_path / "pairs.safetensors").write_bytes(b"torn")
    with pytest.raises(InputError, match="not a file of segment pairs"):
        load_pairs(tmp_path / "pairs.safetensors")
