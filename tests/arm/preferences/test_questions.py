"""Which questions a teacher is asked."""

import pytest
import torch
from tests.arm.conftest import make_episodes

from tercet.arm.networks.reward_ensemble import RewardEnsemble
from tercet.arm.play.episodes import Episodes
from tercet.arm.preferences.moments import moment_questions
from tercet.arm.preferences.pairs import disputed
from tercet.arm.preferences.questions import Teacher, ask, choose_episodes, comparisons
from tercet.config.load import load_arm_config


def test_no_pair_of_segments_is_asked_twice() -> None:
    config = load_arm_config("lift", ["reward.segment_length=3", "reward.same_episode=1"])
    for model in (RewardEnsemble(3, num_models=2, hidden_size=4), None):
        questions = comparisons(
            make_episodes(6, 9), Teacher(config.reward, config.env, config.seed), 60, name="round 1", model=model
        )
        pairs = {frozenset(pair) for pair in zip(questions.first.tolist(), questions.second.tolist(), strict=True)}
        assert len(pairs) == len(questions) == 60
        assert 0.2 < float((questions.first < questions.second).float().mean()) < 0.8  # sides are random


@pytest.mark.parametrize("feedback", ["pairs", "steps"])
def test_ask_returns_at_most_num_judgements(feedback: str) -> None:
    config = load_arm_config("lift", ["horizon=6", "reward.segment_length=3", f"reward.feedback={feedback}"])
    played = Episodes.joined([make_episodes(6, 6, seed=seed) for seed in range(2)])
    pairs = ask(played, Teacher(config.reward, config.env, config.seed), 20, name="first")
    assert 15 <= len(pairs) <= 20
    assert pairs.better.shape[1] == (3 if feedback == "pairs" else 1)
    model = RewardEnsemble(3, num_models=3, hidden_size=4)
    assert len(ask(played, Teacher(config.reward, config.env, config.seed), 5, name="round", model=model)) <= 5


def test_rounds_choose_the_episodes_with_the_most_disagreement() -> None:
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
        by_row.append(float(disputed(moments, model).mean()))
    assert chosen == sorted(range(8), key=lambda row: -by_row[row])[:2]
    all_rows = choose_episodes(episodes, Teacher(config.reward, config.env, config.seed), 999, name="learned").tolist()
    assert sorted(all_rows) == list(range(8)) and all_rows != sorted(all_rows)
