"""Show the commands of a try, sent or not, as lines of text and as a plot."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from textwrap import wrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tercet.arm.robot.calibration import KEYS
from tercet.arm.robot.control import JointArm, Tick
from tercet.arm.robot.devices import Observation
from tercet.arm.robot.safety import NAMES
from tercet.arm.sim import kinematics
from tercet.arm.sim.kinematics import JOINTS, Array
from tercet.arm.sim.motion import Limits
from tercet.runs.atomic import full_disk_named

_COUNT = len(JOINTS)
_COLOURS = {"policy": "#2f6fb5", "person": "#238050", "nobody": "#696c73"}


class DryRunArm:
    """An arm that is read but never moved; it reports every command as reached at once."""

    def __init__(self, arm: JointArm) -> None:
        self._arm = arm
        self._joints: Array | None = None

    def read(self) -> tuple[Array, Observation]:
        """Return the last command, or the real joints before the first, and the real observation."""
        joints, observation = self._arm.read()
        return (joints if self._joints is None else self._joints), observation

    def send(self, joints: Array) -> None:
        """Store the command."""
        self._joints = joints


def reading_lines(joints: Array, observation: Observation) -> Iterator[str]:
    """Yield lines that describe a reading: the finger tips, and each joint in the robot's and in our units."""
    x, y, z = 1000 * kinematics.forward(joints[None, :_COUNT]).tip[0]
    yield f"read: finger tips at x, y, z = {x:+.0f} {y:+.0f} {z:+.0f} mm, and these joints"
    for key, name, ours in zip(KEYS, NAMES, joints, strict=True):
        unit = f"{1000 * ours:+7.1f} mm of a finger" if name == NAMES[-1] else f"{np.degrees(ours):+7.1f} degrees"
        yield f"  {name:13}  the robot's {float(observation[key]):+8.2f}  ours {unit}"


def lines(ticks: Sequence[Tick], *, every: float = 0.5) -> Iterator[str]:
    """Yield a line every `every` seconds: who steers, and the commanded finger tips and joints.

    A line with the limits that changed commands since the last line follows. No line exceeds 80 characters.
    """
    yield "   time who    tip x, y, z (mm) turn finger joints (degrees)"
    due, reasons = 0.0, dict[str, None]()
    for tick in ticks:
        reasons |= dict.fromkeys(tick.reasons)
        if tick.seconds + 1e-6 < due and tick is not ticks[-1]:
            continue
        hand = kinematics.forward(tick.sent[None, :_COUNT])
        x, y, z = 1000 * hand.tip[0]
        joints = " ".join(f"{angle:+6.1f}" for angle in np.degrees(tick.sent[:_COUNT]))
        yield (
            f"{tick.seconds:5.2f} s {tick.who:6} {x:+5.0f}{y:+5.0f}{z:+5.0f}  {np.degrees(hand.turn[0]):+4.0f}"
            f"  {1000 * tick.sent[_COUNT]:2.0f} mm {joints}"
        )
        if reasons:
            yield from wrap(f"limits: {', '.join(reasons)}", 80, initial_indent=" " * 15, subsequent_indent=" " * 15)
        due, reasons = tick.seconds + every, {}


def plot(file: Path, ticks: Sequence[Tick], limits: Limits) -> None:
    """Draw a PNG: each joint as sent and measured with its limits, joint speeds, and the path of the finger tips."""
    figure = Figure(figsize=(13, 9), layout="constrained")
    axes = figure.subplots(3, 3)
    seconds = np.array([tick.seconds for tick in ticks])
    sent, measured = np.stack([tick.sent for tick in ticks]), np.stack([tick.measured for tick in ticks])
    for index, name in enumerate(NAMES):
        _joint(axes.flat[index], name, seconds, sent[:, index], measured[:, index], limits, index)
    before = np.stack([tick.before for tick in ticks])
    _speeds(axes.flat[6], seconds, (sent - before) / limits.period, limits)
    tips = kinematics.forward(sent[:, :_COUNT]).tip
    for panel, (across, along) in zip((7, 8), ((0, 1), (0, 2)), strict=True):
        _path(axes.flat[panel], tips, [tick.who for tick in ticks], limits, across, along)
    with full_disk_named(file):
        figure.savefig(file, dpi=110)


def _joint(axes: Axes, name: str, seconds: Array, sent: Array, measured: Array, limits: Limits, index: int) -> None:
    scale = np.degrees(1.0) if index < _COUNT else 1000.0
    axes.plot(seconds, scale * measured, color="#c2501f", linewidth=1, label="measured")
    axes.plot(seconds, scale * sent, color="#2f6fb5", linewidth=1.5, label="sent")
    for end in (limits.low[index], limits.high[index]):
        axes.axhline(scale * end, color="#b3261e", linewidth=0.8, linestyle="--")
    axes.set_title(f"{name} ({'degrees' if index < _COUNT else 'mm of a finger'})", fontsize=10)
    if not index:
        axes.legend(fontsize=8)


def _speeds(axes: Axes, seconds: Array, speeds: Array, limits: Limits) -> None:
    for index in range(_COUNT):
        axes.plot(seconds, np.degrees(speeds[:, index]), linewidth=1, label=NAMES[index])
    for sign in (-1, 1):
        axes.axhline(sign * np.degrees(limits.speed[0]), color="#b3261e", linewidth=0.8, linestyle="--")
    axes.set_title("speed as sent (degrees a second)", fontsize=10)
    axes.legend(fontsize=7)


def _path(axes: Axes, tips: Array, who: Sequence[str], limits: Limits, across: int, along: int) -> None:
    box = 1000 * limits.workspace
    corners = [0, 1, 1, 0, 0], [0, 0, 1, 1, 0]
    axes.plot(box[across][corners[0]], box[along][corners[1]], color="#b3261e", linewidth=0.8, linestyle="--")
    for name, colour in _COLOURS.items():
        rows = np.array([one == name for one in who])
        axes.plot(1000 * tips[rows, across], 1000 * tips[rows, along], ".", markersize=3, color=colour, label=name)
    axes.plot(*(1000 * tips[0, [across, along]]), "o", color="black", markersize=5, fillstyle="none")
    axes.set_title(f"finger tips, {'xyz'[across]} and {'xyz'[along]} (mm); o: where they begin", fontsize=10)
    axes.set_aspect("equal", adjustable="datalim")
    axes.legend(fontsize=7)
