"""The interface of a task of the built-in arm: how its episodes start, what it rewards, and its scripted expert."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tercet.arm.sim import kinematics
from tercet.arm.sim.kinematics import Array
from tercet.arm.sim.observations import ARM, CUBE, Layout
from tercet.arm.sim.readings import Readings
from tercet.arm.sim.scene import CUBE_HALF
from tercet.arm.sim.tasks.instructions import Instruction
from tercet.arm.sim.workspace import STEP, TURN_STEP
from tercet.errors import InputError

NUM_DRAWS = 30  # uniform numbers that determine a start
_NUM_GOALS = 8  # candidates for a goal that is away from the cube
_LEAST_DISTANCE = 0.05

Ranges = Sequence[tuple[float, float]]  # of x, y and z
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Start:
    """How episodes start: poses of the hand, the cube and the goal, each over n environments.

    A task with instructions also says where the cube is that is not asked for, and which instruction is given.
    """

    tip: Array
    opening: Array
    cube: Array
    cube_turn: Array
    goal: Array
    other: Array | None = None
    instruction: NDArray[np.int64] | None = None

    @property
    def joints(self) -> Array:
        """Joints (n, 5) that bring the hand there."""
        return kinematics.inverse(self.tip, np.zeros(len(self.tip)))


@dataclass(frozen=True)
class Command:
    """A command of an expert: metres to move (n, 3), radians to turn (n,), and -1 to close or 1 to open (n,)."""

    move: Array
    turn: Array
    grip: Array


class Task:
    """A task of the built-in arm. CONTRIBUTING.md says how to add one.

    A subclass sets `name` and `look_for` and implements `goals`, `success`, `progress`, `reward` and `expert`. They
    are functions of arrays over n environments and keep no state.
    """

    name: str
    look_for: str  # the instruction that is shown to people who compare segments
    has_cube: bool = True
    instructions: tuple[Instruction, ...] = ()  # an episode has one of them; empty for a task that is always the same
    observation: Layout = Layout((*ARM, *CUBE))
    start_opening: float = 0.03  # of each finger
    cube_area: Ranges = ((0.16, 0.22), (-0.09, 0.09))  # x and y where the cube starts
    turns_cube: bool = False  # True if the cube starts turned about z
    goal_above_cube: float | None = None  # metres; None if the goal is not above the cube's start
    shown_height: float | None = None  # metres above the table at which videos show a frame

    @property
    def num_cubes(self) -> int:
        """Number of cubes on the table."""
        return int(self.has_cube)

    def start(self, draws: Array) -> Start:
        """Compute starts from uniform numbers `draws` (n, NUM_DRAWS)."""
        count = len(draws)
        tip = uniform(draws[:, :3], [(0.17, 0.22), (-0.05, 0.05), (0.08, 0.12)])
        cube = np.concatenate([uniform(draws[:, 3:5], self.cube_area), np.full((count, 1), CUBE_HALF)], 1)
        cube_turn = (draws[:, 5] - 0.5) * np.pi / 2 if self.turns_cube else np.zeros(count)
        return Start(tip, np.full(count, self.start_opening), cube, cube_turn, self.goals(draws[:, 6:], cube))

    def goals(self, draws: Array, cube: Array) -> Array:
        """Compute goals (n, 3) from uniform numbers (n, NUM_DRAWS - 6) and the cubes' positions (n, 3)."""
        raise NotImplementedError

    def success(self, now: Readings) -> Mask:
        """Return True for each environment in which the task is done now, (n,)."""
        raise NotImplementedError

    def progress(self, now: Readings) -> Array:
        """Return the progress of the task, (n,), in metres: at most 0, and larger is better.

        The built-in judge compares segments by it, and a simulated person who watches an arm sees it.
        """
        raise NotImplementedError

    def reward(self, now: Readings, done: Mask) -> Array:
        """Return the dense reward of a step, (n,), from 0 to 1; `done` is `success`."""
        raise NotImplementedError

    def expert(self, now: Readings) -> Command:
        """Return the command of the scripted expert, which has no memory. A task of the user may have none."""
        raise InputError(
            f"env={self.name}: this task has no scripted expert; give it a method `expert`, learn from a recording "
            f"(tercet arm record DIR --task {self.name}, then bc.demonstrations=DIR), or set bc.demonstrations=none"
        )

    def expert_actions(
        self, now: Readings, *, noise: float = 0.0, chance: np.random.Generator | None = None
    ) -> NDArray[np.float32]:
        """Return the expert's actions (n, 5) in [-1, 1], with Gaussian noise of this standard deviation added.

        For demonstrations that show how to recover, play the noisy actions and learn the clean ones.
        """
        command = self.expert(now)
        moves = [command.move / STEP, command.turn[:, None] / TURN_STEP, command.grip[:, None]]
        actions = np.clip(np.concatenate(moves, 1), -1.0, 1.0)
        if noise > 0:
            assert chance is not None, "noise needs a generator"
            actions = np.clip(actions + noise * chance.standard_normal(actions.shape), -1.0, 1.0)
        return actions.astype(np.float32)


def uniform(draws: Array, ranges: Ranges | Array) -> Array:
    """Scale uniform numbers in [0, 1] to these ranges, one per column."""
    low, high = np.asarray(ranges).T
    return low + draws * (high - low)


def away_from_cube(draws: Array, cube: Array, area: Ranges) -> Array:
    """Return goals (n, 3) in `area`, the first of a few candidates that is 5 cm away from the cube."""
    goals = uniform(draws[:, : 3 * _NUM_GOALS].reshape(-1, _NUM_GOALS, 3), area)
    goals[..., 2] = np.maximum(goals[..., 2], CUBE_HALF)
    far = np.linalg.norm(goals - cube[:, None], axis=2) > _LEAST_DISTANCE
    return goals[np.arange(len(goals)), far.argmax(1)]


def nearness(distance: Array) -> Array:
    """Return 1 at distance 0 and less the farther away."""
    return 1 - np.tanh(10 * distance)
