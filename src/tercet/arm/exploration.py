"""How much a clone may explore: as much as its success survives.

PPO improves the policy with exploration. If noise makes a good clone fail, PPO first has to win back what the noise has
cost, and learns from episodes unlike those of the clone. How much noise a task bears is not known in advance.

A step of the optimizer moves the mean action. What matters to PPO is how many deviations that is, so the learning rate
is lowered by the same factor as the deviation.
"""

import math
from collections.abc import Callable
from pathlib import Path

import torch
from gymnasium.vector import VectorEnv

from tercet.arm.play.agent import sample_episodes
from tercet.arm.policies.policy import Policy
from tercet.core.noise import coloured
from tercet.runs.integrity import read_json
from tercet.runs.intermediate import is_kept, keep_file
from tercet.runs.progress import say
from tercet.runs.rows import dump
from tercet.train import chance

FILE = "exploration.json"

STEP, LEAST = 0.4, -4.0  # of the logarithm of the standard deviation
MOST_EPISODES = 64  # for each candidate; in a slow simulator more would cost as much as several updates
_NOTICEABLE = 0.1  # success below it is too rare to compare


def explore_as_kept(step: Path, policy: Policy, lower: Callable[[], dict[str, float]]) -> dict[str, float]:
    """Set the exploration that `lower` finds, or that a resumed step found before; return what was measured."""
    if not is_kept(step, FILE):
        found = lower()
        say(
            f"ppo: explores with log_std={found['log_std']:g} and {found['lr_factor']:.2g} of the learning rate; the "
            f"initial policy then succeeds on {found['success']:.0%}, and without on {found['success_without']:.0%}"
        )
        keep_file(step, FILE, dump(found, indent=2) + "\n")
    found = read_json(step / FILE, dict, f"remove {step} to start ppo again")
    policy.explore(found["log_std"])
    return found


def lower_exploration(
    env: VectorEnv,
    policy: Policy,
    *,
    log_std: float,
    keep: float,
    num: int,
    horizon: int,
    seed: int,
    noise_exponent: float = 0.0,
) -> dict[str, float]:
    """Set the largest exploration, from `log_std` downwards, with which the policy keeps a share of its success.

    The share is `keep`; success is that of `num` episodes, the same starts for every candidate. A policy that hardly
    ever succeeds keeps `log_std`. Return what was chosen and measured.
    """
    starts = chance.integer(seed, "exploration")

    def success(noise: torch.Tensor | None) -> float:
        played = sample_episodes(env, policy, noise, num=num, horizon=horizon, seed=starts)
        return float(played.episodes.succeeded().float().mean())

    alone = success(None)
    white = torch.randn(horizon, num, policy.noise_size, generator=chance.generator(seed, "exploration noise"))
    noise = coloured(white, exponent=noise_exponent)
    chosen, explored = log_std, success(noise)
    while alone >= _NOTICEABLE and explored < keep * alone and chosen - STEP >= LEAST:
        chosen = round(chosen - STEP, 3)
        policy.explore(chosen)
        explored = success(noise)
    num_steps = (2 + round((log_std - chosen) / STEP)) * num * horizon
    factor = math.exp(chosen - log_std)
    found = {"log_std": chosen, "lr_factor": factor, "success": explored, "success_without": alone}
    return found | {"num_steps": num_steps}
