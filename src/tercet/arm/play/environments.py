"""Open the environment of a run in as many copies as a step needs."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

from gymnasium.spaces import Box
from gymnasium.vector import VectorEnv

from tercet.arm.networks.sizes import Sizes
from tercet.arm.sim.arms import ArmModel, find_arm
from tercet.arm.sim.env import ACTION, ArmEnv, make_env
from tercet.arm.sim.foreign.environment import ForeignEnv
from tercet.arm.sim.motion import Limits, limits_of
from tercet.arm.sim.randomise import Randomisation
from tercet.arm.sim.tasks.builtin import task_of
from tercet.arm.sim.tasks.task import Task
from tercet.config.arm import ArmConfig

_MAX_FOREIGN_COPIES = 16  # each copy takes long to make and a process of its own


@dataclass(frozen=True)
class EnvFactory:
    """The environment of a run: its name, the steps of an episode, and how it is simulated."""

    name: str
    horizon: int
    randomisation: Randomisation
    limits: Limits | None
    num_threads: int
    arm: ArmModel
    needs_success: bool = True  # False if nothing in the run uses it

    @classmethod
    def of(cls, config: ArmConfig) -> "EnvFactory":
        """Return the factory of a run's config."""
        ranges = config.randomisation
        randomisation = Randomisation(
            mass=(ranges.mass[0], ranges.mass[1]),
            friction=(ranges.friction[0], ranges.friction[1]),
            latency=(ranges.latency[0], ranges.latency[1]),
            camera=ranges.camera,
            sensor_noise=ranges.sensor_noise,
            light=ranges.light,
            texture=ranges.texture,
        )
        arm = find_arm(config.robot.model)
        limits = limits_of(config.safety, arm.limits) if config.safety.in_training else None
        needs_success = config.measure == "success" or "success" in config.ppo.reward
        return cls(config.env, config.horizon, randomisation, limits, config.threads, arm, needs_success)

    @contextmanager
    def open(self, num: int) -> Iterator[VectorEnv]:
        """Open it for `num` episodes at a time. A foreign environment has fewer copies and plays in turns."""
        num_envs = num if task_of(self.name) is not None else min(num, _MAX_FOREIGN_COPIES)
        env = make_env(
            self.name,
            num_envs,
            arm=self.arm,
            horizon=self.horizon,
            randomisation=self.randomisation,
            limits=self.limits,
            num_threads=min(self.num_threads, num_envs),
            needs_success=self.needs_success,
        )
        try:
            yield env
        finally:
            env.close()


def bounds_of(env: VectorEnv) -> Box:
    """Bounds of the environment's own actions, to which actions in [-1, 1] are scaled."""
    return env.bounds if isinstance(env, ForeignEnv) else cast(Box, env.single_action_space)


def sizes_of_task(task: Task) -> Sizes:
    """Sizes of the observations and actions of a task of the built-in arm."""
    layout, sentences = task.observation, tuple(one.sentence for one in task.instructions)
    return Sizes(len(layout), len(ACTION), layout.robot, layout.names, layout.told, layout.of, sentences)


def sizes_of(env: VectorEnv) -> Sizes:
    """Sizes of the environment's observations and actions."""
    observation, action = cast(Box, env.single_observation_space), cast(Box, env.single_action_space)
    if isinstance(env, ArmEnv):
        return sizes_of_task(env.task)
    return Sizes(observation.shape[0], action.shape[0])
