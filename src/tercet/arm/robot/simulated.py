"""Simulated arms with LeRobot's robot interface, and the scripted expert with that of a leader arm."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from tercet.arm.robot.calibration import KEYS, to_joints, to_values
from tercet.arm.sim import kinematics
from tercet.arm.sim.arms import PRIMITIVE, ArmModel
from tercet.arm.sim.cameras import Camera
from tercet.arm.sim.env import ArmEnv
from tercet.arm.sim.kinematics import JOINTS, Array
from tercet.arm.sim.scene import CAMERAS
from tercet.arm.sim.workspace import STEPS
from tercet.config.robot import CalibrationConfig
from tercet.errors import InputError

_GOAL = ("goal.x", "goal.y", "goal.z")
_CUBE = ("cube.x", "cube.y", "cube.z", "cube.turn")
_PICTURE = (240, 320, 3)
_HAND, _FINGER = 0.3, 0.0002  # degrees and metres by which a hand misses a pose, as a standard deviation


class SimulatedArm:
    """One arm at a built-in task. Each `send_action` simulates one step of 50 ms.

    `cameras` maps the names in observations to cameras of the model.
    """

    name = "tercet_simulated"
    is_calibrated = True

    def __init__(
        self,
        task: str,
        calibration: CalibrationConfig,
        *,
        arm: ArmModel = PRIMITIVE,
        seed: int = 0,
        cameras: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        unknown = [name for name in cameras.values() if name not in CAMERAS]
        if unknown:
            raise InputError(f"cameras: the simulated arm has no {', '.join(unknown)}; it has {', '.join(CAMERAS)}")
        self.env = ArmEnv(task, 1, arm=arm, seed=seed, horizon=10**9, num_threads=1)
        self.calibration, self._cameras = calibration, dict(cameras)
        self.is_connected = False

    @property
    def observation_features(self) -> dict[str, Any]:  # Any: LeRobot's; a type, or the shape of an image
        """Joints, the goal, the cube of tasks that have one, and the images of the cameras."""
        cube = dict.fromkeys((*_GOAL, *(_CUBE if self.env.task.has_cube else ())), float)
        return {**dict.fromkeys(KEYS, float), **cube, **dict.fromkeys(self._cameras, _PICTURE)}

    @property
    def action_features(self) -> dict[str, Any]:  # Any: as above
        """The six joints."""
        return dict.fromkeys(KEYS, float)

    def connect(self, calibrate: bool = True) -> None:
        """Mark the arm as connected."""
        self.is_connected = True

    def disconnect(self) -> None:
        """End the simulation."""
        self.is_connected = False
        self.env.close()

    def get_observation(self) -> dict[str, Any]:  # Any: numbers and images
        """Return joints, goal, cube and images."""
        self._check()
        now = self.env.readings()
        observation: dict[str, Any] = dict(to_values(self.env.joints()[0], self.calibration))
        observation |= dict(zip(_GOAL, now.goal[0].tolist(), strict=True))
        if self.env.task.has_cube:
            observation |= dict(zip(_CUBE, (*now.cube[0].tolist(), float(now.cube_turn[0])), strict=True))
        images = self.env.pictures([Camera(name, *_PICTURE[:2]) for name in self._cameras.values()], np.ones(1, bool))
        observation |= {key: image[0] for key, image in zip(self._cameras, images, strict=True)}
        return observation

    def send_action(self, action: dict[str, float]) -> dict[str, float]:
        """Move towards these joints for one step."""
        self._check()
        self.env.servo(to_joints(action, self.calibration)[None])
        return action

    def _check(self) -> None:
        if not self.is_connected:
            raise ConnectionError(f"{self.name} is not connected")


class PosedArm:
    """A simulated arm without power in the hands of a person, whose zeros and signs are those of no file.

    `pose` brings it into a pose as exactly as a hand does.
    """

    name = "tercet_posed"
    is_calibrated = True
    observation_features = action_features = dict.fromkeys(KEYS, float)

    def __init__(self, calibration: CalibrationConfig, *, seed: int = 0) -> None:
        self._chance = np.random.default_rng(seed)
        self.calibration, self._joints, self.is_limp = falsified(calibration, self._chance), np.zeros(len(KEYS)), False

    @property
    def bus(self) -> "PosedArm":
        """Itself: it has no motors but those that can be switched off."""
        return self

    def disable_torque(self) -> None:
        """Switch off the motors."""
        self.is_limp = True

    def connect(self, calibrate: bool = True) -> None:
        """Do nothing."""

    def disconnect(self) -> None:
        """Do nothing."""

    def pose(self, joints: Array) -> None:
        """Bring it to joints (6,) by hand."""
        errors = np.array([*[np.radians(_HAND)] * len(JOINTS), _FINGER]) * self._chance.standard_normal(len(KEYS))
        self._joints = joints + errors

    def get_observation(self) -> dict[str, Any]:  # Any: LeRobot's
        """Return the joints."""
        return dict(to_values(self._joints, self.calibration))

    def send_action(self, action: dict[str, float]) -> dict[str, float]:
        """Refuse: nothing may move while a person holds the arm."""
        raise ConnectionError(f"{self.name} was sent a command while a person poses it")


def falsified(calibration: CalibrationConfig, chance: np.random.Generator) -> CalibrationConfig:
    """Return a calibration with other zeros, by up to 30 degrees, and other signs."""
    tree = calibration.model_dump()
    for name in JOINTS:
        tree[name]["zero"] += chance.uniform(-30, 30)
        tree[name]["degrees_per_unit"] *= chance.choice([-1.0, 1.0])
    grip = tree["gripper"]
    grip["closed"], grip["wide"] = grip["wide"] + chance.uniform(-5, 5), grip["closed"] + chance.uniform(-5, 5)
    return CalibrationConfig.model_validate(tree)


class SimulatedTeacher:
    """A leader arm that is moved by the scripted expert in place of a person."""

    is_calibrated = True

    def __init__(self, robot: SimulatedArm) -> None:
        self._robot = robot

    def connect(self, calibrate: bool = True) -> None:
        """Mark the arm as connected."""

    def disconnect(self) -> None:
        """Do nothing."""

    def get_action(self) -> dict[str, float]:
        """Return the joints to which the expert moves the robot."""
        env = self._robot.env
        now = env.readings()
        actions = env.expert_actions().astype(np.float64)
        sent = np.column_stack([now.target, now.target_turn, now.target_opening])
        hand = env.arm.within(sent + STEPS * actions)
        return to_values(np.append(kinematics.inverse(hand[:, :3], hand[:, 3])[0], hand[0, 4]), self._robot.calibration)
