"""The poses into which a person brings an SO-101 to calibrate it, and the points on the table that it then touches.

Four joints are read at both of their stops, which need no eye and no ruler: the middle of the two is the middle of the
range in the makers' model. The wrist's roll has no stops that count, and is compared with a picture.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tercet.arm.robot.safety import NAMES
from tercet.arm.sim import kinematics
from tercet.arm.sim.kinematics import JOINTS, Array
from tercet.arm.sim.scene import OPENING
from tercet.arm.sim.so101 import So101
from tercet.errors import InputError

Paper = Literal["a4", "letter"]
SHEETS: Mapping[Paper, tuple[float, float]] = {"a4": (0.297, 0.210), "letter": (0.2794, 0.2159)}  # metres
BASE_FRONT = 0.0258  # metres from the axis of the pan to the front of the base, in the makers' model
_JAW_STOP = 100.0  # per cent of the jaw's range, of which 0 is closed
_FOLDED = {"shoulder_lift": -60.0, "wrist_flex": -40.0}


@dataclass(frozen=True)
class Pose:
    """A pose in which `joint` is read. There it is at `at` in our units: radians, or metres of a finger.

    `joints` (6,) is the whole pose, as it is drawn; the other joints may be elsewhere.
    """

    key: str
    joint: str
    at: float
    joints: Array
    text: str


@dataclass(frozen=True)
class Touch:
    """A point (3,) on the table that the closed finger tips touch, and joints (6,) with which they do."""

    key: str
    point: Array
    joints: Array
    text: str


def sheet_of(name: str) -> Paper:
    """Return the sheet of this name. Raise InputError if there is none."""
    for paper in SHEETS:
        if paper == name:
            return paper
    raise InputError(f"--paper {name}: give {' or '.join(SHEETS)}")


def all_steps(arm: So101, paper: Paper) -> list["Pose | Touch"]:
    """Return the poses of every joint, then the touches that verify what follows from them."""
    return [*poses(arm), *touches(arm, paper)]


def poses(arm: So101) -> list[Pose]:
    """Return two poses for each joint, in the order in which a person goes through them."""
    low, high = np.degrees(arm.limits).T
    wide = arm.opening_at(_JAW_STOP)
    stops = [
        ("shoulder_pan", low[0], "turn the arm to its right (clockwise, seen from above) until it stops", {}),
        ("shoulder_pan", high[0], "turn the arm to its left until it stops", {}),
        ("shoulder_lift", low[1], "tilt the upper arm back until it stops, with the forearm up", {}),
        ("shoulder_lift", high[1], "tilt the upper arm forward and down until it stops", {"elbow_flex": -110.0}),
        ("elbow_flex", low[2], "stretch the elbow, up and back, until it stops", {"shoulder_lift": 60.0}),
        ("elbow_flex", high[2], "fold the forearm down towards the upper arm until it stops", _FOLDED),
        ("wrist_flex", low[3], "bend the hand up until it stops", {}),
        ("wrist_flex", high[3], "bend the hand down until it stops", {}),
        ("wrist_roll", 0.0, "point the hand forward and level, and roll it until the jaw opens to the arm's left", {}),
        ("wrist_roll", 90.0, "roll the hand by a quarter turn until the jaw opens upwards", {}),
    ]
    result = []
    for number, (joint, at, text, others) in enumerate(stops):
        angles = {**dict.fromkeys(JOINTS, 0.0), **others, joint: at}
        joints = np.append(np.radians([angles[name] for name in JOINTS]), OPENING)
        result.append(Pose(f"{joint}-{1 + number % 2}", joint, float(np.radians(at)), joints, text))
    for number, (at, text) in enumerate(((0.0, "close the jaw"), (wide, "open the jaw until it stops")), start=1):
        result.append(Pose(f"{NAMES[-1]}-{number}", NAMES[-1], at, np.append(np.zeros(len(JOINTS)), at), text))
    return result


_CORNERS = (
    ("left", 1.0, "touch its far left corner with the closed finger tips"),
    ("right", -1.0, "touch its far right corner with the closed finger tips"),
)


def touches(arm: So101, paper: Paper) -> list[Touch]:
    """Return three points on the far edge of a sheet whose long edge lies at the front of the base."""
    long, short = SHEETS[paper]
    lay = f"lay a sheet of {paper} paper with its long edge at the front of the base, centred; close the jaw, and touch"
    places = (("middle", 0.0, f"{lay} the middle of its far edge with the tips"), *_CORNERS)
    result = []
    for key, side, text in places:
        point = np.array([BASE_FRONT + short, side * long / 2, 0.0])
        tip = point[None] - arm.aside(np.zeros(1), np.zeros(1))
        joints = np.append(kinematics.inverse(tip, np.zeros(1))[0], 0.0)
        result.append(Touch(f"touch-{key}", point, joints, text))
    return result
