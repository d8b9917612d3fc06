"""A simulated arm behind LeRobot's interface, driven by the scripted expert."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tercet.arm.robot import control, deploy
from tercet.arm.robot.calibration import limits
from tercet.arm.robot.control import Operators, SimulatedClock, Tick, drive
from tercet.arm.robot.devices import Arm, Observation, find_cube
from tercet.arm.robot.pilot import StateEstimator, joints_for
from tercet.arm.robot.safety import Guard
from tercet.arm.robot.simulated import SimulatedArm
from tercet.arm.sim.kinematics import Array
from tercet.arm.sim.tasks.builtin import TASKS
from tercet.config.load import load_robot_config
from tercet.config.robot import RobotConfig

CONFIG = load_robot_config("simulated", [])


class ExpertPilot:
    """A policy that knows: what the scripted expert does, by way of an action and no further."""

    def __init__(self, robot: SimulatedArm) -> None:
        self.robot = robot

    def wanted(self, observation: Array, sent: Array, seen: Observation, *, fresh: bool) -> Array:
        return joints_for(sent, self.robot.env.expert_actions().astype(np.float64))


class Rehearsal:
    """A connected simulated arm with its guard, ready to be driven."""

    def __init__(self, task: str, *, config: RobotConfig = CONFIG, seed: int = 0) -> None:
        self.config = config
        self.robot = SimulatedArm(task, config.calibration, seed=seed)
        self.arm = Arm(self.robot, config).__enter__()
        self.clock = SimulatedClock()
        self.guard = Guard(limits(config), self.arm.read()[0], deadline=0.15, max_lag=0.26)
        self.estimator = StateEstimator(TASKS[task], np.array(config.goal), find_cube(config.cube))
        self.ticks: list[Tick] = []

    def drive(
        self, operators: Operators, *, seconds: float = 3.0, arm: control.JointArm | None = None, **rest: Any
    ) -> list[Tick]:
        """What happened. Any: as drive takes it."""
        watch = rest.pop("watch", self.ticks.append)
        drive(arm or self.arm, self.guard, operators, self.estimator, self.clock, seconds=seconds, watch=watch, **rest)
        return self.ticks


@pytest.fixture
def lift() -> Iterator[Rehearsal]:
    one = Rehearsal("lift")
    yield one
    one.arm.__exit__(None, None, None)


def keys_at(presses: Mapping[int, str]) -> Any:  # Any: a function of nothing
    """Keys that are pressed at certain steps."""
    steps = iter(range(10**6))
    return lambda: presses.get(next(steps), "")


def no_keys() -> str:
    return ""


def session(times: int = 1, *, keep: Path | None = None, pilot: Any = None) -> deploy.Session:  # Any: a Pilot's double
    return deploy.Session(TASKS["lift"], pilot, times, 6.0, True, keep)


def run_session(config: RobotConfig, one: deploy.Session, keys: str = "") -> tuple[Sequence[deploy.Try], list[str]]:
    said: list[str] = []
    tries = deploy.run(config, one, keys=lambda: keys, clock=SimulatedClock(), say=said.append)
    return tries, said
