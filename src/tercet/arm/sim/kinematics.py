"""Forward and inverse kinematics in closed form, for many arms at once.

Lengths (metres) and joint limits (radians) are those of the SO-101 by The Robot Studio
(github.com/TheRobotStudio/SO-ARM100, Simulation/SO101), without its small sideways offsets. The origin is on the
axis of the shoulder's pan, on the table; x points away from the arm, y to its left, z up. All joints at zero: upper
arm up, forearm and hand level, pointing along x.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll")
LIMITS = np.array([(-1.9199, 1.9199), (-1.7453, 1.7453), (-1.69, 1.69), (-1.6581, 1.6581), (-2.7438, 2.8412)])

SHOULDER_FORWARD = 0.0304  # from the pan axis forward to the lift axis
SHOULDER_HEIGHT = 0.1166
UPPER_ARM = 0.1160
FOREARM = 0.1350
WRIST_TO_ROLL = 0.0611
HAND = 0.1592  # from the wrist's axis to the point between the finger tips

_WRIST_LIMIT = 1.6  # a little inside the joint's own limit
# forearm and hand as one link, the wrist at its limit: its length, and its angle from the forearm
_STIFF = np.hypot(FOREARM + HAND * np.cos(_WRIST_LIMIT), HAND * np.sin(_WRIST_LIMIT))
_STIFF_ANGLE = np.arctan2(HAND * np.sin(_WRIST_LIMIT), FOREARM + HAND * np.cos(_WRIST_LIMIT))

# for a few dozen arms a numpy call costs more than its computation, so there are few calls, on stacked rows
_LINKS = np.array([[UPPER_ARM], [FOREARM], [HAND]])
_SHOULDER = np.array([[SHOULDER_FORWARD], [SHOULDER_HEIGHT]])
# the link after the upper arm: the forearm if the hand points down, forearm and hand if the wrist is at its limit
_SECOND = np.array([[FOREARM], [_STIFF]])
_SECOND_SQUARED = np.array([[FOREARM**2], [_STIFF**2]])
_TWICE_BOTH = 2 * UPPER_ARM * _SECOND


@dataclass(frozen=True)
class HandPose:
    """Poses of hands: `tip` (n, 3); `turn` (n,), the direction of the fingers' line about z, 0 along y."""

    tip: Array
    turn: Array


def forward(joints: Array) -> HandPose:
    """Return the poses of hands for `joints` (n, 5). `turn` is valid for a hand that points down."""
    pan, lift, elbow, wrist, roll = joints.T
    angles = np.empty((4, len(joints)))  # of upper arm, forearm and hand, from the vertical; and of the pan
    angles[0], angles[3] = lift, pan
    np.add(lift, elbow, out=angles[1])
    angles[1] += np.pi / 2
    np.add(angles[1], wrist, out=angles[2])
    waves = np.empty((2, *angles.shape))
    np.sin(angles, out=waves[0])
    np.cos(angles, out=waves[1])
    links = waves[:, :3]  # each link outwards and up
    links *= _LINKS
    links[:, 0] += _SHOULDER
    radius, height = np.add.reduce(links, axis=1)
    tip = np.empty((len(joints), 3))
    np.multiply(radius, waves[::-1, 3], out=tip[:, :2].T)
    tip[:, 2] = height
    return HandPose(tip, pan - roll)


def inverse(tip: Array, turn: Array) -> Array:
    """Return joints (n, 5) with the finger tips at `tip` (n, 3), the hand pointing down as far as possible.

    High above the table and far out, the wrist stays at its limit and the hand leans outwards. Both cases are triangles
    of two links. `tip` must be reachable, as every point of the workspace is.
    """
    x, y, z = tip.T
    pan = np.arctan2(y, x)
    forward = np.hypot(x, y) - SHOULDER_FORWARD
    up = np.empty((2, len(tip)))  # of the wrist if the hand points down, of the tip if it leans
    np.subtract(z, SHOULDER_HEIGHT, out=up[1])
    np.add(up[1], HAND, out=up[0])
    (lift, leaning_lift), (bend, leaning_bend) = _two_links(forward, up)
    wrist = np.pi - lift - bend
    leans = wrist > _WRIST_LIMIT
    joints = np.empty((len(tip), 5))
    joints[:, 0] = pan
    joints[:, 1] = np.where(leans, leaning_lift, lift)
    np.subtract(np.where(leans, leaning_bend - _STIFF_ANGLE, bend), np.pi / 2, out=joints[:, 2])
    np.minimum(wrist, _WRIST_LIMIT, out=joints[:, 3])
    np.subtract(pan, turn, out=joints[:, 4])
    return joints


def _two_links(forward: Array, up: Array) -> tuple[Array, Array]:
    """Return the angle of the upper arm from the vertical and the bend of the next link, (2, n) each, for both cases.

    They follow from the law of cosines; that link ends at `forward` (n,) and `up` (2, n) from the shoulder.
    """
    cosine = (forward**2 + up**2 - UPPER_ARM**2 - _SECOND_SQUARED) / _TWICE_BOTH
    bend = np.arccos(np.minimum(np.maximum(cosine, -1.0), 1.0))
    return np.arctan2(forward, up) - np.arctan2(_SECOND * np.sin(bend), UPPER_ARM + _SECOND * np.cos(bend)), bend
