"""PPO increases its reward, uses the weights of its terms, and asks for new judgements."""

from pathlib import Path

import pytest
import torch
from tests.arm.conftest import run_of, values

from tercet.arm import ppo, reward
from tercet.arm.play.episodes import Episodes
from tercet.arm.policies.policy import Sizes
from tercet.arm.policies.reward_ensemble import load_reward_model
from tercet.arm.preferences.pairs import load_pairs
from tercet.errors import InputError


def test_ppo_increases_the_reward(tmp_path: Path) -> None:
    overrides = "horizon=20 threads=1 ppo.num_envs=16 ppo.num_minibatches=4 ppo.num_updates=8 ppo.num_eval_states=8"
    folder, config = run_of(tmp_path, "reach", [*overrides.split(), "ppo.lr=3e-3", "ppo.eval_every=8"])
    with folder:
        ppo.run(folder, config)
        earned = values(folder, "ppo/score")
    assert sum(earned[-2:]) > 1.2 * sum(earned[:2])
    results = folder.results()
    assert results["env_steps"] == 20 * (9 * 16 + 2 * 8)
    assert max(results["self_check"].values()) < 1e-5


def test_rounds_ask_about_the_current_policy_and_train_again(small: list[str], tmp_path: Path) -> None:
    more = ["bc.demonstrations=none", "reward.num_rounds=2", "reward.round_every=1", "reward.pairs_per_round=10"]
    folder, config = run_of(tmp_path, "reach", [*small, *more, "ppo.reward={reward_model: 1.0}"])
    with folder:
        reward.run(folder, config)
        ppo.run(folder, config)
    assert sorted(path.name for path in (folder.path / "ppo").glob("round-*")) == ["round-1", "round-2"]
    models = [
        load_reward_model(folder.path / place, Sizes(12, 5)) for place in ("reward/model", "ppo/round-1", "ppo/round-2")
    ]
    seen = torch.randn(5, 12)
    assert len({tuple(model(seen).tolist()) for model in models}) == 3
    rounds = folder.results()["rounds"]
    assert (rounds["num"], 10 < rounds["num_pairs"] <= 20) == (2, True)
    assert 0 < len(load_pairs(folder.path / "ppo" / "round-1" / "pairs.safetensors")) <= 10


def test_ppo_uses_the_weights_of_its_reward(small: list[str], tmp_path: Path) -> None:
    asked = "ppo.reward={dense: 0.0, success: 0.0, jerk: -0.01, outside: -1.0, force: -0.001}"
    folder, config = run_of(tmp_path, "reach", [*small, asked])
    with folder:
        ppo.run(folder, config)
        assert max(values(folder, "ppo/score")) < 0


def one(episodes: Episodes) -> torch.Tensor:
    """Reward of 1 for each step."""
    return torch.ones_like(episodes.dense)


def test_ppo_discounts_between_decisions_by_the_steps_of_a_chunk(small: list[str], tmp_path: Path) -> None:
    """Three chunks of four steps; with lam 1 a return is the discounted sum of later rewards and the last value."""
    more = ["policy.kind=act", "policy.chunk_size=4", "ppo.gamma=0.5", "ppo.lam=1.0", "ppo.kl_coef=0.0"]
    paid = "ppo.reward={tests.arm.test_ppo:one: 1.0}"
    folder, config = run_of(tmp_path, "reach", [*small, *more, paid, "ppo.num_updates=1", "bc.demonstrations=none"])
    with folder:
        ppo.run(folder, config)
        (found,) = values(folder, "ppo/return")
    left = (12, 8, 4)
    exact = sum(2 * (1 - 0.5**steps) for steps in left) / 3
    # a fresh critic says little of the last state; discounting a decision as if it were a step would give 3.3
    assert abs(found - exact) < 0.15


def test_ppo_says_when_the_reward_model_is_missing(small: list[str], tmp_path: Path) -> None:
    folder, config = run_of(tmp_path, "reach", [*small, "ppo.reward={reward_model: 1.0}"])
    with folder, pytest.raises(InputError, match=r"run `tercet arm reward` with the same --out, or set ppo.reward"):
        ppo.run(folder, config)
