"""Run a policy that was trained in simulation on an arm: its observations, and the joints for its actions."""

import numpy as np
import torch
from torch import Tensor

from tercet.arm.policies.roles import Policy
from tercet.arm.robot.devices import Observation, SeenCube
from tercet.arm.sim import kinematics
from tercet.arm.sim.cameras import Camera, Picture, as_picture
from tercet.arm.sim.kinematics import JOINTS, Array
from tercet.arm.sim.readings import Readings, quarter
from tercet.arm.sim.tasks.task import Task
from tercet.arm.sim.workspace import OPENING_STEP, STEP, STEPS, TURN_STEP, within_limits
from tercet.errors import InputError

_COUNT = len(JOINTS)
GOAL = ("goal.x", "goal.y", "goal.z")  # of an observation; the goal of the config where the robot tells none
_FASTEST = 1.0  # m/s; a cube that seems faster was lost from sight


class StateEstimator:
    """Estimate the readings of a task from a robot's observations. Keeps the cube's last place, for its velocity."""

    def __init__(self, task: Task, goal: Array, find_cube: SeenCube) -> None:
        self.task = task
        self._goal, self._find_cube = goal, find_cube
        self._last: Array | None = None

    def begin(self) -> None:
        """Start an episode. The cube is at rest, and the goal of a lift is above its place."""
        self._last = None

    def readings(self, joints: Array, sent: Array, seen: Observation, *, elapsed: float) -> Readings:
        """Return readings for measured and last sent joints (6,), `elapsed` seconds after the previous readings."""
        hand, target = kinematics.forward(joints[None, :_COUNT]), kinematics.forward(sent[None, :_COUNT])
        if self.task.goal_above_cube is None and all(key in seen for key in GOAL):
            self._goal = np.array([float(seen[key]) for key in GOAL])
        cube, turn = np.zeros(3), 0.0
        velocity = np.zeros(3)
        if self.task.has_cube:
            *place, turn = self._find_cube(seen)
            cube = np.array(place)
            if self._last is None and self.task.goal_above_cube is not None:
                self._goal = cube + np.array([0.0, 0.0, self.task.goal_above_cube])
            velocity = np.clip((cube - (cube if self._last is None else self._last)) / elapsed, -_FASTEST, _FASTEST)
            self._last = cube
        return Readings(
            tip=hand.tip,
            turn=hand.turn,
            opening=joints[None, _COUNT],
            target=target.tip,
            target_turn=target.turn,
            target_opening=sent[None, _COUNT],
            cube=cube[None],
            cube_turn=quarter(np.array([turn])),
            cube_velocity=velocity[None],
            goal=self._goal[None],
        )


class Pilot:
    """A policy that steers. `speed` is the share of each movement that is executed.

    A chunk is executed to its end before the next decision, as in training (`agent.Agent`).
    """

    def __init__(self, policy: Policy, speed: float = 1.0) -> None:
        self.policy, self.speed = policy, speed
        self._left: list[Tensor] = []  # (a,) each, of the chunk that is being done

    def wanted(self, observation: Array, sent: Array, seen: Observation, *, fresh: bool) -> Array:
        """Joints (6,) to go to, from the observation (o,), what was sent last (6,) and what the robot told.

        `fresh` where it did not steer the step before: what is left of an older chunk was for another place.
        """
        if fresh or not self._left:
            with torch.no_grad():
                state = torch.from_numpy(observation.astype(np.float32))[None]
                pictures = [torch.from_numpy(_picture(seen, camera))[None] for camera in self.policy.cameras]
                self._left = list(self.policy.actions(self.policy.decide(state, None, *pictures))[0])
        action = self._left.pop(0)[None]
        moves = self.speed * action.clamp(-1.0, 1.0).double().numpy()
        moves[:, -1] = action[:, -1].clamp(-1.0, 1.0)  # a gripper that closes slowly lets go
        return joints_for(sent, moves)


def _picture(seen: Observation, camera: Camera) -> Picture:
    picture = as_picture(seen.get(camera.name))
    if picture is None:
        there = ", ".join(key for key, value in seen.items() if isinstance(value, np.ndarray)) or "none"
        raise InputError(
            f"the policy sees by the camera {camera.name}, and the robot's pictures are: {there}; give cameras="
            f"{{{camera.name}: /dev/video0}}, (height, width, 3) of uint8"
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


def start_joints(start: list[float], opening: float) -> Array:
    """Return joints (6,) with the finger tips at `start` and each finger open by `opening`."""
    return np.append(kinematics.inverse(np.array([start]), np.zeros(1))[0], opening)
