"""The common part of lift and place: grip the cube and carry it to the goal."""

import numpy as np

from tercet.arm.sim.kinematics import Array
from tercet.arm.sim.readings import Readings, quarter
from tercet.arm.sim.scene import CUBE_HALF
from tercet.arm.sim.tasks.task import Command, Mask, Task, nearness
from tercet.arm.sim.workspace import STEP

_ABOVE = np.array([0.0, 0.0, 0.05])  # the cube's centre
_CARRY_SPEED = 0.6  # fraction of the maximum speed; a faster cube slips out


class Carry(Task):
    """Grip the cube and carry it to the goal."""

    def carried(self, now: Readings) -> Array:
        """Return how much of the way the cube has been carried, from 0 to 1."""
        raise NotImplementedError

    def progress(self, now: Readings) -> Array:
        """The distance of the hand to the cube, and twice that of the cube to the goal, negated."""
        return -now.grip_from_cube - 2 * now.cube_from_goal

    def reward(self, now: Readings, done: Mask) -> Array:
        """Nearness to the cube, a closed grip, how far the cube has been carried, and success."""
        from_cube = now.grip_from_cube
        held = (now.opening < CUBE_HALF + 0.005) & (from_cube < 0.02)
        carried = self.carried(now) * (from_cube < 0.03)
        return 0.25 * nearness(from_cube) + 0.15 * held + 0.2 * carried + 0.4 * done

    def expert(self, now: Readings) -> Command:
        """Go above the cube, down, close, and carry it to the goal."""
        turn = quarter(now.cube_turn - now.turn)
        aside = np.linalg.norm((now.grip - now.cube)[:, :2], axis=1)
        over = (aside < 0.012) & (np.abs(turn) < 0.2)
        low = over & (now.tip[:, 2] - now.cube[:, 2] < 0.01)
        held = low & (now.opening < CUBE_HALF + 0.004) & (now.target_opening < CUBE_HALF - 0.003)
        above = now.cube + _ABOVE
        move = np.where(over[:, None], now.cube, above) - now.aside - now.target
        move = np.where(low[:, None], 0.0, move)
        carry = np.clip(now.goal - now.cube, -_CARRY_SPEED * STEP, _CARRY_SPEED * STEP)
        move = np.where(held[:, None], carry, move)
        return Command(move, np.where(low, 0.0, turn), np.where(low, -1.0, 1.0))
