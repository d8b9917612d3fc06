"""What the arm shall do: `reach`, `lift`, `place`, `push`; where each starts, what it sees, earns and counts as done.

Everything is a function of `Readings`, which are arrays over environments; lengths in metres, angles in radians.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tercet.arm import kinematics
from tercet.arm.scene import CUBE_HALF, OPENING

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


def observed(task: Task) -> tuple[str, ...]:
    """Names of the entries of an observation."""
    if task == "push":
        return OBSERVED_IN_PUSHING
    return OBSERVED_WITH_CUBE if has_cube(task) else OBSERVED


def observation(task: Task, now: Readings) -> NDArray[np.float32]:
    """What the policy sees, (n, len(observed(task))), about unit scale."""
    parts = [
        (now.tip - _CENTRE) * 15,
        (now.target - now.tip) * 30,
        now.turn[:, None],
        now.opening[:, None] * (2 / OPENING) - 1,
        now.target_opening[:, None] * (2 / OPENING) - 1,
        (now.goal - now.tip) * 10,
    ]
    if has_cube(task):
        parts += [
            (now.cube - now.tip) * 10,
            (now.goal - now.cube) * 10,
            (now.cube[:, 2:] - CUBE_HALF) * 15,
            quarter(now.cube_turn - now.turn)[:, None] * 1.5,
            now.cube_velocity * 3,
        ]
    if task == "push":
        parts.append((pushing_point(now) - now.tip) * 10)
    return np.concatenate(parts, 1, dtype=np.float32, casting="same_kind")


def success(task: Task, now: Readings) -> NDArray[np.bool_]:
    """Whether the task is done at this moment."""
    if task == "reach":
        return _distance(now.tip, now.goal) < 0.015
    if task == "lift":
        return (now.cube[:, 2] > CUBE_HALF + LIFT_HEIGHT - 0.01) & (_distance(now.tip, now.cube) < 0.03)
    return _distance(now.cube, now.goal) < 0.02


def progress(task: Task, now: Readings) -> Array:
    """How near the target is, in metres below 0: larger is better. The rule "nearer the target" compares this."""
    if task == "reach":
        return -_distance(now.tip, now.goal)
    hand = pushing_point(now) if task == "push" else now.cube
    return -_distance(now.tip, hand) - 2 * _distance(now.cube, now.goal)


def reward(task: Task, now: Readings, done: NDArray[np.bool_]) -> Array:
    """The dense reward of a step, from 0 to 1; `done` is `success`."""
    if task == "reach":
        return 0.5 * _near(_distance(now.tip, now.goal)) + 0.5 * done
    if task == "push":
        behind = _near(_distance(now.tip, pushing_point(now)))
        return 0.25 * behind + 0.35 * _near(_distance(now.cube, now.goal)) + 0.4 * done
    from_cube = _distance(now.tip, now.cube)
    held = (now.opening < CUBE_HALF + 0.005) & (from_cube < 0.02)
    if task == "lift":
        way = np.clip((now.cube[:, 2] - CUBE_HALF) / (LIFT_HEIGHT - 0.01), 0.0, 1.0)
    else:
        way = _near(_distance(now.cube, now.goal))
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


def clip_to_workspace(tip: Array) -> Array:
    """The nearest point of the workspace."""
    return np.clip(tip, WORKSPACE[:, 0], WORKSPACE[:, 1])


def moved(tip: Array, turn: Array, opening: Array, actions: Array) -> tuple[Array, Array, Array]:
    """Where actions (n, 5) in [-1, 1] send hands whose targets are at `tip` (n, 3), `turn` (n,) and `opening` (n,)."""
    return (
        clip_to_workspace(tip + STEP * actions[:, :3]),
        np.clip(turn + TURN_STEP * actions[:, 3], -TURN_LIMIT, TURN_LIMIT),
        np.clip(opening + OPENING_STEP * actions[:, 4], 0.0, OPENING),
    )


def start_joints(begin: Start) -> Array:
    """Joints (n, 5) with the hand where `begin` says."""
    return kinematics.inverse(begin.tip, np.zeros(len(begin.tip)))
