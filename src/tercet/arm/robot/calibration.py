"""Conversion between a robot's motor units and joints in radians and metres, and its limits."""

from collections.abc import Mapping

import numpy as np

from tercet.arm.robot.safety import NAMES
from tercet.arm.sim.kinematics import JOINTS, Array
from tercet.arm.sim.motion import Limits, limits_of
from tercet.arm.sim.scene import OPENING
from tercet.config.robot import CalibrationConfig, JointConfig, RobotConfig
from tercet.errors import InputError

KEYS = tuple(f"{name}.pos" for name in NAMES)  # their names in LeRobot


def numbers_of(values: Mapping[str, object]) -> list[float]:
    """Return the joints of an observation or action in the robot's units. InputError if one is missing or no number."""
    numbers = []
    for key in KEYS:
        value = values.get(key)
        if not isinstance(value, (int, float, np.number)):
            names = ", ".join(sorted(values)) or "nothing"
            raise InputError(f"the robot's observation has no number {key} (it has {names}); use an SO-100 or SO-101")
        numbers.append(float(value))
    return numbers


def to_joints(values: Mapping[str, object], config: CalibrationConfig) -> Array:
    """Convert an observation or action to joints (6,). Raise InputError if a joint is missing or not a number."""
    numbers = numbers_of(values)
    joints = [_radians(value, joint) for value, joint in zip(numbers, _joints(config), strict=False)]
    grip = config.gripper
    return np.array([*joints, OPENING * (numbers[-1] - grip.closed) / (grip.wide - grip.closed)])


def to_values(joints: Array, config: CalibrationConfig) -> dict[str, float]:
    """Convert joints (6,) to the robot's units."""
    values = [
        np.degrees(angle) / c.degrees_per_unit + c.zero for angle, c in zip(joints, _joints(config), strict=False)
    ]
    grip = config.gripper
    values.append(grip.closed + joints[-1] / OPENING * (grip.wide - grip.closed))
    return {key: float(value) for key, value in zip(KEYS, values, strict=True)}


def limits(config: RobotConfig) -> Limits:
    """Return the limits of a config in radians, metres and seconds."""
    ends = np.array([[_radians(c.low, c), _radians(c.high, c)] for c in _joints(config.calibration)])
    return limits_of(config.safety, np.column_stack([ends.min(1), ends.max(1)]))


def _joints(config: CalibrationConfig) -> list[JointConfig]:
    return [getattr(config, name) for name in JOINTS]


def _radians(value: float, joint: JointConfig) -> float:
    return float(np.radians(joint.degrees_per_unit * (value - joint.zero)))
