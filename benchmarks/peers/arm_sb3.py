"""Run Stable-Baselines3's PPO on the same arm until 95 % of the held-out starts succeed; print one line of JSON.

    PYTHONPATH=src:benchmarks $PEERS/venv-sb3/bin/python benchmarks/peers/arm_sb3.py --task reach --settings ours

Environments, steps per rollout and networks are the same. `--settings ours` also takes minibatches, epochs, learning
rate and discount from the preset; `theirs` uses its defaults; `normalized` adds `VecNormalize`, as its tuned settings
for MuJoCo's tasks do. The adapter only passes arrays on.
"""

from typing import Any

import numpy as np
import stable_baselines3
import torch
from arm_work import Race, config_of, make, parser
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from tercet.arm.networks.sizes import Sizes
from tercet.arm.policies.gaussian import GaussianPolicy, load_gaussian
from tercet.arm.sim.env import ArmEnv
from tercet.config.arm import ArmConfig


class Adapter(VecEnv):
    """Tercet's vector environment with the interface of Stable-Baselines3, which resets itself."""

    def __init__(self, env: ArmEnv) -> None:
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)
        self.env = env
        self._quiet: list[dict[str, Any]] = [{} for _ in range(env.num_envs)]

    def reset(self) -> np.ndarray:
        return self.env.reset(seed=self._seeds[0])[0]

    def step_async(self, actions: np.ndarray) -> None:
        self.actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        seen, rewards, terminated, truncated, _ = self.env.step(self.actions)
        done = terminated | truncated
        if not done.any():
            return seen, rewards, done, self._quiet
        infos = [
            {"terminal_observation": seen[index], "TimeLimit.truncated": not terminated[index]} if done[index] else {}
            for index in range(self.num_envs)
        ]
        return self.env.reset(options={"reset_mask": done})[0], rewards, done, infos

    def close(self) -> None:
        self.env.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self.env, attr_name, None)] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise NotImplementedError

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        raise NotImplementedError

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        return [False] * self.num_envs


class Standardised(FlattenExtractor):
    """Observations, standardised as for the clone."""

    def __init__(self, space: Any, scaled: torch.nn.Module) -> None:
        super().__init__(space)
        self.scaled = scaled

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return self.scaled(super().forward(observations))


class Judged(BaseCallback):
    """Evaluate the policy after each update, and stop if the target is reached."""

    def __init__(self, race: Race) -> None:
        super().__init__()
        self.race, self.enough = race, False

    def _on_rollout_start(self) -> None:
        self.enough = self.race.judge(self.most_likely, self.num_timesteps)

    def _on_training_end(self) -> None:
        if not self.enough:
            self.race.judge(self.most_likely, self.num_timesteps)

    def _on_step(self) -> bool:
        return not self.enough

    def most_likely(self, seen: np.ndarray) -> np.ndarray:
        normalize = self.model.get_vec_normalize_env()
        seen = seen if normalize is None else normalize.normalize_obs(seen)
        return self.model.predict(seen, deterministic=True)[0]


def settings_of(config: ArmConfig, name: str) -> dict[str, Any]:
    """Return the settings of PPO, except the size of the rollout and the networks."""
    if name != "ours":
        return {}
    ppo = config.ppo
    return {
        "learning_rate": lambda remaining: ppo.lr * remaining,
        "batch_size": ppo.num_envs * config.horizon // ppo.num_minibatches,
        "n_epochs": ppo.epochs,
        "gamma": ppo.gamma,
        "gae_lambda": ppo.lam,
        "clip_range": ppo.clip_range,
        "max_grad_norm": ppo.max_grad_norm,
        "target_kl": ppo.kl_stop / 1.5,  # it stops at 1.5 times the given number
    }


def networks(config: ArmConfig, clone: GaussianPolicy | None, name: str) -> dict[str, Any]:
    """Return two separate tanh networks of the preset's size."""
    hidden = [config.policy.hidden_size] * config.policy.num_layers
    found: dict[str, Any] = {"net_arch": {"pi": hidden, "vf": hidden}, "activation_fn": torch.nn.Tanh}
    if name == "ours" or clone is not None:
        found["log_std_init"] = config.policy.log_std
    if clone is not None:
        found |= {"features_extractor_class": Standardised, "features_extractor_kwargs": {"scaled": clone.scaled}}
    return found


def put(clone: GaussianPolicy, model: PPO) -> None:
    """Load the clone's weights into the actor."""
    theirs = [*model.policy.mlp_extractor.policy_net, model.policy.action_net]
    for mine, other in zip(clone.net, theirs, strict=True):
        other.load_state_dict(mine.state_dict())


def main() -> None:
    """Train until the target is reached."""
    command = parser(__doc__ or "")
    command.add_argument("--settings", choices=("ours", "theirs", "normalized"), default="ours")
    settings = command.parse_args()
    config = config_of(settings)
    env: VecEnv = Adapter(make(settings, config.ppo.num_envs))
    clone = None
    if settings.clone:
        sizes = Sizes(env.observation_space.shape[0], env.action_space.shape[0])
        clone = load_gaussian(settings.clone / "bc" / "model", sizes)
    if settings.settings == "normalized":
        env = VecNormalize(env)
    race = Race(f"stable-baselines3 {stable_baselines3.__version__}", settings)
    model = PPO(
        "MlpPolicy",
        env,
        n_steps=config.horizon,
        policy_kwargs=networks(config, clone, settings.settings),
        seed=settings.seed,
        device="cpu",
        **settings_of(config, settings.settings),
    )
    if clone is not None:
        put(clone, model)
    race.start()
    model.learn(config.ppo.num_updates * config.ppo.num_envs * config.horizon, callback=Judged(race))
    race.report()


if __name__ == "__main__":
    main()
