"""A policy of a run for other programs: from a robot's own numbers and images to joints in its units, behind the guard.

An exported folder is a policy of LeRobot of the type `tercet`. The package `lerobot_policy_tercet` reads it there.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tercet.arm.play.environments import sizes_of_task
from tercet.arm.policies.act_files import IMAGES, STATES
from tercet.arm.policies.kinds import load_policy
from tercet.arm.policies.policy import Policy
from tercet.arm.robot import calibration
from tercet.arm.robot.deploy import policy_of
from tercet.arm.robot.devices import NO_CUBE, Observation, find_cube
from tercet.arm.robot.pilot import GOAL, Pilot, StateEstimator
from tercet.arm.robot.safety import Guard
from tercet.arm.sim.arms import find_arm
from tercet.arm.sim.physics import STEP_SECONDS
from tercet.arm.sim.tasks.builtin import arm_task
from tercet.arm.sim.tasks.task import Task
from tercet.config.load import load_robot_config
from tercet.config.robot import RobotConfig
from tercet.errors import InputError
from tercet.runs.atomic import replace_folder
from tercet.runs.progress import say

TYPE = "tercet"  # in LeRobot
CUBE_AND_GOAL = ("cube.x", "cube.y", "cube.z", "cube.turn", *GOAL)  # of `observation.environment_state`
_MODEL, _ROBOT = Path("tercet/model"), Path("tercet/robot.yaml")
_STEPS = [
    {"registry_name": "rename_observations_processor", "config": {"rename_map": {}}},
    {"registry_name": "to_batch_processor", "config": {}},
    {"registry_name": "device_processor", "config": {"device": "cpu", "float_dtype": None}},
]


def export(run: Path, stage: str, folder: Path, config: RobotConfig) -> list[str]:
    """Write the policy of a stage for a robot into a new folder, and say what its user must know."""
    if folder.exists():
        raise InputError(f"{folder}: exists; give a new folder")
    task, pilot = policy_of(run, stage, speed=config.speed)

    def write(partial: Path) -> None:
        shutil.copytree(run / stage / "model", partial / _MODEL)
        tree = config.model_dump(mode="json", exclude_defaults=True)
        (partial / _ROBOT).write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
        _write_json(partial / "config.json", _lerobot_config(task, pilot.policy, config))
        for name, steps in (("policy_preprocessor", _STEPS), ("policy_postprocessor", _STEPS[2:])):
            _write_json(partial / f"{name}.json", {"name": name, "steps": steps})

    replace_folder(folder, write)
    return _notes(task, pilot.policy, config)


def _notes(task: Task, policy: Policy, config: RobotConfig) -> list[str]:
    lines = [f"run it at {round(1 / STEP_SECONDS)} steps per second, as it was trained"]
    if _needs_cube(task, policy, config):
        lines.append(
            "it observes the cube, which a robot of LeRobot does not give: for a real arm, export with "
            "cube=module:function, or train with policy.sees=itself and cameras"
        )
    return lines


def _needs_cube(task: Task, policy: Policy, config: RobotConfig) -> bool:
    """Return True if the cube must be in the observation; another function finds it in the images."""
    return task.has_cube and not policy.sees_itself and config.cube == RobotConfig().cube


def _lerobot_config(task: Task, policy: Policy, config: RobotConfig) -> dict[str, Any]:  # Any: JSON
    inputs: dict[str, Any] = {STATES["robot"]: {"type": "STATE", "shape": [len(calibration.KEYS)]}}  # Any: JSON
    for camera in policy.cameras:
        inputs[f"{IMAGES}{camera.name}"] = {"type": "VISUAL", "shape": [3, camera.height, camera.width]}
    if _needs_cube(task, policy, config):
        inputs[STATES["env"]] = {"type": "ENV", "shape": [len(CUBE_AND_GOAL)]}
    return {
        "type": TYPE,
        "task": task.name,
        "input_features": inputs,
        "output_features": {"action": {"type": "ACTION", "shape": [len(calibration.KEYS)]}},
        "device": "cpu",
        "push_to_hub": False,
    }


def _write_json(file: Path, tree: Mapping[str, Any]) -> None:  # Any: JSON
    file.write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")


class ExportedPolicy:
    """An exported policy that steers one robot. `command` is called once per period of 50 ms."""

    def __init__(self, folder: Path, task: str) -> None:
        self.task = arm_task(task)
        if not (folder / _ROBOT).exists():
            raise InputError(f"{folder}: holds no exported policy; write one with tercet arm export RUN DIR")
        self.config = load_robot_config(folder / _ROBOT, [])
        self._policy = load_policy(folder / _MODEL, sizes_of_task(self.task))
        self.reset()

    def reset(self) -> None:
        """Start an episode: the next observation is that of an arm at rest."""
        config = self.config
        self._pilot = Pilot(self._policy, config.speed)
        cube = find_cube(config.cube if self.task.has_cube else NO_CUBE)
        self._estimator = StateEstimator(self.task, np.array(config.goal), cube, find_arm(config.model))
        self._estimator.begin()
        self._guard: Guard | None = None

    def command(self, observation: Observation) -> dict[str, float]:
        """Return the joints to send, given the robot's observation, as LeRobot names both."""
        config, joints = self.config, calibration.to_joints(observation, self.config.calibration)
        fresh = self._guard is None
        if self._guard is None:
            lag = float(np.radians(config.safety.max_lag))
            self._guard = Guard(calibration.limits(config), joints, deadline=config.safety.deadline, max_lag=lag)
        sent = self._guard.position
        now = self._estimator.readings(joints, sent, observation, elapsed=STEP_SECONDS)
        seen = self.task.observation.build(now)[0].astype(np.float64)
        wanted = self._pilot.wanted(seen, sent, observation, fresh=fresh)
        # the caller paces the steps, so every observation counts as new
        was_stopped = self._guard.stopped
        sent = self._guard.step(wanted, joints, seen_at=0.0, now=0.0).position
        if self._guard.stopped and not was_stopped:  # nobody else would say why the arm stands still
            say(f"tercet: the arm is held until the next episode: {self._guard.stopped}")
        return calibration.to_values(sent, config.calibration)
