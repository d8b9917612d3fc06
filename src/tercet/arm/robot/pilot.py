"""Run a simulation-trained policy on an arm: estimate its observations, and convert its actions to joints."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tercet.arm.policies.policy import Policy
from tercet.arm.robot.devices import CubeFinder, Observation
from tercet.arm.sim import kinematics
from tercet.arm.sim.arms import PRIMITIVE, ArmModel
from tercet.arm.sim.cameras import Camera, Picture, as_picture
from tercet.arm.sim.kinematics import JOINTS, Array
from tercet.arm.sim.readings import Readings, quarter
from tercet.arm.sim.scene import OPENING
from tercet.arm.sim.tasks.task import Task
from tercet.arm.sim.workspace import OPENING_STEP, STEP, STEPS, TURN_STEP, within_limits
from tercet.errors import InputError

_COUNT = len(JOINTS)
GOAL = ("goal.x", "goal.y", "goal.z")  # in the robot's observation; without them the goal is that of the config
_END = 0.001  # metres between a finger and the end of its range; a trigger that is squeezed does not read exactly 0
_FASTEST = 1.0  # m/s; a higher speed of the cube means that its position was lost


class StateEstimator:
    """Estimate the readings of a task from a robot's observations. It stores the cube's last position."""

    def __init__(self, task: Task, goal: Array, find_cube: CubeFinder, arm: ArmModel = PRIMITIVE) -> None:
        self.task, self._arm = task, arm
        self._goal, self._find_cube = goal, find_cube
        self._last: Array | None = None

    def begin(self) -> None:
        """Start an episode. The cube starts at rest, and the goal of a lift is above its position."""
        self._last = None

    def readings(self, joints: Array, sent: Array, robot_observation: Observation, *, elapsed: float) -> Readings:
        """Return readings for measured and last sent joints (6,), `elapsed` seconds after the previous readings."""
        hand, target = kinematics.forward(joints[None, :_COUNT]), kinematics.forward(sent[None, :_COUNT])
        if self.task.goal_above_cube is None and all(key in robot_observation for key in GOAL):
            self._goal = np.array([float(robot_observation[key]) for key in GOAL])
        cube, turn = np.zeros(3), 0.0
        velocity = np.zeros(3)
        if self.task.has_cube:
            *position, turn = self._find_cube(robot_observation)
            cube = np.array(position)
            if self._last is None and self.task.goal_above_cube is not None:
                self._goal = cube + np.array([0.0, 0.0, self.task.goal_above_cube])
            velocity = np.clip((cube - (cube if self._last is None else self._last)) / elapsed, -_FASTEST, _FASTEST)
            self._last = cube
        opening = joints[None, _COUNT]
        return Readings(
            tip=hand.tip,
            aside=self._arm.aside(hand.turn, opening),
            turn=hand.turn,
            opening=opening,
            target=target.tip,
            target_turn=target.turn,
            target_opening=sent[None, _COUNT],
            cube=cube[None],
            cube_turn=quarter(np.array([turn])),
            cube_velocity=velocity[None],
            goal=self._goal[None],
        )


class Pilot:
    """A policy that steers; each of its movements is scaled by `speed`.

    A chunk is executed to its end before the next decision, as in training (`agent.Agent`). With `chance`, decisions
    are drawn from it; without, they are the most likely ones.
    """

    def __init__(self, policy: Policy, speed: float = 1.0, chance: torch.Generator | None = None) -> None:
        self.policy, self.speed, self._chance = policy, speed, chance
        self._left: list[Tensor] = []  # actions (a,) of the current chunk that are not executed yet

    def wanted(self, observation: Array, sent: Array, robot_observation: Observation, *, fresh: bool) -> Array:
        """Return the joints (6,) to move to, given the policy's observation (o,) and the last command `sent` (6,).

        `fresh` is True if the policy did not steer the step before. The rest of its chunk is then outdated.
        """
        if fresh or not self._left:
            with torch.no_grad():
                state = torch.from_numpy(observation.astype(np.float32))[None]
                pictures = [torch.from_numpy(one)[None] for one in seen(robot_observation, self.policy.cameras)]
                noise = self._chance and torch.randn(1, self.policy.noise_size, generator=self._chance)
                self._left = list(
                    self.policy.actions(self.policy.decide(state, noise, *self.policy.look(*pictures)))[0]
                )
        action = self._left.pop(0)[None]
        moves = self.speed * action.clamp(-1.0, 1.0).double().numpy()
        moves[:, -1] = action[:, -1].clamp(-1.0, 1.0)  # a gripper that closes slowly drops the cube
        return joints_for(sent, moves)


def seen(observation: Observation, cameras: Sequence[Camera]) -> tuple[Picture, ...]:
    """Return the pictures of a robot's observation as a policy with these cameras gets them. InputError without one."""
    return tuple(_picture(observation, camera) for camera in cameras)


def _picture(observation: Observation, camera: Camera) -> Picture:
    picture = as_picture(observation.get(camera.name))
    if picture is None:
        names = ", ".join(key for key, value in observation.items() if isinstance(value, np.ndarray)) or "none"
        raise InputError(
            f"the policy needs images of the camera {camera.name}, but the robot has: {names}; give cameras="
            f"{{{camera.name}: /dev/video0}}"
        )
    return camera.fitted(picture)


def joints_for(sent: Array, action: Array) -> Array:
    """Return the joints (6,) to which an action (1, 5) sends an arm whose last command was `sent` (6,)."""
    hand = kinematics.forward(sent[None, :_COUNT])
    before = np.column_stack([hand.tip, hand.turn, sent[None, _COUNT]])
    after = within_limits(before + STEPS * action)
    return np.append(kinematics.inverse(after[:, :3], after[:, 3])[0], after[0, 4])


def action_between(before: Array, after: Array) -> Array:
    """Return the action (5,) in [-1, 1] that moves the command from `before` (6,) to `after` (6,)."""
    one, other = (kinematics.forward(joints[None, :_COUNT]) for joints in (before, after))
    moves = [
        *((other.tip - one.tip)[0] / STEP),
        (other.turn - one.turn)[0] / TURN_STEP,
        (after[_COUNT] - before[_COUNT]) / OPENING_STEP,
    ]
    return np.clip(moves, -1.0, 1.0)


def wanted_action(before: Array, wanted: Array) -> Array:
    """Return the action (5,) in [-1, 1] that asks to go from the command `before` (6,) to `wanted` (6,)."""
    action = action_between(before, wanted)
    action[-1] = grip_to(wanted[-1], action[-1])
    return action


def grip_to(opening: Array | float, grip: Array | float) -> Array:
    """Return the gripper's part of actions that lead to `opening`, given the movements `grip` of its command.

    Fingers that are to end closed or wide open are closed or opened with full speed, as the scripted expert does in its
    demonstrations. The command of fingers that are closed cannot fall further, and its movement, 0, would say "stay".
    """
    return np.where(np.less(opening, _END), -1.0, np.where(np.greater(opening, OPENING - _END), 1.0, grip))


def start_joints(start: list[float], opening: float) -> Array:
    """Return joints (6,) with the finger tips at `start` and each finger open by `opening`."""
    return np.append(kinematics.inverse(np.array([start]), np.zeros(1))[0], opening)
