"""Lift: grip the cube and lift it."""

import numpy as np

from tercet.arm.sim.kinematics import Array
from tercet.arm.sim.readings import Readings
from tercet.arm.sim.scene import CUBE_HALF
from tercet.arm.sim.tasks.carry import Carry
from tercet.arm.sim.tasks.task import Mask

_HEIGHT = 0.06  # of the goal above the cube's start
_LIFTED = _HEIGHT - 0.01  # how far the cube must be lifted


class Lift(Carry):
    """Grip the cube and lift it."""

    name = "lift"
    look_for = (
        "The blue cube should be grasped and lifted high. The better one gets further: first the hand to the "
        "cube, then the cube between the fingers, then the cube higher, above the green frame."
    )
    goal_above_cube = _HEIGHT
    shown_height = _LIFTED

    def goals(self, draws: Array, cube: Array) -> Array:
        """6 cm above the cube."""
        return cube + np.array([0.0, 0.0, _HEIGHT])

    def success(self, now: Readings) -> Mask:
        """The cube is 5 cm up and in the hand."""
        return (now.cube[:, 2] > CUBE_HALF + _LIFTED) & (now.grip_from_cube < 0.03)

    def carried(self, now: Readings) -> Array:
        """The cube's height, as a share of 5 cm."""
        return np.clip((now.cube[:, 2] - CUBE_HALF) / _LIFTED, 0.0, 1.0)
