"""What the arm shall do: `reach`, `lift`, `place`, `push`; where each starts, what it sees, earns and counts as done.

Everything is a function of `Readings`, which are arrays over environments; lengths in metres, angles in radians.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tercet.arm.sim import kinematics
from tercet.arm.sim.scene import CUBE_HALF, OPENING

Array = NDArray[np.float64]
Task = Literal["reach", "lift", "place", "push"]
TASKS: tuple[Task, ...] = get_args(Task)

# the tip may go anywhere here, and nothing but a finger or the palm can touch anything there
WORKSPACE = np.array([(0.14, 0.24), (-0.12, 0.12), (0.012, 0.14)])
TURN_LIMIT = 1.2

# the most that a step may move the target, by an action of 1
STEP = 0.02
TURN_STEP = 0.3
OPENING_STEP = 0.012

LIFT_HEIGHT = 0.06
LIFTED = LIFT_HEIGHT - 0.01  # how high a cube must be for success
NUM_DRAWS = 30  # uniform numbers that a start is made of
_NUM_GOALS = 8  # candidates for a goal that is not where the cube lies already
_LEAST_WAY = 0.05
_CENTRE = WORKSPACE.mean(1)
PUSHING_AT = 0.03  # behind the cube's middle: half its diagonal and half a finger


@dataclass(frozen=True)
class Start:
    """How episodes begin: poses of the hand, the cube and the goal, each over n environments."""

    tip: Array
    opening: Array
    cube: Array
    cube_turn: Array
    goal: Array


@dataclass(frozen=True)
class Readings:
    """What can be measured now. `target*` are where the hand was sent; `cube_turn` is that of the nearest side."""

    tip: Array
    turn: Array
    opening: Array
    target: Array
    target_turn: Array
    target_opening: Array
    cube: Array
    cube_turn: Array
    cube_velocity: Array
    goal: Array

    @cached_property
    def tip_from_goal(self) -> Array:
        """Distance (n,)."""
        return _distance(self.tip, self.goal)

    @cached_property
    def tip_from_cube(self) -> Array:
        """Distance (n,)."""
        return _distance(self.tip, self.cube)

    @cached_property
    def cube_from_goal(self) -> Array:
        """Distance (n,)."""
        return _distance(self.cube, self.goal)

    @cached_property
    def tip_from_pushing_point(self) -> Array:
        """Distance (n,)."""
        return _distance(self.tip, pushing_point(self))


def has_cube(task: Task) -> bool:
    """Whether there is a cube on the table."""
    return task != "reach"


def start(task: Task, draws: Array) -> Start:
    """Starts made of uniform numbers `draws` (n, NUM_DRAWS): the same numbers give the same starts."""
    count = len(draws)
    tip = _between(draws[:, :3], [(0.17, 0.22), (-0.05, 0.05), (0.08, 0.12)])
    opening = np.full(count, 0.0 if task == "push" else 0.03)
    area = [(0.18, 0.20), (-0.06, 0.06)] if task == "push" else [(0.16, 0.22), (-0.09, 0.09)]
    cube = np.concatenate([_between(draws[:, 3:5], area), np.full((count, 1), CUBE_HALF)], 1)
    turned = task in ("place", "push")
    cube_turn = (draws[:, 5] - 0.5) * np.pi / 2 if turned else np.zeros(count)
    return Start(tip, opening, cube, cube_turn, _goal(task, draws[:, 6:], cube))


def _goal(task: Task, draws: Array, cube: Array) -> Array:
    if task == "reach":
        return _between(draws[:, :3], WORKSPACE)
    if task == "lift":
        return cube + np.array([0.0, 0.0, LIFT_HEIGHT])
    if task == "place":  # half of them on the table
        area = [(0.15, 0.23), (-0.11, 0.11), (2 * CUBE_HALF - 0.115, 0.115)]
    else:
        area = [(0.165, 0.22), (-0.09, 0.09), (CUBE_HALF, CUBE_HALF)]
    goals = _between(draws[:, : 3 * _NUM_GOALS].reshape(-1, _NUM_GOALS, 3), area)
    goals[..., 2] = np.maximum(goals[..., 2], CUBE_HALF)
    far = np.linalg.norm(goals - cube[:, None], axis=2) > _LEAST_WAY
    return goals[np.arange(len(goals)), far.argmax(1)]


def _between(draws: Array, ranges: list[tuple[float, float]] | Array) -> Array:
    low, high = np.asarray(ranges).T
    return low + draws * (high - low)


OBSERVED = (
    *(f"tip.{axis}" for axis in "xyz"),
    *(f"target-tip.{axis}" for axis in "xyz"),
    *("turn", "opening", "target_opening"),
    *(f"goal-tip.{axis}" for axis in "xyz"),
)
OBSERVED_WITH_CUBE = (
    *OBSERVED,
    *(f"cube-tip.{axis}" for axis in "xyz"),
    *(f"goal-cube.{axis}" for axis in "xyz"),
    *("cube.height", "cube_turn-turn"),
    *(f"cube_velocity.{axis}" for axis in "xyz"),
)
# where to push from follows from cube and goal, but not in a way that a policy learns from a few demonstrations
OBSERVED_IN_PUSHING = (*OBSERVED_WITH_CUBE, *(f"pushing_point-tip.{axis}" for axis in "xyz"))


# about unit scale: what each entry is multiplied by; fingers then lie from -1 to 1
_SCALE = np.repeat(
    [15.0, 30.0, 1.0, 2 / OPENING, 10.0, 10.0, 10.0, 15.0, 1.5, 3.0, 10.0], [3, 3, 1, 2, 3, 3, 3, 1, 1, 3, 3]
)


def observed(task: Task) -> tuple[str, ...]:
    """Names of the entries of an observation."""
    if task == "push":
        return OBSERVED_IN_PUSHING
    return OBSERVED_WITH_CUBE if has_cube(task) else OBSERVED


def own(names: Sequence[str]) -> tuple[bool, ...]:
    """Which entries the arm measures on itself: those that tell nothing of the goal or the cube."""
    return tuple(not any(word in name for word in ("goal", "cube", "pushing")) for name in names)


def observation(task: Task, now: Readings) -> NDArray[np.float32]:
    """What the policy sees, (n, len(observed(task))), about unit scale."""
    size = len(observed(task))
    seen = np.empty((len(now.tip), size))
    np.subtract(now.tip, _CENTRE, out=seen[:, :3])
    np.subtract(now.target, now.tip, out=seen[:, 3:6])
    seen[:, 6], seen[:, 7], seen[:, 8] = now.turn, now.opening, now.target_opening
    np.subtract(now.goal, now.tip, out=seen[:, 9:12])
    if has_cube(task):
        np.subtract(now.cube, now.tip, out=seen[:, 12:15])
        np.subtract(now.goal, now.cube, out=seen[:, 15:18])
        np.subtract(now.cube[:, 2], CUBE_HALF, out=seen[:, 18])
        seen[:, 19] = quarter(now.cube_turn - now.turn)
        seen[:, 20:23] = now.cube_velocity
    if task == "push":
        np.subtract(pushing_point(now), now.tip, out=seen[:, 23:])
    seen *= _SCALE[:size]
    seen[:, 7:9] -= 1.0
    return seen.astype(np.float32)


def success(task: Task, now: Readings) -> NDArray[np.bool_]:
    """Whether the task is done at this moment."""
    if task == "reach":
        return now.tip_from_goal < 0.015
    if task == "lift":
        return (now.cube[:, 2] > CUBE_HALF + LIFTED) & (now.tip_from_cube < 0.03)
    return now.cube_from_goal < 0.02


def progress(task: Task, now: Readings) -> Array:
    """How near the target is, in metres below 0: larger is better. The rule "nearer the target" compares this."""
    if task == "reach":
        return -now.tip_from_goal
    hand = now.tip_from_pushing_point if task == "push" else now.tip_from_cube
    return -hand - 2 * now.cube_from_goal


def reward(task: Task, now: Readings, done: NDArray[np.bool_]) -> Array:
    """The dense reward of a step, from 0 to 1; `done` is `success`."""
    if task == "reach":
        return 0.5 * _near(now.tip_from_goal) + 0.5 * done
    if task == "push":
        behind = _near(now.tip_from_pushing_point)
        return 0.25 * behind + 0.35 * _near(now.cube_from_goal) + 0.4 * done
    from_cube = now.tip_from_cube
    held = (now.opening < CUBE_HALF + 0.005) & (from_cube < 0.02)
    lifted = np.clip((now.cube[:, 2] - CUBE_HALF) / LIFTED, 0.0, 1.0)
    way = lifted if task == "lift" else _near(now.cube_from_goal)
    return 0.25 * _near(from_cube) + 0.15 * held + 0.2 * way * (from_cube < 0.03) + 0.4 * done


def pushing_point(now: Readings) -> Array:
    """Where the tip should be to push the cube towards the goal."""
    way = (now.goal - now.cube)[:, :2]
    direction = way / np.maximum(np.linalg.norm(way, axis=1, keepdims=True), 1e-6)
    point = now.cube.copy()
    point[:, :2] -= PUSHING_AT * direction
    return point


def quarter(angle: Array) -> Array:
    """The angle to the nearest of four sides, within 45 degrees."""
    return angle - np.round(angle / (np.pi / 2)) * (np.pi / 2)


def _near(distance: Array) -> Array:
    return 1 - np.tanh(10 * distance)


def _distance(one: Array, other: Array) -> Array:
    way = one - other
    return np.sqrt(np.einsum("ij,ij->i", way, way))


STEPS = np.array([STEP, STEP, STEP, TURN_STEP, OPENING_STEP])  # x, y, z, turn and opening of an action of 1
_LEAST = np.array([*WORKSPACE[:, 0], -TURN_LIMIT, 0.0])
_MOST = np.array([*WORKSPACE[:, 1], TURN_LIMIT, OPENING])


def within_limits(hands: Array) -> Array:
    """The nearest x, y, z, turn and opening (n, 5) that a hand may be sent to."""
    return np.minimum(np.maximum(hands, _LEAST), _MOST)


def start_joints(begin: Start) -> Array:
    """Joints (n, 5) with the hand where `begin` says."""
    return kinematics.inverse(begin.tip, np.zeros(len(begin.tip)))
