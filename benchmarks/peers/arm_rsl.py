"""Run rsl_rl's PPO on the same arm until 95 % of the held-out starts succeed; print one line of JSON.

    PYTHONPATH=src:benchmarks $PEERS/venv-sb3/bin/python benchmarks/peers/arm_rsl.py --task reach --settings ours

Environments, steps per rollout and the shape of the networks are the same. `--settings ours` also takes minibatches,
epochs, learning rate and discount from the preset; `theirs` uses its own settings, with the adaptive learning rate.
"""

import contextlib
import math
import sys
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from arm_work import Race, config_of, make, parser
from rsl_rl.env import VecEnv
from rsl_rl.runners import OnPolicyRunner
from tensordict import TensorDict

from tercet.arm.sim.env import ArmEnv
from tercet.config.arm import ArmConfig


class Adapter(VecEnv):
    """Tercet's vector environment with rsl_rl's interface: it resets itself and names truncations in the extras."""

    def __init__(self, env: ArmEnv) -> None:
        self.env, self.cfg, self.device = env, {}, "cpu"
        self.num_envs, self.num_actions = env.num_envs, env.single_action_space.shape[0]
        self.max_episode_length = env.horizon
        self.episode_length_buf = torch.zeros(env.num_envs, dtype=torch.long)
        self._seen = env.reset()[0]

    def get_observations(self) -> TensorDict:
        return TensorDict({"policy": torch.from_numpy(self._seen)}, batch_size=self.num_envs)

    def step(self, actions: torch.Tensor) -> tuple[TensorDict, torch.Tensor, torch.Tensor, dict[str, Any]]:
        self._seen, rewards, terminated, truncated, _ = self.env.step(actions.numpy())
        done = terminated | truncated
        if done.any():
            self._seen, _ = self.env.reset(options={"reset_mask": done})
        cut = {"time_outs": torch.from_numpy(truncated)}
        return self.get_observations(), torch.from_numpy(rewards).float(), torch.from_numpy(done), cut


def settings_of(config: ArmConfig, name: str) -> dict[str, Any]:
    """Return the configuration of the runner."""
    ppo, network = config.ppo, {"hidden_dims": [config.policy.hidden_size] * config.policy.num_layers}
    network |= {"class_name": "MLPModel", "activation": "tanh"}
    numbers: dict[str, Any] = {"class_name": "PPO"}
    if name == "ours":
        numbers |= {"num_mini_batches": ppo.num_minibatches, "num_learning_epochs": ppo.epochs}
        numbers |= {"gamma": ppo.gamma, "lam": ppo.lam, "clip_param": ppo.clip_range, "entropy_coef": ppo.entropy_coef}
        numbers |= {"learning_rate": ppo.lr, "schedule": "fixed", "max_grad_norm": ppo.max_grad_norm}
    std = math.exp(config.policy.log_std) if name == "ours" else 1.0
    return {
        "num_steps_per_env": config.horizon,
        "save_interval": 10**9,
        "obs_groups": {"actor": ["policy"], "critic": ["policy"]},
        "algorithm": numbers,
        "actor": {**network, "distribution_cfg": {"class_name": "GaussianDistribution", "init_std": std}},
        "critic": network,
    }


def main() -> None:
    """Train until the target is reached."""
    command = parser(__doc__ or "")
    command.add_argument("--settings", choices=("ours", "theirs"), default="ours")
    settings = command.parse_args()
    assert not settings.clone, "rsl_rl starts from scratch here"
    config = config_of(settings)
    torch.manual_seed(settings.seed)
    race = Race(f"rsl_rl {version('rsl-rl-lib')}", settings)
    with contextlib.redirect_stdout(sys.stderr):  # it prints a table after every update
        env = Adapter(make(settings, config.ppo.num_envs))
        runner = OnPolicyRunner(env, settings_of(config, settings.settings), log_dir=None, device="cpu")

        @torch.inference_mode()
        def act(seen: np.ndarray) -> np.ndarray:
            return runner.alg.actor(TensorDict({"policy": torch.from_numpy(seen)}, batch_size=len(seen))).numpy()

        race.start()
        enough, steps = race.judge(act, 0), 0
        for _ in range(config.ppo.num_updates):
            if enough:
                break
            runner.learn(1)
            steps += env.num_envs * config.horizon
            enough = race.judge(act, steps)
    race.report()


if __name__ == "__main__":
    main()
