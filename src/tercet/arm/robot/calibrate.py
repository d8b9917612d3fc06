"""Find the zeros and signs of an SO-101: a person poses it joint by joint, and touches points on the table.

Torque is off throughout and nothing is sent. Every reading is stored at once, so that a session can be stopped.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tercet import strict_json
from tercet.arm.robot.calibration import to_joints
from tercet.arm.robot.control import Clock
from tercet.arm.robot.devices import LimpArm
from tercet.arm.robot.poses import Paper, Pose, Touch, all_steps
from tercet.arm.robot.safety import NAMES
from tercet.arm.sim import kinematics
from tercet.arm.sim.kinematics import JOINTS, Array
from tercet.arm.sim.scene import OPENING
from tercet.arm.sim.so101 import So101
from tercet.config.load import load_robot_config
from tercet.config.robot import CalibrationConfig, GripperConfig, JointConfig, RobotConfig
from tercet.errors import FailedError, InputError
from tercet.runs.atomic import write_text

READ, BACK, QUIT = "g", "b", "q"
KEYS_HELP = "keys: g reads the pose, b goes back by one, q stops; what was read is kept"
_NUM_READINGS = 10
_BETWEEN = 0.05  # seconds
_SHAKE = 1.0  # degrees, or per cent of the gripper, by which a joint may move while it is read
_TURN = (0.75, 1.3)  # measured over expected way between two poses: a real range of a joint is up to 10% wider
_NEAR = 0.015  # metres between a touched point and the computed finger tips
_MOST_TRIES = 3
_MARGIN = 1.0  # degrees from a stop to the limit of what may be sent
_BY_EYE = 5.0  # the same for the wrist's roll, which is not read at its stops
_NARROWER = 2.0  # degrees by which a person's own limit must differ from what the stops allow to be mentioned
_ONE_TURN = 180.0  # degrees; a servo counts from -180 to 180

Show = Callable[[Pose | Touch], None]  # draws a pose, and may bring a simulated arm into it


@dataclass
class Readings:
    """What was read so far, in the robot's units: (6,) by the key of its pose. `about` names the robot."""

    file: Path
    about: dict[str, str]
    paper: Paper
    values: dict[str, list[float]] = field(default_factory=dict)

    @classmethod
    def open(cls, file: Path, config: RobotConfig, paper: Paper) -> "Readings":
        """Read the file of an earlier session, if there is one. InputError if it is of another robot."""
        about = {"robot": config.robot, "id": config.id, "paper": paper}
        if not file.exists():
            return cls(file, about, paper)
        try:
            tree: Any = strict_json.loads(file.read_bytes())  # Any: JSON
            before, values = tree["about"], {key: _row(row) for key, row in tree["values"].items()}
        except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
            raise InputError(f"{file}: cannot be read as the readings of a calibration; delete it") from error
        if before != about:
            raise InputError(f"{file}: readings of {before}, not of {about}; give these again, or delete the file")
        return cls(file, about, paper, values)

    def kept(self) -> str:
        """Say how much is stored, for a person who stops here."""
        return f"readings kept: {len(self.values)}; the same command goes on with the next"

    def add(self, key: str, row: Array) -> None:
        """Store a reading."""
        self.values[key] = row.tolist()
        self._write()

    def drop(self, *keys: str) -> None:
        """Remove readings."""
        for key in keys:
            self.values.pop(key, None)
        self._write()

    def _write(self) -> None:
        write_text(self.file, json.dumps({"about": self.about, "values": self.values}, indent=1) + "\n")


def _row(numbers: list[float]) -> list[float]:
    if len(numbers) != len(NAMES):
        raise ValueError("a reading must have six numbers")
    return [float(number) for number in numbers]


def run(
    config: RobotConfig,
    arm: LimpArm,
    readings: Readings,
    *,
    keys: Callable[[], str],
    clock: Clock,
    say: Callable[[str], None],
    show: Show,
) -> CalibrationConfig:
    """Go through all poses and touches that were not read yet, and return the calibration.

    Raise KeyboardInterrupt if the person stops, FailedError if a joint or a touch stays implausible.
    """
    model = So101()
    steps = all_steps(model, readings.paper)
    refused = Counter[str]()
    say(KEYS_HELP)
    while (step := next((one for one in steps if one.key not in readings.values), None)) is not None:
        say(f"{steps.index(step) + 1} of {len(steps)}: {step.text}")
        show(step)
        pressed = _wait(keys, clock)
        if pressed == QUIT:
            raise KeyboardInterrupt(readings.kept())
        if pressed == BACK:
            if readings.values:
                readings.drop(list(readings.values)[-1])
            continue
        row = _steady(arm, config.calibration, clock, say)
        if QUIT in keys():  # the others that were typed meanwhile are not meant for the next pose
            raise KeyboardInterrupt(readings.kept())
        if row is None:
            continue
        if isinstance(step, Pose) and step.key.endswith("2"):
            values = {**readings.values, step.key: row.tolist()}
            problem = _problem(step.joint, steps, values, config.calibration)
            if problem:  # it is not stored before this check, so that a kill here leaves no unchecked pair
                say(problem)
                refused[step.joint] += 1
                readings.drop(f"{step.joint}-1")
                if refused[step.joint] == _MOST_TRIES:
                    raise FailedError(f"{problem}. It was read {_MOST_TRIES} times; look at this joint and its cable")
                continue
        readings.add(step.key, row)
    found = solve([one for one in steps if isinstance(one, Pose)], readings, config.calibration, say)
    _verify(model, [one for one in steps if isinstance(one, Touch)], readings, found, say)
    return found


def solve(
    steps: list[Pose], readings: Readings, before: CalibrationConfig, say: Callable[[str], None]
) -> CalibrationConfig:
    """Return the calibration that follows from two readings of each joint."""
    model = So101()
    parts: dict[str, JointConfig | GripperConfig] = {}
    for index, name in enumerate(NAMES):
        one, two = (step for step in steps if step.joint == name)
        first, second = (readings.values[step.key][index] for step in (one, two))
        if name not in JOINTS:
            wide = first + (second - first) * OPENING / two.at
            parts[name] = GripperConfig(closed=round(first, 2), wide=round(wide, 2))
            continue
        old: JointConfig = getattr(before, name)
        scale = float(np.copysign(old.degrees_per_unit, (two.at - one.at) * (second - first)))
        zero = (first + second) / 2 - np.degrees(one.at + two.at) / 2 / scale
        ends = np.sort(zero + np.degrees(model.limits[index]) / scale)
        if name == "wrist_roll":
            ends += np.array([_BY_EYE, -_BY_EYE]) / abs(scale)
            if abs(scale) == 1.0:
                ends = np.clip(ends, -_ONE_TURN, _ONE_TURN)
        else:
            margin = _MARGIN / abs(scale)
            ends = np.clip(ends, min(first, second) + margin, max(first, second) - margin)
        if _has_own_limits(old, name):
            ends = _within(ends, old, abs(scale), name, say)
        numbers = {"zero": zero, "degrees_per_unit": scale, "low": ends[0], "high": ends[1]}
        parts[name] = JointConfig(**{key: round(float(value), 2) for key, value in numbers.items()})
    return CalibrationConfig.model_validate({name: part.model_dump() for name, part in parts.items()})


def _has_own_limits(joint: JointConfig, name: str) -> bool:
    """Return True if the limits are neither those of the preset nor the default: a person has chosen them."""
    others = (getattr(load_robot_config("so101", []).calibration, name), JointConfig())
    return all((joint.low, joint.high) != (other.low, other.high) for other in others)


def _within(ends: Array, own: JointConfig, scale: float, name: str, say: Callable[[str], None]) -> Array:
    """Return what the stops allow (2,) of a person's own limits, and say what these leave out."""
    chosen = f"{name}: the file has its own limits, {own.low:g} to {own.high:g}, and the stops allow"
    if min(ends[1], own.high) <= max(ends[0], own.low):
        say(f"{chosen} {ends[0]:.1f} to {ends[1]:.1f}; these replace them")
        return ends
    kept = np.clip((own.low, own.high), *ends)
    if scale * np.abs(kept - ends).max() > _NARROWER:
        say(
            f"{chosen} {ends[0]:.1f} to {ends[1]:.1f}; {kept[0]:.1f} to {kept[1]:.1f} stays. If lerobot-calibrate was "
            "run since, its numbers mean other angles: take low and high out of the file, and calibrate again"
        )
    return kept


def write(file: Path, config: RobotConfig, found: CalibrationConfig) -> None:
    """Write a robot's file with this calibration. The file that was there is kept beside it, with `.old` at its end."""
    if file.exists():
        write_text(file.with_name(f"{file.name}.old"), file.read_text(encoding="utf-8"))
    tree = config.model_copy(update={"calibration": found}).model_dump(mode="json", exclude_defaults=True)
    write_text(file, f"# written by tercet arm calibrate\n{yaml.safe_dump(tree, sort_keys=False)}")


def differences(before: CalibrationConfig, after: CalibrationConfig) -> Iterator[str]:
    """Yield a line for each number that changes."""
    for name in NAMES:
        old, new = getattr(before, name), getattr(after, name)
        for key in type(old).model_fields:
            if getattr(old, key) != getattr(new, key):
                yield f"  {name:13} {key:16} {getattr(old, key):+8.2f} -> {getattr(new, key):+8.2f}"


def _wait(keys: Callable[[], str], clock: Clock) -> str:
    while True:
        pressed = keys()
        for key in (QUIT, BACK, READ):
            if key in pressed:
                return key
        clock.wait_until(clock.now() + 0.1)


def _steady(arm: LimpArm, before: CalibrationConfig, clock: Clock, say: Callable[[str], None]) -> Array | None:
    """Return the mean (6,) of several readings, or None if the arm moved meanwhile."""
    rows = []
    for _ in range(_NUM_READINGS):
        rows.append(arm.values())
        clock.wait_until(clock.now() + _BETWEEN)
    wrong = next((row for row in rows if not np.isfinite(row).all()), None)
    if wrong is not None:
        raise FailedError(f"the robot gave {wrong.tolist()}, which are not all numbers; check power and cable")
    moved = np.ptp(np.stack(rows), axis=0) * _degrees_per_unit(before)
    worst = int(moved.argmax())
    if moved[worst] > _SHAKE:
        say(f"{NAMES[worst]} moved by {moved[worst]:.1f} degrees while it was read; hold it still and press g again")
        return None
    return np.stack(rows).mean(0)


def _degrees_per_unit(config: CalibrationConfig) -> Array:
    """Return (6,): degrees, or per cent of the way from closed to wide for the gripper, positive."""
    grip = 100 / (config.gripper.wide - config.gripper.closed)
    return np.abs([*(getattr(config, name).degrees_per_unit for name in JOINTS), grip])


def _problem(joint: str, steps: list[Pose | Touch], values: dict[str, list[float]], before: CalibrationConfig) -> str:
    """Say why the two readings of a joint cannot be right, or return an empty string."""
    one, two = (step for step in steps if isinstance(step, Pose) and step.joint == joint)
    index = NAMES.index(joint)
    ways = np.subtract(values[two.key], values[one.key])
    unit = _degrees_per_unit(before)[index]
    expected = np.degrees(two.at - one.at) if joint in JOINTS else 100 * two.at / OPENING
    share = abs(ways[index]) * unit / expected
    if _TURN[0] <= share <= _TURN[1]:
        return ""
    return (
        f"{joint} was read at {values[one.key][index]:.1f} and {values[two.key][index]:.1f} of the "
        f"robot's units, {share:.0%} of the way between the two poses; {_remedy(joint, share, ways, unit)}"
    )


def _remedy(joint: str, share: float, ways: Array, unit: float) -> str:
    others = [name for name, way in zip(NAMES, ways, strict=True) if name != joint and abs(way) > 45]
    if share < _TURN[0] and others:
        return f"{' and '.join(others)} moved instead: turn the joint that is marked in the picture, in both poses"
    if share > 2 and unit == 1.0:
        return "the servo passed the end of its count; run lerobot-calibrate again with this joint in its middle"
    return "bring it into both poses again; if it was there, correct its degrees_per_unit (or wide) in the file"


def _verify(
    model: So101, steps: list[Touch], readings: Readings, found: CalibrationConfig, say: Callable[[str], None]
) -> None:
    """Compare the computed finger tips with the touched points. FailedError if one is far away."""
    joints = np.stack([_joints(readings.values[step.key], found) for step in steps])
    missed = _tips(model, joints) - np.stack([step.point for step in steps])
    distances = np.linalg.norm(missed, axis=1)
    for step, distance, way in zip(steps, distances, missed, strict=True):
        x, y, z = 1000 * way
        where = step.key.replace("touch-", "touched ")
        say(f"{where}: computed {1000 * distance:.0f} mm away (x, y, z: {x:+.0f} {y:+.0f} {z:+.0f})")
    if distances.max() <= _NEAR:
        return
    joint, degrees = _suspect(model, joints, missed)
    readings.drop(f"{joint}-1", f"{joint}-2", *(step.key for step in steps))
    raise FailedError(
        f"the finger tips were computed {1000 * distances.max():.0f} mm away from a point that they touched (at most "
        f"{1000 * _NEAR:.0f}); an error of {degrees:+.1f} degrees in {joint} explains most of it. Its readings and the "
        "touches are dropped: give the same command again to read them anew. Nothing was written"
    )


def _joints(row: list[float], config: CalibrationConfig) -> Array:
    return to_joints({f"{name}.pos": value for name, value in zip(NAMES, row, strict=True)}, config)


def _tips(model: So101, joints: Array) -> Array:
    """Return the middle between the closed finger tips (n, 3)."""
    hand = kinematics.forward(joints[:, : len(JOINTS)])
    return hand.tip + model.aside(hand.turn, np.zeros(len(joints)))


def _suspect(model: So101, joints: Array, missed: Array) -> tuple[str, float]:
    """Return the joint whose zero explains most of what was missed, and its error in degrees."""
    small, best = 1e-4, ("", 0.0, np.inf)
    for index, name in enumerate(JOINTS):
        moved = joints.copy()
        moved[:, index] += small
        slope = ((_tips(model, moved) - _tips(model, joints)) / small).ravel()
        error = float(slope @ missed.ravel() / max(slope @ slope, 1e-12))
        left = float(np.linalg.norm(missed.ravel() - error * slope))
        if left < best[2]:
            best = (name, float(np.degrees(error)), left)
    return best[0], best[1]
