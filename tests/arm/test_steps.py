"""Each step learns: the clone from demonstrations, the reward model from the judge, PPO from the reward."""

from pathlib import Path

import pytest
import torch

from tercet.arm import bc, ppo, reward
from tercet.arm.play.episodes import Episodes
from tercet.arm.policies.gaussian import GaussianPolicy
from tercet.arm.policies.kinds import load_policy
from tercet.arm.policies.policy import Sizes
from tercet.arm.policies.reward_ensemble import load_reward_model
from tercet.arm.preferences.pairs import load_pairs
from tercet.config.arm import ArmConfig
from tercet.config.load import load_arm_config
from tercet.errors import InputError
from tercet.runs.folder import RunFolder


def values(folder: RunFolder, name: str) -> list[float]:
    return [row[name] for row in folder.metrics() if name in row]


def run_of(tmp_path: Path, preset: str, overrides: list[str]) -> tuple[RunFolder, ArmConfig]:
    config = load_arm_config(preset, overrides)
    return RunFolder.open(tmp_path / "run", config, preset=preset), config


def test_cloning_lowers_the_loss_on_the_demonstrations(small: list[str], tmp_path: Path) -> None:
    folder, config = run_of(tmp_path, "lift", [*small, "bc.epochs=60"])
    with folder:
        bc.run(folder, config)
        losses = values(folder, "bc/loss")
    assert sum(losses[-5:]) < 0.4 * sum(losses[:5])
    assert folder.results()["demonstrations"] == {"num": 2, "num_rows": 24, "num_steps": 24, "success": 0.0}
    policy = load_policy(folder.path / "bc" / "model", Sizes(23, 5))
    assert isinstance(policy, GaussianPolicy)
    assert policy.log_std.unique().tolist() == [pytest.approx(-1.2)]  # cloning leaves it alone


def test_the_reward_model_learns_the_judge_and_is_measured_on_other_episodes(small: list[str], tmp_path: Path) -> None:
    more = ["reward.num_pairs=360", "reward.num_eval=100", "reward.num_episodes=120", "reward.epochs=25"]
    folder, config = run_of(tmp_path, "lift", [*small, *more, "reward.checkpoint_every=500", "bc.demonstrations=none"])
    with folder:
        reward.run(folder, config)
        accuracies = values(folder, "reward/accuracy")
    found = folder.results()["reward_model"]
    assert sum(accuracies[-12:]) / 12 > 0.8 > sum(accuracies[:3]) / 3
    assert found["accuracy"] > 0.65
    assert found["num_held_out"] == 100
    learned = load_pairs(folder.path / "reward" / "pairs" / "learned.safetensors")
    model = load_reward_model(folder.path / "reward" / "model", Sizes(23, 5))
    states = torch.cat([learned.better, learned.worse])
    torch.testing.assert_close(model(states).mean(), torch.tensor(0.0), rtol=0, atol=1e-3)
    torch.testing.assert_close(model(states).std(), torch.tensor(1.0), rtol=1e-2, atol=0)


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
    paid = "ppo.reward={tests.arm.test_steps:one: 1.0}"
    folder, config = run_of(tmp_path, "reach", [*small, *more, paid, "ppo.num_updates=1", "bc.demonstrations=none"])
    with folder:
        ppo.run(folder, config)
        (found,) = values(folder, "ppo/return")
    left = (12, 8, 4)
    exact = sum(2 * (1 - 0.5**steps) for steps in left) / 3
    # a fresh critic says little of the last state; discounting a decision as if it were a step would give 3.3
    assert abs(found - exact) < 0.15


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (reward.run, "run `tercet arm bc` with the same --out first"),
        (ppo.run, "run `tercet arm bc` with the same --out"),
    ],
)
def test_a_step_names_the_step_that_must_come_first(step, said: str, folder: RunFolder, config: ArmConfig) -> None:  # type: ignore[no-untyped-def]  # both have the steps' own signature
    with pytest.raises(InputError, match=said):
        step(folder, config)


def test_ppo_says_when_the_reward_model_is_missing(small: list[str], tmp_path: Path) -> None:
    folder, config = run_of(tmp_path, "reach", [*small, "ppo.reward={reward_model: 1.0}"])
    with folder, pytest.raises(InputError, match=r"run `tercet arm reward` with the same --out, or set ppo.reward"):
        ppo.run(folder, config)
