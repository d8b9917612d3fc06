"""Reach: move the finger tips to the goal. There is no cube."""

import numpy as np

from tercet.arm.sim.kinematics import Array
from tercet.arm.sim.observations import ARM, Layout
from tercet.arm.sim.readings import Readings
from tercet.arm.sim.tasks.task import Command, Mask, Task, nearness, uniform
from tercet.arm.sim.workspace import WORKSPACE


class Reach(Task):
    """Move the finger tips to the goal."""

    name = "reach"
    look_for = "The fingertips should go to the green ball and stay there. The better one is closer to it."
    has_cube = False
    observation = Layout(ARM)

    def goals(self, draws: Array, cube: Array) -> Array:
        """Anywhere in the workspace."""
        return uniform(draws[:, :3], WORKSPACE)

    def success(self, now: Readings) -> Mask:
        """The tip is within 15 mm of the goal."""
        return now.tip_from_goal < 0.015

    def progress(self, now: Readings) -> Array:
        """The distance to the goal, negated."""
        return -now.tip_from_goal

    def reward(self, now: Readings, done: Mask) -> Array:
        """Half for nearness, half for success."""
        return 0.5 * nearness(now.tip_from_goal) + 0.5 * done

    def expert(self, now: Readings) -> Command:
        """Go straight to the goal."""
        zero = np.zeros(len(now.tip))
        return Command(now.goal - now.target, zero, zero)
