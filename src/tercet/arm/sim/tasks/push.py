"""Push: push the cube over the table to the goal, with closed fingers."""

import numpy as np

from tercet.arm.sim.kinematics import Array
from tercet.arm.sim.observations import ARM, CUBE, PUSHING_POINT, Layout
from tercet.arm.sim.readings import PUSHING_DISTANCE, Readings
from tercet.arm.sim.scene import CUBE_HALF
from tercet.arm.sim.tasks.task import Command, Mask, Task, away_from_cube, nearness
from tercet.arm.sim.workspace import STEP, WORKSPACE


class Push(Task):
    """Push the cube over the table to the goal."""

    name = "push"
    look_for = (
        "The blue cube should be pushed over the table to the green ball. The better one gets further: first "
        "the hand behind the cube, then the cube closer to the ball."
    )
    observation = Layout((*ARM, *CUBE, PUSHING_POINT))
    start_opening = 0.0
    cube_area = ((0.18, 0.20), (-0.06, 0.06))
    turns_cube = True

    def goals(self, draws: Array, cube: Array) -> Array:
        """On the table."""
        return away_from_cube(draws, cube, [(0.165, 0.22), (-0.09, 0.09), (CUBE_HALF, CUBE_HALF)])

    def success(self, now: Readings) -> Mask:
        """The cube is within 2 cm of the goal."""
        return now.cube_from_goal < 0.02

    def progress(self, now: Readings) -> Array:
        """The distance of the hand to where pushing begins, and twice that of the cube to the goal, negated."""
        return -now.grip_from_pushing_point - 2 * now.cube_from_goal

    def reward(self, now: Readings, done: Mask) -> Array:
        """Nearness to where pushing begins, nearness of the cube to the goal, and success."""
        behind = nearness(now.grip_from_pushing_point)
        return 0.25 * behind + 0.35 * nearness(now.cube_from_goal) + 0.4 * done

    def expert(self, now: Readings) -> Command:
        """Go round the cube to the side that faces away from the goal, down, and push.

        Wide fingers that move aside turn the cube back to its way. A narrow jaw takes the cube along, off its way and
        out of the workspace, so it moves straight to the goal. If the cube turns away from it, it goes round again.
        """
        way = (now.goal - now.cube)[:, :2]
        left = np.linalg.norm(way, axis=1)
        direction = way / np.maximum(left, 1e-6)[:, None]
        from_cube = (now.grip - now.cube)[:, :2]
        behind = -np.einsum("ij,ij->i", from_cube, direction)
        aside = np.abs(from_cube[:, 0] * direction[:, 1] - from_cube[:, 1] * direction[:, 0])
        low = now.tip[:, 2] < 2 * CUBE_HALF
        room = _room_behind(now.cube, direction)
        # keep clear of a turned cube's corner before the finger comes down beside it, if the workspace allows it
        clear = np.where(low, 0.02, np.clip(room - 0.004, 0.02, 0.036))
        placed = (behind > clear) & (aside < 0.012)
        move = now.cube.copy()
        move[:, :2] -= np.minimum(PUSHING_DISTANCE + 0.012, room)[:, None] * direction
        move[:, 2] = np.where(placed, 0.016, 0.065)
        move -= now.aside + now.target
        pushing = placed & low
        onward = now.cube[:, :2] - (PUSHING_DISTANCE - 0.012) * direction - (now.aside + now.target)[:, :2]
        if now.drags:
            onward = np.einsum("ij,ij->i", onward, direction)[:, None] * direction
        move[:, :2] = np.where(pushing[:, None], np.clip(onward, -0.7 * STEP, 0.7 * STEP), move[:, :2])
        stuck = ~placed & low  # go up before going sideways
        move[:, :2] = np.where(stuck[:, None], 0.0, move[:, :2])
        move = np.where((left < 0.008)[:, None], 0.0, move)
        return Command(move, np.zeros(len(left)), np.full(len(left), -1.0))


def _room_behind(cube: Array, direction: Array) -> Array:
    """Return how far the workspace extends behind the cube, against `direction` (n, 2)."""
    low, high = WORKSPACE[:2].T
    border = np.where(direction > 0, cube[:, :2] - low, high - cube[:, :2])
    return np.maximum((border / np.maximum(np.abs(direction), 1e-6)).min(1), 0.0)
