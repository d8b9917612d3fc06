"""The environment that a config names, in as many copies as are worth having."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

from gymnasium.spaces import Box
from gymnasium.vector import VectorEnv

from tercet.arm.policies.roles import Sizes
from tercet.arm.sim.env import ArmEnv, make_env
from tercet.arm.sim.foreign.environment import ForeignEnv
from tercet.arm.sim.randomise import Randomisation
from tercet.arm.sim.tasks import TASKS
from tercet.config.arm import ArmConfig

_MOST_COPIES = 16  # of another's environment, which takes long to make and a process of its own


@contextmanager
def opened(config: ArmConfig, num: int) -> Iterator[VectorEnv]:
    """For `num` episodes at a time, all side by side; of another's environment in turns. Closed in the end."""
    ranges = config.randomisation
    num_envs = num if config.env in TASKS else min(num, _MOST_COPIES)
    env = make_env(
        config.env,
        num_envs,
        horizon=config.horizon,
        randomisation=Randomisation(
            mass=(ranges.mass[0], ranges.mass[1]),
            friction=(ranges.friction[0], ranges.friction[1]),
            latency=(ranges.latency[0], ranges.latency[1]),
            camera=ranges.camera,
            sensor_noise=ranges.sensor_noise,
        ),
        num_threads=min(config.threads, num_envs),
    )
    try:
        yield env
    finally:
        env.close()


def bounds_of(env: VectorEnv) -> Box:
    """What the environment's own step takes, which actions in [-1, 1] are scaled to."""
    return env.bounds if isinstance(env, ForeignEnv) else cast(Box, env.single_action_space)


def sizes_of(env: VectorEnv) -> Sizes:
    """How many numbers the environment shows and takes."""
    seen, taken = cast(Box, env.single_observation_space), cast(Box, env.single_action_space)
    return Sizes(seen.shape[0], taken.shape[0], env.own if isinstance(env, ArmEnv) else ())
