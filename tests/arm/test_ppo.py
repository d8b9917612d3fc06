"""PPO increases its reward, uses the weights of its terms, and asks for new judgements."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from tests.arm.conftest import run_of, values

from tercet.arm import ppo, reward
from tercet.arm.networks.critic import new_critic
from tercet.arm.networks.reward_ensemble import load_reward_model
from tercet.arm.networks.sizes import Sizes
from tercet.arm.play.environments import EnvFactory
from tercet.arm.play.episodes import Episodes
from tercet.arm.preferences.pairs import load_pairs
from tercet.arm.rollout import ArmActorCritic
from tercet.arm.stages import start_policy
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
    kept = results["best_checkpoint"]
    assert (kept["num_candidates"], kept["num_scores"]) == (2, 8)  # before the first update and after the last
    assert kept["expected_shrinkage"] >= -1e-9


@pytest.mark.parametrize("algorithm", ["rloo", "reinforce++"])
def test_groups_of_episodes_increase_the_reward_without_a_critic(tmp_path: Path, algorithm: str) -> None:
    overrides = "horizon=20 threads=1 ppo.num_envs=16 ppo.num_minibatches=4 ppo.num_updates=8 ppo.num_eval_states=8"
    more = [f"ppo.algorithm={algorithm}", "ppo.lr=3e-3", "ppo.eval_every=8"]
    more += ["ppo.group_size=4"] if algorithm == "rloo" else []
    folder, config = run_of(tmp_path, "reach", [*overrides.split(), *more])
    with folder:
        ppo.run(folder, config)
        earned, names = values(folder, "ppo/score"), {name for row in folder.metrics() for name in row}
    assert sum(earned[-2:]) > 1.1 * sum(earned[:2])
    assert not any("critic" in name or "value" in name or "variance" in name for name in names)
    assert ("ppo/equal_groups" in names) == (algorithm == "rloo")
    assert not list(folder.path.rglob("*critic*")) and "continuation" not in folder.results()["self_check"]
    assert folder.results()["env_steps"] == 20 * (9 * 16 + 2 * 8)


class Goes(gymnasium.Env):
    """It moves to the right whatever the action is, from a random start, and succeeds above 1."""

    observation_space, action_space = Box(-9, 9, (1,), np.float32), Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.place = self.np_random.uniform(-2, 1, 1).astype(np.float32)
        return self.place, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:  # Any: gymnasium's types
        self.place = self.place + np.float32(0.1)
        return self.place, 0.0, False, False, {"success": self.place[0] > 1}


def test_a_validation_has_the_score_of_each_start(small: list[str], tmp_path: Path) -> None:
    overrides = ["env=tests.arm.test_ppo:Goes", "ppo.num_eval_states=16", "bc.demonstrations=none"]
    folder, config = run_of(tmp_path, "reach", [*small, *overrides])
    envs = EnvFactory.of(config)
    with folder, envs.open(16) as env:
        no_clone = config.bc.model_copy(update={"demonstrations": "none"})
        policy = start_policy(folder, envs, config.policy, bc=no_clone, seed=0)
        actor_critic = ArmActorCritic(policy, new_critic(policy.scaled, config.policy, seed=0))
        collect = ppo.Collect(env, actor_critic, policy, None, config.ppo, config.horizon, 0)
        measured = ppo.validate(env, collect)
        again = ppo.validate(env, collect)
    # success counts 1, and each of the 12 steps in success a thousandth of 1/12
    steps = torch.where(measured.scores > 0, (measured.scores - 1) / 1e-3 * 12, 0.0)
    assert torch.allclose(steps, steps.round(), atol=1e-2)
    assert len(set(steps.round().tolist())) > 3 and steps.max() <= 12.01
    assert measured.score == pytest.approx(float(measured.scores.mean()), abs=1e-6)
    assert torch.equal(measured.scores, again.scores)


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
