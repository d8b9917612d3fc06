"""The arms that can be simulated, behind one interface: the arm of primitives and the SO-101 of its makers.

Everything else speaks of joints in radians, as `kinematics` has them, and of the opening of a finger in metres: half of
the distance between the tips. An arm converts both from and to the positions of its MuJoCo model, which are joints,
fingers and the cube, in this order.
"""

# pyright: reportAttributeAccessIssue=false
# (MuJoCo's compiled modules come without types)

from typing import Protocol, runtime_checkable

import mujoco
import numpy as np

from tercet.arm.sim import kinematics, scene
from tercet.arm.sim.kinematics import Array
from tercet.arm.sim.readings import Readings
from tercet.arm.sim.scene import NUM_JOINTS
from tercet.arm.sim.so101 import So101
from tercet.arm.sim.workspace import within_limits
from tercet.errors import InputError


@runtime_checkable
class ArmModel(Protocol):
    """An arm that can be simulated."""

    name: str
    limits: Array  # (5, 2): the range of each joint
    num_fingers: int  # positions of fingers, after those of the joints

    def build(self, *, num_cubes: int, drawn: bool = False) -> mujoco.MjModel:
        """Build the MuJoCo model: for pictures if `drawn`, otherwise for the simulation. Both have the same state."""
        ...

    def positions(self, joints: Array, opening: Array) -> Array:
        """Convert joints (n, 5) and openings (n,) to positions or commands (n, 5 + num_fingers)."""
        ...

    def joints(self, positions: Array) -> Array:
        """Convert positions (n, at least 5) to joints (n, 5)."""
        ...

    def joint_velocities(self, velocities: Array) -> Array:
        """Convert velocities (n, at least 5) to those of joints (n, 5), in rad/s."""
        ...

    def openings(self, positions: Array) -> Array:
        """Convert positions (n, at least 5 + num_fingers) to the opening of each finger, (n, num_fingers)."""
        ...

    def aside(self, turn: Array, opening: Array) -> Array:
        """Return the way (n, 3) from the tip, which is on the axis of the wrist's roll, to the middle of the fingers.

        It is right for a hand that points down, as `turn` is.
        """
        ...

    def foreseen(self, now: Readings) -> Readings:
        """Return the readings once the arm has come to rest with its present target, by which experts choose."""
        ...

    def within(self, hands: Array) -> Array:
        """Clip x, y, z, turn and opening (n, 5) to the workspace, and to what the joints allow in it."""
        ...


class Primitive:
    """The arm of `scene`, whose fingers slide by the same distance to both sides."""

    name = "primitive"
    limits = kinematics.LIMITS
    num_fingers = scene.NUM_FINGERS

    def build(self, *, num_cubes: int, drawn: bool = False) -> mujoco.MjModel:
        """Build the model, which is the same for pictures."""
        return scene.build(num_cubes=num_cubes)

    def positions(self, joints: Array, opening: Array) -> Array:
        """Return them side by side, the opening once for each finger."""
        fingers = np.broadcast_to(opening[:, None], (len(opening), self.num_fingers))
        return np.concatenate([joints, fingers], axis=1)

    def joints(self, positions: Array) -> Array:
        """Return a view."""
        return positions[:, :NUM_JOINTS]

    def joint_velocities(self, velocities: Array) -> Array:
        """Return a view."""
        return velocities[:, :NUM_JOINTS]

    def openings(self, positions: Array) -> Array:
        """Return a view."""
        return positions[:, NUM_JOINTS : NUM_JOINTS + self.num_fingers]

    def aside(self, turn: Array, opening: Array) -> Array:
        """Return zeros: the fingers meet on the axis."""
        return np.zeros((len(turn), 3))

    def foreseen(self, now: Readings) -> Readings:
        """Return the present readings: the arm follows its target within a step."""
        return now

    def within(self, hands: Array) -> Array:
        """Clip to the workspace, in which every turn is possible."""
        return within_limits(hands)


PRIMITIVE = Primitive()


def find_arm(name: str) -> ArmModel:
    """Return the arm of this name. Raise InputError if there is none."""
    if name == PRIMITIVE.name:
        return PRIMITIVE
    if name == So101.name:
        return So101()
    raise InputError(f"the arm {name!r} is unknown; there are {PRIMITIVE.name} and {So101.name}")
