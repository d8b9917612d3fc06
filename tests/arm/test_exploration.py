"""Exploration is lowered until a policy's success survives it."""

from pathlib import Path

import pytest
import torch
from tests.arm.conftest import values

from tercet.arm import pipeline
from tercet.arm.exploration import LEAST, explore_as_kept, lower_exploration
from tercet.arm.play.environments import EnvFactory
from tercet.arm.policies.gaussian import GaussianPolicy
from tercet.arm.policies.kinds import new_policy
from tercet.arm.policies.policy import Sizes
from tercet.arm.stages import start_policy
from tercet.config.load import load_arm_config
from tercet.errors import InputError
from tercet.runs.folder import RunFolder

# success needs a small action at the last of four steps: a policy whose actions are 0 always succeeds, and with noise
# of deviation exp(-1.2), exp(-1.6) and exp(-2) it does on 0.49, 0.68 and 0.86 of the starts
NEEDLE = """
import gymnasium, numpy as np
from gymnasium.spaces import Box

class Needle(gymnasium.Env):
    observation_space, action_space = Box(-9, 9, (1,)), Box(-1.0, 1.0, (1,), np.float32)
    wide = 0.2

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.np_random.uniform(-1, 1, 1).astype(np.float32), {}

    def step(self, action):
        done = abs(float(action[0])) < self.wide
        return np.zeros(1, np.float32), float(done), False, False, {"is_success": done}

class Never(Needle):
    wide = 0.0
"""
GIVEN = ["env=needle_env:Needle", "horizon=4", "threads=1", "reward.segment_length=2", "bc.demonstrations=none"]


@pytest.fixture(autouse=True)
def needle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "needle_env.py").write_text(NEEDLE)
    monkeypatch.chdir(tmp_path)


def lowered(keep: float, env_name: str, tmp_path: Path) -> tuple[dict[str, float], float]:
    config = load_arm_config("reach", [*GIVEN, f"env=needle_env:{env_name}", "policy.log_std=-1.2"])
    envs = EnvFactory.of(config)
    with RunFolder.open(tmp_path / f"{env_name}-{keep}", config, preset="reach") as folder, envs.open(16) as env:
        policy = start_policy(folder, envs, config.policy, bc=config.bc, seed=0)
        assert isinstance(policy, GaussianPolicy)
        torch.nn.init.zeros_(policy.net[-1].weight)  # its actions are 0, not only near 0
        found = lower_exploration(env, policy, log_std=-1.2, keep=keep, num=160, horizon=4, seed=0)
        return found, float(policy.log_std.detach().mean())


def test_the_largest_exploration_that_keeps_the_success_is_chosen(tmp_path: Path) -> None:
    found, log_std = lowered(0.7, "Needle", tmp_path)
    assert found["log_std"] == pytest.approx(-2.0) and log_std == pytest.approx(-2.0)
    assert found["success_without"] == 1.0 and 0.7 <= found["success"] < 0.95
    assert found["lr_factor"] == pytest.approx(0.449329, abs=1e-6)  # exp(-0.8), like the deviation
    assert found["num_steps"] == 4 * 160 * 4  # alone, and at -1.2, -1.6 and -2
    assert lowered(0.4, "Needle", tmp_path)[0]["log_std"] == -1.2
    assert lowered(1.0, "Needle", tmp_path)[0]["log_std"] >= LEAST


def test_a_policy_that_never_succeeds_keeps_its_exploration(tmp_path: Path) -> None:
    found, log_std = lowered(0.8, "Never", tmp_path)
    assert (found["log_std"], found["success_without"]) == (-1.2, 0.0) and log_std == pytest.approx(-1.2)


def test_ppo_starts_with_the_exploration_that_was_chosen(small: list[str], tmp_path: Path) -> None:
    run = [*small, *GIVEN, "ppo.reward={dense: 1.0}", "ppo.keep_success=0.8", "policy.log_std=-1.2", "ppo.lr=1e-9"]
    config = load_arm_config("reach", [*run, "ppo.num_eval_states=160", "ppo.num_updates=2"])
    with RunFolder.open(tmp_path / "run", config, preset="reach") as folder:
        pipeline.run(folder, config)
        found = folder.results()
    chosen = found["exploration"]["log_std"]
    assert chosen <= -2.0 and found["exploration"]["success"] >= 0.8
    entropy = chosen + 0.5 * 2.8378770664  # of a Gaussian: log_std + log(2 pi e) / 2
    assert values(folder, "ppo/entropy")[-1] == pytest.approx(entropy, abs=1e-3)
    assert values(folder, "ppo/kl")[-1] == pytest.approx(0.0, abs=1e-3)  # the reference explores alike
    assert values(folder, "ppo/lr")[0] == pytest.approx(1e-9 * found["exploration"]["lr_factor"])
    assert found["env_steps"] >= found["exploration"]["num_steps"] + 3 * 4 * 4


FOUND = {"log_std": -2.4, "lr_factor": 0.3, "success": 0.5, "success_without": 0.6}


def test_a_resumed_run_explores_as_it_began(tmp_path: Path) -> None:
    config = load_arm_config("reach", [*GIVEN, "policy.log_std=-1.2"])
    policy = new_policy(Sizes(1, 1), config.policy, seed=0)
    assert isinstance(policy, GaussianPolicy)
    first = explore_as_kept(tmp_path / "ppo", policy, lambda: FOUND)
    policy.explore(-1.2)
    # an environment that does not repeat its starts would give another measurement
    again = explore_as_kept(tmp_path / "ppo", policy, lambda: pytest.fail("it is measured again"))
    assert again == first and float(policy.log_std.detach().mean()) == pytest.approx(-2.4)


def test_success_is_needed_to_keep_it(small: list[str]) -> None:
    with pytest.raises(InputError, match=r"ppo.keep_success=0.8 is of success, but measure=return"):
        load_arm_config("reach", [*small, "measure=return", "ppo.keep_success=0.8"])


def test_token_probabilities_have_no_deviation_to_lower(small: list[str]) -> None:
    with pytest.raises(
        InputError, match=r"ppo.keep_success=0.8 lowers policy.log_std, and policy.kind=tokens explores"
    ):
        load_arm_config("reach", [*small, "policy.kind=tokens", "policy.hidden_size=64", "ppo.keep_success=0.8"])
