"""The allowed positions of the hand, and the size of one action. Lengths in metres, angles in radians."""

import numpy as np

from tercet.arm.sim.kinematics import Array
from tercet.arm.sim.scene import OPENING

# x, y and z of the tip; inside, only fingers and palm can touch anything
WORKSPACE = np.array([(0.14, 0.24), (-0.12, 0.12), (0.012, 0.14)])
TURN_LIMIT = 1.2

# how far an action of 1 moves the target in one step
STEP = 0.02
TURN_STEP = 0.3
OPENING_STEP = 0.012
STEPS = np.array([STEP, STEP, STEP, TURN_STEP, OPENING_STEP])  # x, y, z, turn, opening

_LOW = np.array([*WORKSPACE[:, 0], -TURN_LIMIT, 0.0])
_HIGH = np.array([*WORKSPACE[:, 1], TURN_LIMIT, OPENING])


def within_limits(hands: Array) -> Array:
    """Clip x, y, z, turn and opening (n, 5) to the allowed positions."""
    return np.minimum(np.maximum(hands, _LOW), _HIGH)
