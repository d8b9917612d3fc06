"""The simulated arm behind LeRobot's robot interface, with its scripted expert as the teacher."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from tercet.arm.robot.calibration import KEYS, to_joints, to_values
from tercet.arm.sim import kinematics
from tercet.arm.sim.cameras import Camera
from tercet.arm.sim.env import ArmEnv
from tercet.arm.sim.scene import CAMERAS
from tercet.arm.sim.workspace import STEPS, within_limits
from tercet.config.robot import CalibrationConfig
from tercet.errors import InputError

_GOAL = ("goal.x", "goal.y", "goal.z")
_CUBE = ("cube.x", "cube.y", "cube.z", "cube.turn")
_PICTURE = (240, 320, 3)


class SimulatedArm:
    """One arm at a built-in task; each `send_action` moves it on by a step, as 50 ms of a real one would.

    `cameras` are those of the model by the names under which they are told.
    """

    name = "tercet_simulated"
    is_calibrated = True

    def __init__(
        self,
        task: str,
        calibration: CalibrationConfig,
        *,
        seed: int = 0,
        cameras: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        unknown = [name for name in cameras.values() if name not in CAMERAS]
        if unknown:
            raise InputError(f"cameras: the simulated arm has no {', '.join(unknown)}; it has {', '.join(CAMERAS)}")
        self.env = ArmEnv(task, 1, seed=seed, horizon=10**9, num_threads=1)
        self.calibration, self._cameras = calibration, dict(cameras)
        self.is_connected = False

    @property
    def observation_features(self) -> dict[str, Any]:  # Any: LeRobot's; a type, or a picture's shape
        """Joints, the goal, the cube where there is one, and with cameras their pictures."""
        cube = dict.fromkeys((*_GOAL, *(_CUBE if self.env.task.has_cube else ())), float)
        return {**dict.fromkeys(KEYS, float), **cube, **dict.fromkeys(self._cameras, _PICTURE)}

    @property
    def action_features(self) -> dict[str, Any]:  # Any: likewise
        """The six joints."""
        return dict.fromkeys(KEYS, float)

    def connect(self, calibrate: bool = True) -> None:
        """Nothing to open."""
        self.is_connected = True

    def disconnect(self) -> None:
        """End the simulation."""
        self.is_connected = False
        self.env.close()

    def get_observation(self) -> dict[str, Any]:  # Any: numbers, and pictures
        """Where joints, goal and cube are."""
        self._check()
        now = self.env.readings()
        seen: dict[str, Any] = dict(to_values(self.env.joints()[0], self.calibration))
        seen |= dict(zip(_GOAL, now.goal[0].tolist(), strict=True))
        if self.env.task.has_cube:
            seen |= dict(zip(_CUBE, (*now.cube[0].tolist(), float(now.cube_turn[0])), strict=True))
        drawn = self.env.pictures([Camera(name, *_PICTURE[:2]) for name in self._cameras.values()], np.ones(1, bool))
        seen |= {key: picture[0] for key, picture in zip(self._cameras, drawn, strict=True)}
        return seen

    def send_action(self, action: dict[str, float]) -> dict[str, float]:
        """Move towards these joints for one step."""
        self._check()
        self.env.servo(to_joints(action, self.calibration)[None])
        return action

    def _check(self) -> None:
        if not self.is_connected:
            raise ConnectionError(f"{self.name} is not connected")


class SimulatedTeacher:
    """A leader arm that the scripted expert moves, in place of a person."""

    is_calibrated = True

    def __init__(self, robot: SimulatedArm) -> None:
        self._robot = robot

    def connect(self, calibrate: bool = True) -> None:
        """Nothing to open."""

    def disconnect(self) -> None:
        """Nothing to close."""

    def get_action(self) -> dict[str, float]:
        """Return the joints to which the expert would send the robot."""
        env = self._robot.env
        now = env.readings()
        actions = env.expert_actions().astype(np.float64)
        sent = np.column_stack([now.target, now.target_turn, now.target_opening])
        hand = within_limits(sent + STEPS * actions)
        return to_values(np.append(kinematics.inverse(hand[:, :3], hand[:, 3])[0], hand[0, 4]), self._robot.calibration)
