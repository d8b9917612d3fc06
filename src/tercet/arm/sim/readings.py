"""Measurements of arm, cube and goal, from which observations, rewards and experts are computed.

The fields up to `goal` are arrays over n environments. Lengths in metres, angles in radians.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tercet.arm.sim.kinematics import Array

PUSHING_DISTANCE = 0.03  # from the cube's centre: half its diagonal and half a finger


@dataclass(frozen=True)
class CubeReadings:
    """One of several cubes: where it is, its turn to the nearest side, and its velocity."""

    place: Array
    turn: Array
    velocity: Array


@dataclass(frozen=True)
class Readings:
    """The current measurements. `target*` is the commanded hand pose; `cube_turn` is that of the nearest side.

    `tip` is on the axis of the wrist's roll, and `aside` the way from there to the middle between the finger tips.
    `drags` is True for fingers so narrow that a cube that they push moves aside with them.
    In a task with two cubes, `cubes` has both in the order of `scene.COLOURS`, `cube*` are those of the cube that the
    episode asks for, and `instruction` is the number of the sentence that asks for it.
    """

    tip: Array
    aside: Array
    turn: Array
    opening: Array
    target: Array
    target_turn: Array
    target_opening: Array
    cube: Array
    cube_turn: Array
    cube_velocity: Array
    goal: Array
    drags: bool = False
    cubes: tuple[CubeReadings, ...] = ()
    asked: NDArray[np.int64] | None = None  # which of `cubes` the episode asks for, (n,)
    instruction: NDArray[np.int64] | None = None

    def of_the_other_cube(self) -> "Readings":
        """Return the readings of an episode that asks for the other one of two cubes."""
        assert self.asked is not None
        other = 1 - self.asked
        cube = chosen(self.cubes, other)
        return replace(self, cube=cube.place, cube_turn=cube.turn, cube_velocity=cube.velocity, asked=other)

    @cached_property
    def grip(self) -> Array:
        """The middle between the finger tips (n, 3), where the centre of a gripped cube is."""
        return self.tip + self.aside

    @cached_property
    def tip_from_goal(self) -> Array:
        """Distance (n,)."""
        return _distance(self.tip, self.goal)

    @cached_property
    def grip_from_cube(self) -> Array:
        """Distance (n,)."""
        return _distance(self.grip, self.cube)

    @cached_property
    def cube_from_goal(self) -> Array:
        """Distance (n,)."""
        return _distance(self.cube, self.goal)

    @cached_property
    def grip_from_pushing_point(self) -> Array:
        """Distance (n,)."""
        return _distance(self.grip, self.pushing_point)

    @cached_property
    def pushing_point(self) -> Array:
        """Where the fingers should be to push the cube towards the goal, (n, 3)."""
        way = (self.goal - self.cube)[:, :2]
        direction = way / np.maximum(np.linalg.norm(way, axis=1, keepdims=True), 1e-6)
        point = self.cube.copy()
        point[:, :2] -= PUSHING_DISTANCE * direction
        return point


def chosen(cubes: tuple[CubeReadings, ...], which: NDArray[np.int64]) -> CubeReadings:
    """Return one of several cubes in each environment."""
    rows = np.arange(len(which))
    places, turns, velocities = (
        np.stack([getattr(cube, name) for cube in cubes]) for name in ("place", "turn", "velocity")
    )
    return CubeReadings(places[which, rows], turns[which, rows], velocities[which, rows])


def quarter(angle: Array) -> Array:
    """Return the angle to the nearest of four sides, within 45 degrees."""
    return angle - np.round(angle / (np.pi / 2)) * (np.pi / 2)


def _distance(one: Array, other: Array) -> Array:
    way = one - other
    return np.sqrt(np.einsum("ij,ij->i", way, way))
