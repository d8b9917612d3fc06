"""Place: grip the cube and carry it to the goal, which is on the table or above it."""

from tercet.arm.sim.kinematics import Array
from tercet.arm.sim.readings import Readings
from tercet.arm.sim.scene import CUBE_HALF
from tercet.arm.sim.tasks.carry import Carry
from tercet.arm.sim.tasks.task import Mask, away_from_cube, nearness


class Place(Carry):
    """Grip the cube and carry it to the goal."""

    name = "place"
    look_for = (
        "The blue cube should be grasped, carried to the green ball and held there. The better one gets "
        "further: first the hand to the cube, then the cube between the fingers, then the cube closer to the ball."
    )
    turns_cube = True

    def goals(self, draws: Array, cube: Array) -> Array:
        """Half of them on the table, half of them above it."""
        return away_from_cube(draws, cube, [(0.15, 0.23), (-0.11, 0.11), (2 * CUBE_HALF - 0.115, 0.115)])

    def success(self, now: Readings) -> Mask:
        """The cube is within 2 cm of the goal."""
        return now.cube_from_goal < 0.02

    def carried(self, now: Readings) -> Array:
        """Nearness of the cube to the goal."""
        return nearness(now.cube_from_goal)
