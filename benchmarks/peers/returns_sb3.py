"""Train Stable-Baselines3's PPO on an environment's own reward; print one line of JSON.

    PYTHONPATH=benchmarks $PEERS/venv-sb3/bin/python benchmarks/peers/returns_sb3.py --task pendulum --settings zoo

`--settings zoo` takes the tuned settings that rl-baselines3-zoo has for the environment, `default` the library's own
defaults with `VecNormalize`.
"""

from typing import Any

import gymnasium
import numpy as np
import stable_baselines3
import torch
from numpy.typing import NDArray
from returns_work import Race, parser
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

# rl-baselines3-zoo, hyperparams/ppo.yml (HalfCheetah: that of v4); num_envs and normalize are not arguments of PPO
ZOO: dict[str, dict[str, Any]] = {
    "pendulum": {
        "num_envs": 4,
        "normalize": False,
        "n_steps": 1024,
        "gae_lambda": 0.95,
        "gamma": 0.9,
        "n_epochs": 10,
        "ent_coef": 0.0,
        "learning_rate": 1e-3,
        "clip_range": 0.2,
        "use_sde": True,
        "sde_sample_freq": 4,
    },
    "mountain-car": {
        "num_envs": 1,
        "normalize": True,
        "batch_size": 256,
        "n_steps": 8,
        "gamma": 0.9999,
        "learning_rate": 7.77e-5,
        "ent_coef": 0.00429,
        "clip_range": 0.1,
        "n_epochs": 10,
        "gae_lambda": 0.9,
        "max_grad_norm": 5,
        "vf_coef": 0.19,
        "use_sde": True,
        "policy_kwargs": {"log_std_init": -3.29, "ortho_init": False},
    },
    "half-cheetah": {
        "num_envs": 1,
        "normalize": True,
        "batch_size": 64,
        "n_steps": 512,
        "gamma": 0.98,
        "learning_rate": 2.0633e-05,
        "ent_coef": 0.000401762,
        "clip_range": 0.1,
        "n_epochs": 20,
        "gae_lambda": 0.92,
        "max_grad_norm": 0.8,
        "vf_coef": 0.58096,
        "policy_kwargs": {
            "log_std_init": -2,
            "ortho_init": False,
            "activation_fn": torch.nn.ReLU,
            "net_arch": {"pi": [256, 256], "vf": [256, 256]},
        },
    },
}


class Recorded(BaseCallback):
    """Record the episodes that end."""

    def __init__(self, race: Race) -> None:
        super().__init__()
        self.race = race

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "episode" in info:
                self.race.ended(self.num_timesteps, float(info["episode"]["r"]))
        return True


def main() -> None:
    """Train and report."""
    command = parser(__doc__ or "")
    command.add_argument("--settings", choices=("zoo", "default"), default="zoo")
    settings = command.parse_args()
    race = Race(f"stable-baselines3 {stable_baselines3.__version__}", settings)
    numbers = dict(ZOO[settings.task]) if settings.settings == "zoo" else {"num_envs": 1, "normalize": True}
    envs: Any = make_vec_env(race.env_id, n_envs=numbers.pop("num_envs"), seed=settings.seed)
    if numbers.pop("normalize"):
        envs = VecNormalize(envs, gamma=numbers.get("gamma", 0.99))
    model = PPO("MlpPolicy", envs, seed=settings.seed, device="cpu", **numbers)
    race.start()
    model.learn(settings.steps, callback=Recorded(race))
    race.finish(model.num_timesteps)
    scale = model.get_vec_normalize_env()

    def act(seen: NDArray) -> NDArray:
        return model.predict(seen if scale is None else scale.normalize_obs(np.asarray(seen)), deterministic=True)[0]

    race.report(act, lambda: gymnasium.make(race.env_id))


if __name__ == "__main__":
    main()
