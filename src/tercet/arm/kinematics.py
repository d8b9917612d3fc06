"""Where the hand is for given joints, and the joints that bring it somewhere, in closed form and for many arms at once.

Lengths (metres) and joint limits (radians) are those of the SO-101 by The Robot Studio
(github.com/TheRobotStudio/SO-ARM100, Simulation/SO101), its small sideways offsets left out. The origin is on the
axis of the shoulder's pan, on the table; x points away from the arm, y to its left, z up. All joints at zero: upper
arm up, forearm and hand level, pointing along x.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll")
LIMITS = np.array([(-1.9199, 1.9199), (-1.7453, 1.7453), (-1.69, 1.69), (-1.6581, 1.6581), (-2.7438, 2.8412)])

SHOULDER_FORWARD = 0.0304  # of the lift's axis before the pan's
SHOULDER_HEIGHT = 0.1166
UPPER_ARM = 0.1160
FOREARM = 0.1350
WRIST_TO_ROLL = 0.0611
HAND = 0.1592  # from the wrist's axis to the point between the finger tips

_WRIST_LIMIT = 1.6  # a little inside the joint's own limit
# forearm and hand as one link, the wrist at its limit: its length, and its angle from the forearm
_STIFF = np.hypot(FOREARM + HAND * np.cos(_WRIST_LIMIT), HAND * np.sin(_WRIST_LIMIT))
_STIFF_ANGLE = np.arctan2(HAND * np.sin(_WRIST_LIMIT), FOREARM + HAND * np.cos(_WRIST_LIMIT))


@dataclass(frozen=True)
class HandPose:
    """Where hands are: `tip` (n, 3); `turn` (n,), the direction of the fingers' line about z, 0 along y."""

    tip: Array
    turn: Array


def forward(joints: Array) -> HandPose:
    """Poses of hands for `joints` (n, 5); `turn` holds for a hand that points down."""
    pan, lift, elbow, wrist, roll = joints.T
    forearm = lift + elbow + np.pi / 2  # from the vertical
    hand = forearm + wrist
    radius = SHOULDER_FORWARD + UPPER_ARM * np.sin(lift) + FOREARM * np.sin(forearm) + HAND * np.sin(hand)
    height = SHOULDER_HEIGHT + UPPER_ARM * np.cos(lift) + FOREARM * np.cos(forearm) + HAND * np.cos(hand)
    return HandPose(np.stack([radius * np.cos(pan), radius * np.sin(pan), height], 1), pan - roll)


def inverse(tip: Array, turn: Array) -> Array:
    """Joints (n, 5) that bring the finger tips to `tip` (n, 3), the hand as near to straight down as it can be.

    Where the wrist would pass its limit, high above the table and far out, it stays there and the hand leans outwards;
    either case is a triangle of two links. `tip` must be reachable (the workspace of a task is).
    """
    pan = np.arctan2(tip[:, 1], tip[:, 0])
    forward = np.hypot(tip[:, 0], tip[:, 1]) - SHOULDER_FORWARD
    up = tip[:, 2] - SHOULDER_HEIGHT
    lift, bend = _two_links(UPPER_ARM, FOREARM, forward, up + HAND)
    wrist = np.pi - lift - bend
    high = wrist > _WRIST_LIMIT
    if high.any():
        lift[high], corner = _two_links(UPPER_ARM, _STIFF, forward[high], up[high])
        bend[high], wrist[high] = corner - _STIFF_ANGLE, _WRIST_LIMIT
    return np.stack([pan, lift, bend - np.pi / 2, wrist, pan - turn], 1)


def _two_links(first: float, second: float, forward: Array, up: Array) -> tuple[Array, Array]:
    """Angle of the first link from the vertical, and of the second from the first, by the law of cosines."""
    cosine = (forward**2 + up**2 - first**2 - second**2) / (2 * first * second)
    bend = np.arccos(np.clip(cosine, -1.0, 1.0))
    return np.arctan2(forward, up) - np.arctan2(second * np.sin(bend), first + second * np.cos(bend)), bend
